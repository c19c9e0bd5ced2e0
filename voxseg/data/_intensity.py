"""What a generated scan looks like: tissue intensities, texture, shading, noise, air and resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from voxseg.data._spatial import uniform

WHITE = 255.0
"""Top of the intensity scale on which the T1 prior is given."""


@dataclass(frozen=True)
class Tissue:
    """Intensities of each row of the label table.

    Attributes:
        mean: float32 [R]; 0 for air.
        deviation: float32 [R]; 0 for air.
        texture: how the deviation is shared out among fine to coarse texture, float32 [S, R], squares sum to 1.
    """

    mean: Tensor
    deviation: Tensor
    texture: Tensor


@dataclass(frozen=True)
class Shading:
    """A smooth positive gain: the exponential of a few cosine waves over the head.

    Attributes:
        waves: wave vectors per map voxel, [K, 3].
        phases: [K].
        amplitudes: [K], of the logarithm.
    """

    waves: Tensor
    phases: Tensor
    amplitudes: Tensor

    def at(self, position: Tensor) -> Tensor:
        """The gain [N] at map coordinates [N, 3]."""
        angle = position @ self.waves.T.to(position) + self.phases.to(position)
        return (angle.cos() @ self.amplitudes.to(position)).exp()


def smooth3(volume: Tensor, sigma: float) -> Tensor:
    """Blur [X, Y, Z] by `sigma` voxels with the three-tap kernel of that variance, repeated where it is wide."""
    passes = max(1, math.ceil(sigma**2 / 0.5))
    side = sigma**2 / passes / 2
    for _ in range(passes):
        for axis in range(3):
            n = volume.shape[axis]
            if n < 2:
                continue
            result = volume * (1 - 2 * side)
            result.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1), alpha=side)
            result.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1), alpha=side)
            result.narrow(axis, 0, 1).add_(volume.narrow(axis, 0, 1), alpha=side)
            result.narrow(axis, n - 1, 1).add_(volume.narrow(axis, n - 1, 1), alpha=side)
            volume = result
    return volume


def smooth_widely(volumes: Tensor, sigma: float) -> Tensor:
    """Volumes [N, X, Y, Z] blurred by `sigma` voxels, more than one: on half the voxels of each axis, to be quick."""
    x, y, z = volumes.shape[1:]
    half = functional.avg_pool3d(volumes[None], 2, ceil_mode=True)[0]
    half = torch.stack([smooth3(volume, sigma / 2) for volume in half])
    size = [2 * n for n in half.shape[1:]]
    fine = functional.interpolate(half[None], size=size, mode="trilinear", align_corners=False)[0]
    return fine[:, :x, :y, :z]


def smooth_noise(shape: tuple[int, ...], scale: int, random: torch.Generator) -> Tensor:
    """Noise of unit deviation and zero mean that is smooth over about `scale` voxels, [X, Y, Z]."""
    nodes = [max(2, math.ceil(n / scale) + 1) for n in shape]
    noise = torch.randn((1, 1, *nodes), generator=random, device=random.device)
    if scale == 1:
        return noise[0, 0, : shape[0], : shape[1], : shape[2]]
    size = [(n - 1) * scale for n in nodes]
    fine = functional.interpolate(noise, size=size, mode="trilinear", align_corners=False)[0, 0]
    # Linear interpolation averages neighbours: each axis leaves about 2/3 of the variance.
    return fine[: shape[0], : shape[1], : shape[2]] * 1.5**1.5


def stripes(wave: Tensor, bend: Tensor) -> Tensor:
    """Parallel waves between -1 and 1 with the wave vector `wave`, radians per voxel [3], bent by a phase [X, Y, Z]."""
    x, y, z = (float(k) * torch.arange(n, device=bend.device) for k, n in zip(wave, bend.shape, strict=True))
    return (x[:, None, None] + y[:, None] + z + bend).cos()


def low_resolution(scan: Tensor, axis: int, factor: float) -> Tensor:
    """A scan [X, Y, Z] as if measured in slices `factor` voxels thick along one axis, interpolated back linearly."""
    moved = scan.movedim(axis, -1)
    shape = moved.shape
    slices = max(2, round(shape[-1] / factor))
    flat = moved.reshape(1, -1, shape[-1])
    thick = functional.interpolate(flat, size=slices, mode="area")
    back = functional.interpolate(thick, size=shape[-1], mode="linear", align_corners=False)
    return back.reshape(shape).movedim(-1, axis)


def draw_shading(random: torch.Generator, strength: float, spacing: Tensor) -> Shading:
    """A gain whose logarithm has a deviation of up to `strength`; wavelengths of 120 to 600 mm."""
    count = 4
    direction = torch.randn(count, 3, generator=random)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
    wavelength = 120 * 5 ** torch.rand(count, 1, generator=random)
    waves = 2 * math.pi * direction / wavelength * spacing
    phases = 2 * math.pi * torch.rand(count, generator=random)
    amplitudes = torch.randn(count, generator=random).abs()
    amplitudes = amplitudes / amplitudes.norm() * math.sqrt(2) * uniform(random, 0, strength)
    return Shading(waves, phases, amplitudes)


def draw_prior(random: torch.Generator, prior: Tensor, classes: Tensor, spread: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the intensity of each label [R], from a prior.

    The prior was measured class by class over many scans. Within one scan the classes are darker or brighter together,
    more or less: where they all are, the contrast between them is the prior's own.

    Args:
        random: generator on the CPU.
        prior: mean and deviation of the class mean and of the class deviation, [4, K].
        classes: the class of each row of the label table, int64 [R].
        spread: multiplies the deviation of the class means.
    """
    count = prior.shape[1]
    shared = uniform(random, 0, 1)
    both, own = torch.randn((), generator=random), torch.randn(count, generator=random)
    mean = prior[0] + spread * prior[1] * (math.sqrt(shared) * both + math.sqrt(1 - shared) * own)
    deviation = (prior[2] + prior[3] * torch.randn(count, generator=random)).abs()
    return mean.clamp_min(0)[classes], deviation[classes]


