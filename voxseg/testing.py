"""Public checks of equivariance, for the project's own layers and for anyone's.

``assert_equivariant(module, "8x0e+4x1e", "2x0e")`` turns an input, runs the module, and compares with the turned
output: exactly for rotations that map the grid to itself, and within a stated bound for arbitrary ones, where sampling
on a grid leaves an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .steerable import FieldType
from .steerable.tensors import representation

__all__ = [
    "assert_equivariant",
    "blobs",
    "exact_error",
    "grid_rotations",
    "interpolated_error",
    "representation",
    "rotate_field",
    "rotation_matrix",
]

EXACT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
Spacing = tuple[float, float, float]


def grid_rotations(improper: bool = False) -> list[Tensor]:
    """The 24 rotations (48 with reflections) of a cubic grid, as ``[3, 3]`` float64 signed permutation matrices."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            for row, (column, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            if improper or torch.linalg.det(matrix) > 0:
                found.append(matrix)
    return found


def rotation_matrix(axis: Sequence[float], degrees: float) -> Tensor:
    """Rotation about an axis by Rodrigues' formula, ``[3, 3]`` float64."""
    x, y, z = (float(component) / math.hypot(*axis) for component in axis)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def rotate_field(x: Tensor, rotation: Tensor, field: FieldType | str) -> Tensor:
    """Turn a field by a grid rotation, without interpolation: ``(R f)(p) = D(R) f(R^-1 p)``.

    Args:
        x: ``[B, C, X, Y, Z]``.
        rotation: one of :func:`grid_rotations`.
        field: type of the channels.

    Returns:
        ``[B, C, *turned grid]``.
    """
    order = rotation.abs().argmax(1).tolist()  # output axis i comes from input axis order[i]
    turned = x.permute(0, 1, *(2 + axis for axis in order))
    flipped = [2 + i for i, axis in enumerate(order) if rotation[i, axis] < 0]
    turned = turned.flip(flipped) if flipped else turned
    return torch.einsum("ij,bjxyz->bixyz", representation(field, rotation).to(x), turned)


def assert_equivariant(
    module: Callable[[Tensor], Tensor],
    field_in: FieldType | str,
    field_out: FieldType | str,
    *,
    size: tuple[int, int, int] = (12, 12, 12),
    spacing: Spacing = (1.0, 1.0, 1.0),
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    improper: bool = False,
    tolerance: float | None = None,
    bound: float | None = 0.15,
    angles: Sequence[float] = (30.0, 45.0, 77.0),
    blob_width: float = 2.5,
    seed: int = 0,
) -> None:
    """Fail unless a module commutes with rotations.

    Args:
        module: maps ``[B, C_in, X, Y, Z]`` to ``[B, C_out, X', Y', Z']``; it has to be in ``dtype`` already. Its output
            grid may be coarser by a whole factor.
        field_in: type of the input's channels.
        field_out: type of the output's channels.
        size: grid of the input.
        spacing: mm between voxels; only grid rotations that turn this spacing into itself can be exact, and only those
            are tried.
        batch: samples at a time, each different, so that a module that mixes them is caught.
        dtype: of the input.
        improper: try reflections too, which an O(3) module has to pass.
        tolerance: largest error of a grid rotation relative to the largest output; by default 1e-5 in float32 and 1e-10
            in float64.
        bound: largest relative error (L2, within a ball, of smooth inputs) of other rotations; ``None`` leaves them
            out.
        angles: degrees of those rotations, each about an axis of its own.
        blob_width: standard deviation of the smooth inputs' blobs, in units of the largest spacing.
        seed: of the inputs.

    Raises:
        AssertionError: with the rotation and the error found.
    """
    tolerance = EXACT_TOLERANCE[dtype] if tolerance is None else tolerance
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, FieldType(field_in).channels, *size, generator=generator, dtype=torch.float64).to(dtype)
    step = torch.tensor(spacing, dtype=torch.float64)
    _check_samples_apart(module, x, tolerance)
    for rotation in grid_rotations(improper):
        if torch.equal(rotation.abs() @ step, step):
            error = exact_error(module, x, rotation, field_in, field_out)
            if not error <= tolerance:
                raise AssertionError(
                    f"grid rotation {rotation.int().tolist()}: relative error {error:.2e}, "
                    f"allowed {tolerance:.0e}, grid {size}"
                )
    if bound is None:
        return
    for number, angle in enumerate(angles):
        axis = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
        rotation = rotation_matrix(axis, angle)
        error = interpolated_error(
            module, rotation, field_in, field_out, size, spacing, batch, dtype, blob_width, seed + number
        )
        if not error <= bound:
            raise AssertionError(
                f"turn by {angle:g} degrees about {axis}: relative error {error:.3f}, allowed {bound:g}, grid {size}"
            )


