"""What scanners and protocols do to an image: noise, shading, blur, thick slices, contrast, a cut field of view.

Intensities are changed between the levels that `Levels` finds. A background that was set to one value, as in
skull-stripped scans, stays at it: the scanner's noise was there before the brain was cut out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxseg.data.geometry import Geometry
from voxseg.evaluation.subject import Levels

__all__ = [
    "SIDES",
    "add_noise",
    "bend",
    "blur",
    "coarsen_grid",
    "coarsen_image",
    "coarsen_labels",
    "crop_grid",
    "cut_box",
    "invert",
    "shade",
]

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations
WAVES = 4
WAVELENGTH = (150.0, 400.0)  # mm: what receive coils leave
FORGIVEN = 0.01  # of a slice, by which a grid may fall short: rounding in headers
DARKEST = 0.05  # of the range: what the brightest tissue becomes when it is inverted, as it is still no air

SIDES = {
    "left": (0, False),
    "right": (0, True),
    "posterior": (1, False),
    "anterior": (1, True),
    "inferior": (2, False),
    "superior": (2, True),
}
"""For each side of the body the canonical axis across it, and whether it is the upper end."""

Image = NDArray[np.float32]


def add_noise(data: NDArray[Any], levels: Levels, fraction: float, random: np.random.Generator) -> Image:
    """Noise of a standard deviation of `fraction` of the intensity range.

    Rician where the image is a magnitude, |s + n1 + i n2| with the signal s above empty space; Gaussian where it has
    values below empty space (CT, z-scores).

    Args:
        data: `[X, Y, Z]`.
        levels: of the image.
        fraction: at least 0.
        random: decides the noise, the same for each fraction.
    """
    signal = np.asarray(data, dtype=np.float32) - np.float32(levels.low)
    sigma = np.float32(fraction * levels.range)
    first = random.standard_normal(signal.shape, dtype=np.float32)
    if float(signal.min()) < 0:
        signal += sigma * first
    else:
        signal = np.hypot(signal + sigma * first, sigma * random.standard_normal(signal.shape, dtype=np.float32))
    return _finish(data, signal, levels)


def shade(
    data: NDArray[Any], geometry: Geometry, levels: Levels, strength: float, random: np.random.Generator
) -> Image:
    """A smooth gain between 1 / (1 + strength) and 1 + strength within the tissue: the bias field of a coil.

    Its logarithm is a sum of plane waves of 150 to 400 mm.

    Args:
        data: `[X, Y, Z]`.
        geometry: its grid.
        levels: of the image.
        strength: largest deviation of the gain from 1.
        random: decides the field, the same for each strength.
    """
    direction = random.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    low, high = WAVELENGTH
    waves = 2 * math.pi * direction / (low * (high / low) ** random.random((WAVES, 1)))
    phases = 2 * math.pi * random.random(WAVES)
    steps = waves @ geometry.affine[:3, :3]  # radians a voxel
    field = np.zeros(data.shape, dtype=np.float32)
    for step, phase in zip(steps, phases, strict=True):
        x, y, z = (np.exp(1j * s * (np.arange(n) - (n - 1) / 2)) for s, n in zip(step, data.shape, strict=True))
        plane = (np.exp(1j * phase) * x)[:, None] * y
        field += np.real(plane[:, :, None] * z).astype(np.float32)
    inside = field[levels.tissue] if levels.tissue.any() else field
    least, most = float(inside.min()), float(inside.max())
    field = (field - (least + most) / 2) / max((most - least) / 2, 1e-6)
    gain = np.exp(np.clip(field, -2, 2) * math.log1p(strength)).astype(np.float32)
    return _finish(data, (np.asarray(data, dtype=np.float32) - np.float32(levels.low)) * gain, levels)


def blur(data: NDArray[Any], geometry: Geometry, fwhm: float) -> Image:
    """A Gaussian blur of the same width in all directions.

    Args:
        data: `[X, Y, Z]`.
        geometry: its grid.
        fwhm: full width at half maximum, mm.
    """
    sigma = [fwhm / FWHM / step for step in geometry.spacing]
    return np.asarray(ndimage.gaussian_filter(np.asarray(data, dtype=np.float32), sigma, mode="nearest"))


def invert(data: NDArray[Any], levels: Levels) -> Image:
    """Bright tissue dark and dark tissue bright; air stays as it is."""
    signal = np.asarray(data, dtype=np.float32) - np.float32(levels.low)
    turned = np.maximum(np.float32((1 + DARKEST) * levels.range) - signal, np.float32(DARKEST * levels.range))
    return _finish(data, np.where(levels.tissue, turned, signal), levels)


def bend(data: NDArray[Any], levels: Levels, gamma: float) -> Image:
    """The intensity scale bent by an exponent: ``range (signal / range)^gamma``; what is below empty space stays."""
    share = (np.asarray(data, dtype=np.float32) - np.float32(levels.low)) / np.float32(levels.range)
    bent = np.where(share > 0, np.maximum(share, 0) ** np.float32(gamma), share)
    return _finish(data, bent * np.float32(levels.range), levels)


def coarsen_image(data: NDArray[Any], geometry: Geometry, size: tuple[float, float, float]) -> Image:
    """An image as thicker slices or larger voxels show it: the mean over each, on `coarsen_grid`.

    Args:
        data: `[X, Y, Z]`.
        geometry: its grid.
        size: mm of the new voxels along the stored axes; axes on which it is no larger stay as they are.

    Returns:
        `[X', Y', Z']` float32.
    """
    result = np.asarray(data, dtype=np.float32)
    for axis, weights in enumerate(_averages(geometry, size)):
        if weights is not None:
            result = _along(result, weights, axis)
    return result


def coarsen_labels(
    classes: NDArray[np.uint8], geometry: Geometry, size: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """The class with the largest share of each new voxel, as an annotator of the coarse scan would see it.

    Args:
        classes: dense class indices `[X, Y, Z]`.
        geometry: their grid.
        size: as for `coarsen_image`.

    Returns:
        `[X', Y', Z']` uint8; of equal shares the lowest index.
    """
    best: Image | None = None
    result = np.zeros(coarsen_grid(geometry, size).shape, dtype=np.uint8)
    for k in np.flatnonzero(np.bincount(classes.ravel(), minlength=1)):
        share = coarsen_image(classes == k, geometry, size)
        if best is None:
            best, result = share, np.full(share.shape, k, dtype=np.uint8)
        else:
            larger = share > best + 1e-5
            result[larger] = k
            best = np.maximum(best, share)
    return result


def coarsen_grid(geometry: Geometry, size: tuple[float, float, float]) -> Geometry:
    """The grid of larger voxels about the same middle that covers the field of view.

    Args:
        geometry: of the scan.
        size: mm of the new voxels along the stored axes; axes on which it is no larger stay as they are.
    """
    shape, scale = [], []
    for count, step, wanted in zip(geometry.shape, geometry.spacing, size, strict=True):
        shape.append(_slices(count, step, wanted) if wanted > step else count)
        scale.append(max(wanted / step, 1.0))
    affine = geometry.affine.copy()
    affine[:3, :3] = affine[:3, :3] * scale
    middle = geometry.to_world((np.array(geometry.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    x, y, z = shape
    return Geometry((x, y, z), affine)


def cut_box(
    geometry: Geometry, like: Geometry, box: tuple[slice, slice, slice], side: str, fraction: float
) -> tuple[slice, slice, slice]:
    """What is left of a field of view that ends early on one side.

    Args:
        geometry: of the image that is cut.
        like: of the first image of the case.
        box: of the tissue in that one, stored axes.
        side: one of `SIDES`; as far as the axes of the grid point there.
        fraction: of the tissue's length from there that is lost.

    Returns:
        The part of each stored axis of the image that is left, which is at least one voxel.
    """
    axis, upper = SIDES[side]
    stored, flipped = like.permutation[axis], like.flips[axis]
    low, high = box[stored].start - 0.5, box[stored].stop - 0.5
    at_end = upper != flipped  # of the stored axis
    place = (np.array(like.shape) - 1) / 2
    place[stored] = high - fraction * (high - low) if at_end else low + fraction * (high - low)
    index = np.linalg.inv(geometry.affine) @ np.append(like.to_world(place), 1)
    own, own_flipped = geometry.permutation[axis], geometry.flips[axis]
    last = geometry.shape[own]
    boundary = int(np.clip(np.rint(index[own] + 0.5), 0, last))
    parts = [slice(0, n) for n in geometry.shape]
    keep_low = upper != own_flipped
    parts[own] = slice(0, max(boundary, 1)) if keep_low else slice(min(boundary, last - 1), last)
    return parts[0], parts[1], parts[2]


def crop_grid(geometry: Geometry, box: tuple[slice, slice, slice]) -> Geometry:
    """The grid of a box of voxels."""
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world(np.array([part.start for part in box]))
    x, y, z = (part.stop - part.start for part in box)
    return Geometry((x, y, z), affine)


def _finish(data: NDArray[Any], signal: Image, levels: Levels) -> Image:
    """Intensities from the signal above empty space; a background of one value is what it was."""
    result = signal + np.float32(levels.low)
    if levels.empty is not None:
        result[data == levels.empty] = levels.empty
    return result


def _slices(count: int, step: float, size: float) -> int:
    return max(1, math.ceil(count * step / size - FORGIVEN))


def _averages(geometry: Geometry, size: tuple[float, float, float]) -> list[Image | None]:
    """For each axis the weights `[slices, voxels]` of the voxels in a slice, None for an axis that stays.

    A voxel counts by the length of it that lies in the slice; slices that hang over the end of the scan are means of
    what there is.
    """
    result: list[Image | None] = []
    for count, step, wanted in zip(geometry.shape, geometry.spacing, size, strict=True):
        if wanted <= step:
            result.append(None)
            continue
        slices = _slices(count, step, wanted)
        edges = (count * step - slices * wanted) / 2 + np.arange(slices + 1) * wanted
        low, high = np.arange(count) * step, (np.arange(count) + 1) * step
        overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
        weights = np.maximum(overlap, 0)
        result.append((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    return result


def _along(array: Image, weights: Image, axis: int) -> Image:
    """The array with one axis taken through a matrix."""
    return np.ascontiguousarray(np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis))