def draw_anything(random: torch.Generator, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the intensity of each label [R], of classes int64 [R] in any contrast."""
    count = int(classes.max()) + 1
    mean = 10 + 230 * torch.rand(count, generator=random)
    deviation = 2 + 30 * torch.rand(count, generator=random)
    return mean[classes], deviation[classes]


def draw_texture(
    random: torch.Generator,
    mean: Tensor,
    deviation: Tensor,
    classes: Tensor,
    brain: Tensor,
    texture: tuple[float, float],
    scales: int,
) -> Tissue:
    """Share the deviations out among fine to coarse texture.

    Args:
        random: generator on the CPU.
        mean: intensity of each row of the label table, [R]; row 0 is air.
        deviation: of a scan of 1 mm, with noise and partial volume, [R].
        classes: rows of one class have one texture, int64 [R].
        brain: whether the row belongs to the brain, bool [R].
        texture: least and largest factor on the class deviations within the brain.
        scales: number of texture scales.
    """
    shares = torch.rand(scales, int(classes.max()) + 1, generator=random) + 0.05
    shares[0] *= 0.6
    shares = shares / shares.norm(dim=0)
    # The prior's deviations come from 1 mm scans, noise and partial volume included; both are added separately here.
    # Outside the brain they are those of several tissues within one label, as marrow and fat beside bone, so that there
    # a class may be as varied as that, or as flat as one tissue is: a muscle of the neck.
    outside = 0.05 + 0.95 * torch.rand(shares.shape[1], generator=random)
    deviation = deviation * torch.where(brain, uniform(random, *texture), outside[classes])
    mean = mean.clone()
    mean[0] = deviation[0] = 0
    return Tissue(mean, deviation, shares[:, classes])