def _check_samples_apart(module: Callable[[Tensor], Tensor], x: Tensor, tolerance: float) -> None:
    """Fail if the last sample of a batch gives something else than it does alone: turning them all cannot show that."""
    with torch.no_grad():
        together, alone = module(x)[-1:], module(x[-1:])
    error = ((together - alone).abs().max() / alone.abs().max().clamp(min=1e-30)).item()
    if not error <= tolerance:
        raise AssertionError(f"samples of a batch mix: relative error {error:.2e}, allowed {tolerance:.0e}")


def exact_error(
    module: Callable[[Tensor], Tensor],
    x: Tensor,
    rotation: Tensor,
    field_in: FieldType | str,
    field_out: FieldType | str,
) -> float:
    """Largest difference between turning before and after the module by a grid rotation, over the largest output."""
    with torch.no_grad():
        before = module(rotate_field(x, rotation, field_in))
        after = rotate_field(module(x), rotation, field_out)
    if before.shape != after.shape:
        raise AssertionError(
            f"turning the input gives an output of {tuple(before.shape)}, "
            f"turning the output one of {tuple(after.shape)}"
        )
    return ((before - after).abs().max() / after.abs().max().clamp(min=1e-30)).item()


def interpolated_error(
    module: Callable[[Tensor], Tensor],
    rotation: Tensor,
    field_in: FieldType | str,
    field_out: FieldType | str,
    size: tuple[int, int, int] = (24, 24, 24),
    spacing: Spacing = (1.0, 1.0, 1.0),
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    blob_width: float = 2.5,
    seed: int = 0,
) -> float:
    """Relative L2 error of a module under an arbitrary rotation, within a ball.

    The input is a sum of Gaussian blobs with random components (see :func:`blobs`), so that it is band-limited and the
    turned input is known exactly; only the output is interpolated (cubic splines), at points of its own grid within the
    largest ball that fits.
    """
    # scipy takes a fifth of a second to import, and only this function needs it.
    from scipy.ndimage import map_coordinates

    identity = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        upright = module(blobs(field_in, identity, size, spacing, batch, blob_width, seed).to(dtype)).double()
        turned = module(blobs(field_in, rotation, size, spacing, batch, blob_width, seed).to(dtype)).double()
    grid = tuple(upright.shape[2:])
    stride = [round(n / m) for n, m in zip(size, grid, strict=True)]
    step = torch.tensor(spacing, dtype=torch.float64) * torch.tensor(stride)
    points = _positions(grid, step)  # [..., 3] in mm about the centre
    radius = (min((n - 1) / 2 * h for n, h in zip(grid, step.tolist(), strict=True))) * 0.8
    points = points[points.norm(dim=-1) <= radius]
    centre = (torch.tensor(grid, dtype=torch.float64) - 1) / 2
    index = (points @ rotation.T / step + centre).T.numpy()  # where R p lies in the turned output
    sampled = np.stack([[map_coordinates(channel.numpy(), index, order=3) for channel in sample] for sample in turned])
    i, j, k = (points / step + centre).round().long().T
    inside = upright[:, :, i, j, k]
    expected = torch.einsum("ij,bjn->bin", representation(field_out, rotation), inside)
    return ((torch.from_numpy(sampled) - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def blobs(
    field: FieldType | str,
    rotation: Tensor,
    size: tuple[int, int, int],
    spacing: Spacing = (1.0, 1.0, 1.0),
    batch: int = 1,
    width: float = 2.5,
    seed: int = 0,
    count: int = 12,
) -> Tensor:
    """A turned field of Gaussian blobs, evaluated and not interpolated: ``sum_k D(R) a_k exp(-|p - R c_k|^2 / 2 w^2)``.

    Args:
        field: type of the channels.
        rotation: ``[3, 3]``.
        size: grid.
        spacing: mm.
        batch: number of fields.
        width: standard deviation of a blob, in units of the largest spacing.
        seed: decides centres and components.
        count: blobs a field.

    Returns:
        ``[batch, C, *size]`` float64.
    """
    field = FieldType(field)
    generator = torch.Generator().manual_seed(seed)
    step = torch.tensor(spacing, dtype=torch.float64)
    reach = min((n - 1) / 2 * h for n, h in zip(size, spacing, strict=True))
    centres = torch.randn(batch, count, 3, generator=generator, dtype=torch.float64)
    radii = torch.rand(batch, count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    centres = centres / centres.norm(dim=-1, keepdim=True) * radii * reach * 0.7
    components = torch.randn(batch, count, field.channels, generator=generator, dtype=torch.float64)
    components = components @ representation(field, rotation).T
    points = _positions(size, step)
    offsets = points[None, None] - (centres @ rotation.T)[:, :, None, None, None]
    bumps = torch.exp(-offsets.square().sum(-1) / (2 * (width * max(spacing)) ** 2))
    return torch.einsum("bkc,bkxyz->bcxyz", components, bumps)


def _positions(size: Sequence[int], step: Tensor) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * h for n, h in zip(size, step.tolist(), strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
