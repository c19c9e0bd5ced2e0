"""Kernel bases in physical units: solid-harmonic Gaussians (separable) and radial shells (dense).

A basis lists, for each degree l of the kernel, filters ``[radial functions, 2l + 1, elements]``. Elements are what the
convolution sums over: the ten products of :mod:`voxseg.steerable.separable`, or the voxels of a dense kernel. Filters
are scaled such that white noise of unit variance on the reference grid gives responses of unit variance; the scale does
not depend on the actual grid, so that the same weights stand for the same operator in mm on any grid.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .harmonics import solid_harmonics
from .separable import MOMENTS

logger = logging.getLogger(__name__)

# Taps end where the Gaussian has fallen to 4 % of its peak.
_CUTOFF_IN_SIGMA = 2.5
# Under this many voxels a sampled Gaussian is no longer smooth: its taps are integrals over the voxel instead.
_SAMPLED_DOWN_TO = 0.7


@dataclass(frozen=True)
class Lattice:
    """Where the taps of a kernel lie along each axis.

    Attributes:
        spacing: mm between voxels along x, y, z.
        centred: for each axis, whether a tap lies on the kernel's centre (an odd number of taps) or the centre lies
            between two taps (an even number).
    """

    spacing: tuple[float, float, float]
    centred: tuple[bool, bool, bool] = (True, True, True)


class KernelBasis(Protocol):
    """What a steerable convolution needs to know of its kernels."""

    max_degree: int

    def radial_functions(self, degree: int) -> int:
        """Number of independent filters of a degree."""

    def filters(self, lattice: Lattice) -> list[Tensor]:
        """For each degree 0..max_degree, ``[radial functions, 2l + 1, elements]`` float64."""


def tap_positions(radius_in_voxels: float, centred: bool) -> Tensor:
    """Symmetric tap positions in voxels, ``[n]``: whole numbers if centred, odd multiples of one half otherwise.

    >>> tap_positions(2.0, True).tolist(), tap_positions(2.75, False).tolist()
    ([-2.0, -1.0, 0.0, 1.0, 2.0], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    """
    half = math.floor(radius_in_voxels + 0.5) if centred else math.floor(radius_in_voxels + 1.0)
    count = 2 * max(half, 1) + (1 if centred else 0)
    return torch.arange(count, dtype=torch.float64) - (count - 1) / 2


class SolidHarmonicBasis:
    """``r^l Y_l(r/|r|) g(r)`` for l = 0, 1, 2, and the trace ``(|r|^2 - <|r|^2>) g(r)``, g the Gaussian of width sigma.

    All are combinations of ten products of 1-D kernels, because a solid harmonic is a polynomial and the Gaussian a
    product. Subtracting the Gaussian's own second moment axis by axis keeps constants out of degree 2 on anisotropic
    grids as well.

    Args:
        sigma: width in mm.
        reference_spacing: mm, the isotropic grid on which white noise is scaled to unit variance.
        reach: where the Gaussian is cut off along each axis, in sigma. The cut is a cube: what it takes away is not
            isotropic, so that a longer reach costs taps and turns more exactly.
    """

    max_degree = 2

    def __init__(self, sigma: float, reference_spacing: float, reach: float = _CUTOFF_IN_SIGMA) -> None:
        if not (sigma > 0 and reference_spacing > 0 and reach > 0):
            problem = f"got {sigma}, {reference_spacing} and {reach}"
            raise ValueError(f"sigma and reference_spacing are lengths in mm, reach is one in sigma, {problem}")
        self.sigma = sigma
        self.reference_spacing = reference_spacing
        self.reach = reach

    def radial_functions(self, degree: int) -> int:
        """Two scalars (the Gaussian and the trace term), one of each higher degree."""
        return 2 if degree == 0 else 1

    def taps(self, spacing: float, centred: bool) -> Tensor:
        """The 1-D kernels ``[3, n]`` of one axis: Gaussian g of unit sum, g t, and g (t² - <t²>); t = r / sigma."""
        return _gaussian_taps(self.sigma, spacing, centred, self.reach)

    def filters(self, lattice: Lattice) -> list[Tensor]:
        """Filters over the ten products; they do not depend on the lattice, which the taps alone know."""
        del lattice
        filters = _moments_of_harmonics()
        taps = self.taps(self.reference_spacing, True)
        kernels = torch.stack([torch.einsum("a,b,c->abc", *(taps[m] for m in moment)).flatten() for moment in MOMENTS])
        return [f / (f @ kernels).square().sum(-1).mean(-1).sqrt()[:, None, None] for f in filters]


@lru_cache(maxsize=256)
def _gaussian_taps(sigma: float, spacing: float, centred: bool, reach: float) -> Tensor:
    """See :meth:`SolidHarmonicBasis.taps`; a network asks for the same few in every forward pass."""
    ratio = sigma / spacing
    if reach * ratio < 1:
        logger.warning(
            "a kernel of %.2f mm is narrower than the voxels of %.2f mm along one axis: "
            "it sees little of the neighbours there",
            2 * reach * sigma,
            spacing,
        )
    voxel = tap_positions(reach * ratio, centred)
    samples = torch.zeros(1, dtype=torch.float64)
    if ratio < _SAMPLED_DOWN_TO:
        samples = (torch.arange(64, dtype=torch.float64) + 0.5) / 64 - 0.5
    t = (voxel[:, None] + samples) / ratio
    gaussian = torch.exp(-t.square() / 2)
    gaussian = gaussian / gaussian.sum()
    variance = (gaussian * t.square()).sum()
    return torch.stack([gaussian, gaussian * t, gaussian * (t.square() - variance)]).sum(-1)


class ShellBasis:
    """Smooth radial bumps of finite support times spherical harmonics, the basis of the published steerable U-Net.

    Diaz, Geiger and McKinley (MELBA 2024:010) use five equally spaced bumps ``exp(-1/(1+u)) exp(-1/(1-u))``, ``u = (|r|
    - r_i) / step``, that vanish at the rim of a ball of the given diameter, and a separate 1x1x1 self-connection. Here
    the self-connection is one more scalar radial function: the centre voxel (or the mean of the voxels around a centre
    that lies between them).

    Args:
        diameter: of the ball, in mm.
        reference_spacing: mm, as for :class:`SolidHarmonicBasis`.
        count: number of bumps.
    """

    max_degree = 2

    def __init__(self, diameter: float, reference_spacing: float, count: int = 5) -> None:
        if not (diameter > 0 and reference_spacing > 0 and count > 0):
            raise ValueError(
                f"diameter, reference_spacing and count are positive, got {diameter}, {reference_spacing}, {count}"
            )
        self.diameter = diameter
        self.reference_spacing = reference_spacing
        self.count = count

    def radial_functions(self, degree: int) -> int:
        """All bumps, and the self-connection for scalars."""
        return self.count + 1 if degree == 0 else self.count

    def positions(self, lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
        """Tap positions along x, y and z in mm."""
        radius = self.diameter / 2
        voxels = (tap_positions(radius / h - 0.5, c) for h, c in zip(lattice.spacing, lattice.centred, strict=True))
        x, y, z = (v * h for v, h in zip(voxels, lattice.spacing, strict=True))
        return x, y, z

    def filters(self, lattice: Lattice) -> list[Tensor]:
        """Filters over the voxels of the dense kernel, flattened in (x, y, z) order."""
        reference = self._sampled(Lattice((self.reference_spacing,) * 3))
        volume = math.prod(lattice.spacing) / self.reference_spacing**3
        scaled = []
        for sampled, on_reference in zip(self._sampled(lattice), reference, strict=True):
            energy = on_reference.square().sum(-1).mean(-1).sqrt()[:, None, None]
            # A bump that meets no voxel of the reference grid has no energy there and stays zero.
            scaled.append(volume * sampled / energy.clamp(min=1e-12) * (energy > 1e-9))
        scaled[0] = torch.cat([scaled[0], self._centre(lattice)])
        return scaled

    def _sampled(self, lattice: Lattice) -> list[Tensor]:
        points = torch.cartesian_prod(*self.positions(lattice))
        radius = points.norm(dim=-1)
        step = self.diameter / 2 / (self.count + 1)
        centres = step * torch.arange(1, self.count + 1, dtype=torch.float64)
        u = (radius - centres[:, None]) / step
        inside = u.abs() < 1
        bumps = torch.where(inside, torch.exp(-1 / (1 + u.where(inside, 0)) - 1 / (1 - u.where(inside, 0))), 0.0)
        directions = points / radius.clamp(min=1e-12)[:, None]
        return [bumps[:, None] * solid_harmonics(degree, directions).T for degree in range(self.max_degree + 1)]

    def _centre(self, lattice: Lattice) -> Tensor:
        weights = []
        for positions in self.positions(lattice):
            nearest = positions.abs() == positions.abs().min()
            weights.append(nearest / nearest.sum())
        return torch.einsum("a,b,c->abc", *weights).reshape(1, 1, -1).to(torch.float64)


def _moments_of_harmonics() -> list[Tensor]:
    """Solid harmonics and the trace ``x^2 + y^2 + z^2`` from the ten moments: ``[radial, 2l + 1, 10]`` per degree."""
    grid = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0, 2.0), repeat=3)), dtype=torch.float64)
    monomials = torch.stack([(grid ** torch.tensor(m, dtype=torch.float64)).prod(-1) for m in MOMENTS], -1)

    def combination(values: Tensor) -> Tensor:
        rows: Tensor = torch.linalg.lstsq(monomials, values).solution.T
        return rows.where(rows.abs() > 1e-9, 0.0)

    trace = combination(grid.square().sum(-1, keepdim=True))
    degrees = [combination(solid_harmonics(degree, grid)) for degree in range(3)]
    return [torch.stack([degrees[0], trace]), degrees[1][None], degrees[2][None]]


def lattice_for(size: Sequence[int], spacing: tuple[float, float, float], strides: tuple[int, int, int]) -> Lattice:
    """The lattice on which a convolution is exact under grid rotations: between voxels for stride 2 on an even axis."""
    centred = tuple(stride == 1 or n % 2 == 1 for n, stride in zip(size, strides, strict=True))
    return Lattice(spacing, (centred[0], centred[1], centred[2]))
