"""Matrices on voxels and what follows from them: blocks of pairs, an anisotropic diffusion operator, its solutions.

The diffusion operator of a field of symmetric tensors D is that of the energy

    E(u) = 1/2 h^3 sum_voxels [ 1/8 sum_s g_s(u)^T D g_s(u) + mass u^2 ],   A u = dE/du / h^3 = -div(D grad u) + mass u,

where s runs over the eight corners of a voxel and ``g_s`` are the one-sided differences towards that corner, 0 across
the border (no flux). A is symmetric, and positive wherever the tensors are; it couples a voxel to its six neighbours
through the diagonal of D, and to its edge neighbours through the rest. All 48 symmetries of the grid turn it exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from voxseg.steerable import contract, expand, wigner_3j

__all__ = ["PairBlocks", "conjugate_gradient", "couplings", "diffusion", "solve_diffusion"]

Triple = tuple[int, int, int]
CORNERS: tuple[Triple, ...] = tuple((x, y, z) for x, y, z in itertools.product((1, -1), repeat=3))


class PairBlocks(nn.Module):
    """A 3x3 block for each pair of neighbours along an axis: off-site blocks of a matrix that is learned.

    The features of a pair are products of those of its ends, ``f^L = sum_(l1, l2) w_(l1 l2 L) CG(x_i^l1, x_j^l2)``
    (pair mixing, one weight a channel), added over the channels and expanded; ``H_ij = (H_ij + H_ji^T) / 2`` makes the
    whole matrix symmetric (Unke et al. 2021, arXiv:2106.02347). The axis of the pair enters as the degrees 0 and 2 of
    its dyad, times scalars of the ends.

    Args:
        channels: F, fields of each degree.
        degree: the highest one of the features.
    """

    def __init__(self, channels: int, degree: int = 2) -> None:
        super().__init__()
        self.degree = degree
        degrees = range(degree + 1)
        self.paths = [
            (l1, l2, out) for l1 in degrees for l2 in degrees for out in range(3) if abs(l1 - l2) <= out <= l1 + l2
        ]
        self.weight = nn.Parameter(torch.randn(len(self.paths), channels) / (channels * len(self.paths)) ** 0.5)
        self.along = nn.Parameter(torch.randn(2, channels) / channels**0.5)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Blocks of the pairs ``(i, i + 1)`` along an axis.

        Args:
            x: ``[B, F, (degree + 1)^2, X, Y, Z]``.
            axis: 0, 1 or 2.

        Returns:
            ``[B, ..., 3, 3]``, one voxel fewer along the axis.
        """
        count = x.shape[3 + axis] - 1
        first, second = x.narrow(3 + axis, 0, count), x.narrow(3 + axis, 1, count)
        forth, back = self._blocks(first, second, axis), self._blocks(second, first, axis)
        return (forth + back.mT) / 2

    def _blocks(self, x: Tensor, y: Tensor, axis: int) -> Tensor:
        fields = [x.new_zeros(x.shape[0], 2 * out + 1, *x.shape[3:]) for out in range(3)]
        for (l1, l2, out), weight in zip(self.paths, self.weight, strict=True):
            one, other = (v[:, :, degree**2 : (degree + 1) ** 2] for v, degree in ((x, l1), (y, l2)))
            fields[out] = fields[out] + torch.einsum(
                "ijk,f,bfixyz,bfjxyz->bkxyz", wigner_3j(l1, l2, out).to(x), weight, one, other
            )
        matrix = expand(torch.cat(fields, 1).movedim(1, -1), 1, 1)
        direction = torch.zeros(3, dtype=x.dtype, device=x.device)
        direction[axis] = 1
        dyad = contract(direction[:, None] * direction, 1, 1)
        scalars = torch.einsum("af,bfxyz->abxyz", self.along, x[:, :, 0] + y[:, :, 0])
        parts = dyad.clone(), dyad.clone()
        parts[0][1:], parts[1][:4] = 0, 0  # what is round in it, and what is not
        for scalar, part in zip(scalars, parts, strict=True):
            matrix = matrix + scalar[..., None, None] * expand(part, 1, 1)
        return matrix


def diffusion(tensors: Tensor, u: Tensor, mass: float = 0.0, spacing: float = 1.0) -> Tensor:
    """``A u = -div(D grad u) + mass u``.

    Args:
        tensors: D, ``[X, Y, Z, 3, 3]`` symmetric.
        u: ``[X, Y, Z]``.
        mass: of the last term, 1/s where D is in mm²/s.
        spacing: mm between voxels, the same along all axes.

    Returns:
        ``[X, Y, Z]``.
    """
    result = mass * u
    for corner in CORNERS:
        gradient = _towards(u, corner)
        flux = torch.einsum("...ij,j...->i...", tensors, gradient)
        result = result + _towards_transposed(flux, corner) / (8 * spacing**2)
    return result


def couplings(tensors: Tensor, offset: Triple, spacing: float = 1.0) -> Tensor:
    """The entries ``A_ij`` of the operator without mass for pairs of voxels an offset apart.

    Args:
        tensors: ``[X, Y, Z, 3, 3]``.
        offset: from i to j, one or two of its components 1 or -1, the others 0.
        spacing: mm between voxels.

    Returns:
        ``[X, Y, Z]`` at i; 0 where j lies beyond the border.
    """
    result = torch.zeros_like(tensors[..., 0, 0])
    for corner in CORNERS:
        for base in itertools.product((0, 1), repeat=3):
            # i is the voxel of a corner's differences, or one of their other ends.
            start = [b * s for b, s in zip(base, corner, strict=True)]
            if sum(map(abs, start)) > 1:
                continue
            other = [a + o for a, o in zip(start, offset, strict=True)]
            if sum(map(abs, other)) > 1 or any(o and o != s for o, s in zip(other, corner, strict=True)):
                continue
            result = result + _entries(tensors, corner, start, other) / (8 * spacing**2)
    return result


