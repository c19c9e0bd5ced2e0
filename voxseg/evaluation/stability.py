"""Relative stability: how much a network minds a smooth deformation, against noise of the same size.

Petrini, Favero, Geiger and Wyart (2021), arXiv 2105.02468, define R_f = D_f / G_f for classification, where the output
is to stay as it is. The output of a segmentation is to deform with the input, so that

    D_f = <|f(tau x) - tau f(x)|^2>,    G_f = <|f(x + eta) - f(x)|^2>,

where eta is Gaussian noise with |eta| = |tau x - x|. Below 1 the network minds a deformation less than noise. Both are
divided by the squared deviation of f(x) within the tissue, which cancels in R_f. f are logits: probabilities would hide
every change where a network is sure, and more so the longer it was trained. Of exclusive classes only differences of
logits mean something, so that the mean over the classes is taken out.

The analogue for rotations has a rotation in place of tau.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.normalise import foreground_threshold
from voxseg.data.resample import affine_points, interpolate_at
from voxseg.evaluation.deformation import draw_deformation
from voxseg.testing import rotation_matrix

__all__ = ["Measured", "StabilityInput", "Warp", "deform", "middle_cube", "relative_stability", "turn"]

LARGEST = 96
"""Voxels along each side of what the network is shown, at most."""

MULTIPLE = 8
EDGE = (0.8, 1.0)
"""Where what is turned fades to empty space, as fractions of the radius of the ball in the cube."""
BALL = 0.75
"""Outputs of a rotation are compared within this fraction of that radius."""

Function = Callable[[Tensor], Tensor]
Warp = Callable[[Tensor], Tensor]
"""`[C, X, Y, Z]` to the same shape."""


@dataclass(frozen=True)
class Measured:
    """One draw of the deformation (or rotation) and of the noise.

    Attributes:
        deformation: |f(tau x) - tau f(x)|^2 over the squared deviation of f(x); D_f is the median over draws.
        noise: the same of |f(x + eta) - f(x)|^2; G_f likewise.
    """

    deformation: float
    noise: float


@dataclass(frozen=True, eq=False)
class StabilityInput:
    """What a network is shown.

    Attributes:
        image: `[C, N, N, N]`, as prepared for it.
        tissue: `[N, N, N]` bool, where outputs are compared.
        spacing: mm.
    """

    image: Tensor
    tissue: NDArray[np.bool_]
    spacing: float


def middle_cube(image: Tensor, scales: Sequence[str], spacing: float) -> StabilityInput:
    """The cube about the middle of the tissue, of `LARGEST` voxels at most, with empty space where it hangs over.

    Args:
        image: `[C, X, Y, Z]` as `prepare` gives it, 0 where there is nothing.
        scales: `ImageConfig.scale` of each channel.
        spacing: mm.
    """
    tissue = np.zeros(image.shape[1:], dtype=bool)
    for channel, scale in zip(image, scales, strict=True):
        values = channel.numpy()
        tissue |= values != 0 if scale == "zscore" else values > np.float32(foreground_threshold(channel))
    tissue = ndimage.binary_fill_holes(tissue)
    if not tissue.any():
        tissue[...] = True
    side = max(MULTIPLE, min(max(image.shape[1:]), LARGEST) // MULTIPLE * MULTIPLE)
    corner = [round(c - (side - 1) / 2) for c in ndimage.center_of_mass(tissue)]
    cube, inside = torch.zeros(len(image), side, side, side), np.zeros((side,) * 3, dtype=bool)
    source = tuple(slice(max(c, 0), max(min(c + side, n), 0)) for c, n in zip(corner, tissue.shape, strict=True))
    target = tuple(slice(s.start - c, s.stop - c) for s, c in zip(source, corner, strict=True))
    cube[:, target[0], target[1], target[2]] = image[:, source[0], source[1], source[2]]
    inside[target] = tissue[source]
    return StabilityInput(cube, inside, spacing)


def deform(shown: StabilityInput, rms: float, random: np.random.Generator) -> Warp:
    """A deformation of maximal entropy of that root mean square displacement (mm) within the tissue."""
    x, y, z = shown.tissue.shape
    field = Geometry((x, y, z), np.diag([shown.spacing] * 3 + [1.0]))
    deformation = draw_deformation(field, shown.tissue, rms, random)
    points = torch.from_numpy(np.concatenate([p for _, p in deformation.sources(field)])).float()
    return lambda image: interpolate_at(image[None], points.clamp(min=0).minimum(_last(image)))


def turn(shown: StabilityInput, axis: Sequence[float], degrees: float) -> tuple[StabilityInput, Warp]:
    """A rotation about the middle, and the input faded out to the ball that it turns within."""
    side = shown.image.shape[1]
    middle = (side - 1) / 2
    offset = np.arange(side) - middle
    radius = np.sqrt(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2) / (side / 2)
    fade = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - EDGE[0]) / (EDGE[1] - EDGE[0]), 0, 1))
    faded = shown.image * torch.from_numpy(fade).float()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(axis, degrees).numpy().T
    matrix[:3, 3] = middle - matrix[:3, :3] @ np.full(3, middle)
    points = affine_points(matrix, (range(side),) * 3)
    inside = StabilityInput(faded, shown.tissue & (radius <= BALL), shown.spacing)
    return inside, lambda image: interpolate_at(image[None], points)


@torch.no_grad()
def relative_stability(
    function: Function, shown: StabilityInput, warp: Warp, random: np.random.Generator, exclusive: bool = True
) -> Measured:
    """One draw of D_f and G_f.

    Args:
        function: `[1, C, X, Y, Z]` to logits `[1, K, X, Y, Z]`.
        shown: its input.
        warp: the deformation, for the input and for the output.
        random: decides the noise.
        exclusive: whether the outputs are classes that exclude each other, and not regions.

    Returns:
        Both; NaN where the output is constant.
    """

    def f(image: Tensor) -> Tensor:
        logits = function(image[None])[0].float().cpu()
        return logits - logits.mean(0, keepdim=True) if exclusive else logits

    image, inside = shown.image, torch.from_numpy(shown.tissue)
    upright, warped = f(image), warp(image)
    length = float((warped - image).norm())
    noise = torch.from_numpy(random.standard_normal(tuple(image.shape), dtype=np.float32))
    noise *= length / float(noise.norm())
    there = upright[:, inside]
    scale = float((there - there.mean(1, keepdim=True)).square().sum())
    if scale == 0:
        return Measured(math.nan, math.nan)
    by_warp = float((f(warped) - warp(upright))[:, inside].square().sum())
    by_noise = float((f(image + noise) - upright)[:, inside].square().sum())
    return Measured(by_warp / scale, by_noise / scale)


def _last(image: Tensor) -> Tensor:
    return torch.tensor(image.shape[1:], dtype=torch.float32) - 1
