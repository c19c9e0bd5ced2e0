"""Volumes in channels-last order seen as matrices, one row a voxel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def as_rows(volume: Tensor) -> Tensor:
    """``[B, C, X, Y, Z]`` as ``[B X Y Z, C]``, a view where the memory is in channels-last order."""
    return volume.permute(0, 2, 3, 4, 1).reshape(-1, volume.shape[1])


def as_volume(rows: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``[B X Y Z, C]`` as ``[B, C, X, Y, Z]`` in channels-last order, for a grid ``(B, X, Y, Z)``; a view."""
    return rows.view(*grid, rows.shape[1]).permute(0, 4, 1, 2, 3)


def empty_volume(like: Tensor, channels: int, grid: tuple[int, ...]) -> Tensor:
    """``[B, C, X, Y, Z]`` in channels-last order with the type and the device of another, not set."""
    return as_volume(like.new_empty(math.prod(grid), channels), grid)


def sample_rows(volume: Tensor, number: int) -> Tensor:
    """One sample of ``[B, C, X, Y, Z]`` as ``[X, Y, Z, C]``, a view."""
    return volume[number].permute(1, 2, 3, 0)


def samples(volume: Tensor) -> Iterator[Tensor]:
    """Each sample of ``[B, C, X, Y, Z]`` as ``[X, Y, Z, C]``, views."""
    return (sample_rows(volume, number) for number in range(len(volume)))


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """In which sums over many numbers of a type are kept, and the statistics of a voxel."""
    return torch.float64 if dtype == torch.float64 else torch.float32