def _entries(tensors: Tensor, corner: Triple, start: list[int], other: list[int]) -> Tensor:
    """What the differences of all voxels towards a corner add to the entry between two of their ends."""
    size = tensors.shape[:3]
    inside = torch.stack([_inside(size, axis, corner[axis], tensors) for axis in range(3)])  # [3, X, Y, Z]
    ends = []
    for end in (start, other):
        weights = torch.zeros_like(inside)
        for axis in range(3):
            moved = 1.0 if end[axis] else (-1.0 if not any(end) else 0.0)
            weights[axis] = moved * corner[axis] * inside[axis]
        ends.append(weights)
    values = torch.einsum("i...,...ij,j...->...", ends[0], tensors, ends[1])
    # The voxel of the differences is i - start: its values are wanted at i.
    for axis, step in enumerate(start):
        if step:
            values = _shifted(values, axis, -step)
    return values


def solve_diffusion(
    tensors: Tensor, source: Tensor, mass: float, spacing: float = 1.0, tolerance: float = 1e-10, steps: int = 1000
) -> Tensor:
    """The solution of ``-div(D grad u) + mass u = source``, by conjugate gradients, with gradients for D and source.

    The backward pass solves with the same operator once more (A is symmetric): for a loss with gradient g,
    ``lambda = A^-1 g`` is the gradient for the source, and ``-1/8 sum_s g_s(lambda) g_s(u)^T`` the one for D.

    Args:
        tensors: D, ``[X, Y, Z, 3, 3]`` symmetric, positive.
        source: ``[X, Y, Z]``.
        mass: above 0.
        spacing: mm between voxels.
        tolerance: of the residual, over the source.
        steps: at most.

    Returns:
        u, ``[X, Y, Z]``.

    Raises:
        ValueError: the operator is not positive, or the tolerance is not reached.
    """
    result: Tensor = _Solve.apply(tensors, source, mass, spacing, tolerance, steps)
    return result


def conjugate_gradient(operator: Callable[[Tensor], Tensor], source: Tensor, tolerance: float, steps: int) -> Tensor:
    """``x`` with ``|A x - b| <= tolerance |b|`` for a symmetric positive A (Hestenes and Stiefel 1952).

    Args:
        operator: A.
        source: b.
        tolerance: of the residual.
        steps: at most.

    Raises:
        ValueError: A is not positive, or the tolerance is not reached.
    """
    x, residual = torch.zeros_like(source), source.clone()
    direction, square = residual.clone(), residual.square().sum()
    least = (tolerance**2) * float(square)
    for _ in range(steps):
        if float(square) <= least:
            return x
        image = operator(direction)
        curvature = (direction * image).sum()
        if not float(curvature) > 0:
            raise ValueError("the operator is not positive: are all tensors positive, and mass above 0?")
        step = square / curvature
        x, residual = x + step * direction, residual - step * image
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    if float(square) <= least:
        return x
    raise ValueError(f"no solution to {tolerance:g} within {steps} steps: allow more, or raise mass")


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        tensors: Tensor,
        source: Tensor,
        mass: float,
        spacing: float,
        tolerance: float,
        steps: int,
    ) -> Tensor:
        def operator(u: Tensor) -> Tensor:
            return diffusion(tensors, u, mass, spacing)

        u = conjugate_gradient(operator, source, tolerance, steps)
        ctx.save_for_backward(tensors, u)
        ctx.settings = mass, spacing, tolerance, steps  # type: ignore[attr-defined]
        return u

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors, u = ctx.saved_tensors  # type: ignore[attr-defined]
        mass, spacing, tolerance, steps = ctx.settings  # type: ignore[attr-defined]

        def operator(v: Tensor) -> Tensor:
            return diffusion(tensors, v, mass, spacing)

        back = conjugate_gradient(operator, gradient, tolerance, steps)
        for_tensors = torch.zeros_like(tensors)
        for corner in CORNERS:
            one, other = _towards(back, corner), _towards(u, corner)
            for_tensors -= torch.einsum("i...,j...->...ij", one, other) / (8 * spacing**2)
        return (for_tensors + for_tensors.mT) / 2, back, None, None, None, None


def _towards(u: Tensor, corner: Triple) -> Tensor:
    """One-sided differences towards a corner, ``[3, X, Y, Z]``, in world directions; 0 across the border."""
    return torch.stack([(_shifted(u, axis, s) - u) * s * _inside(u.shape, axis, s, u) for axis, s in enumerate(corner)])


def _towards_transposed(flux: Tensor, corner: Triple) -> Tensor:
    """The transposed operator, ``[3, X, Y, Z]`` to ``[X, Y, Z]``."""
    result = torch.zeros_like(flux[0])
    for axis, s in enumerate(corner):
        inner = flux[axis] * s * _inside(flux.shape[1:], axis, s, flux)
        result = result + _shifted(inner, axis, -s) - inner
    return result


def _shifted(u: Tensor, axis: int, step: int) -> Tensor:
    """The value one voxel further along an axis, in the direction of `step`; around the border, where unused."""
    return u.roll(-step, axis)


def _inside(shape: torch.Size, axis: int, step: int, like: Tensor) -> Tensor:
    """1 where the next voxel in a direction is there, ``[X, Y, Z]``."""
    result = torch.ones(shape, dtype=like.dtype, device=like.device)
    result.select(axis, shape[axis] - 1 if step > 0 else 0).zero_()
    return result
