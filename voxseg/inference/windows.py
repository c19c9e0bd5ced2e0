"""Running a network over a volume in overlapping windows that are blended with Gaussian weights.

`in_planes` is what `predict` uses: it gives the result plane by plane, as soon as no window to come reaches a plane, so
that all of it is never in memory. `in_windows` holds everything and says the same; the tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

__all__ = ["gaussian_weights", "in_planes", "in_windows", "window_count", "window_starts"]

SIGMA = 0.125  # of the window's length, as nnU-Net and MONAI have it
OVERLAP = 32
"""Voxels that a window shares with the next one: half of the small windows that networks are trained on. Half of a
large one costs up to twice the work and does not change the scores (benchmarks/speed_log.md)."""


def window_starts(length: int, window: int, overlap: int = OVERLAP) -> list[int]:
    """Where the windows on one axis begin: evenly spread, and the same seen from either end.

    Args:
        length: voxels of the axis.
        window: voxels of the window, at most `length`.
        overlap: voxels that a window shares with the next one at least; half the window if that is less.
    """
    room = length - window
    if room <= 0:
        return [0]
    count = math.ceil(room / max(1, window - min(overlap, (window + 1) // 2))) + 1
    if count % 2 and room % 2:
        count += 1  # the middle window of an odd number would lie half a voxel off
    half = [i * room // (count - 1) for i in range(count // 2)]
    middle = [room // 2] if count % 2 else []
    return half + middle + [room - start for start in reversed(half)]


def window_count(shape: Sequence[int], window: Sequence[int]) -> int:
    """Windows that it takes to cover a volume."""
    return math.prod(len(window_starts(n, min(n, w))) for n, w in zip(shape, window, strict=True))


def gaussian_weights(window: Sequence[int]) -> Tensor:
    """Weight of each voxel of a window, `[X, Y, Z]`, 1 in the middle, at least 0.001."""
    weights = torch.ones(())
    for n in window:
        offset = torch.arange(n) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA * n)) ** 2)
    return weights.clamp_(min=1e-3)


def in_windows(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    channels: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Weighted mean of what `predict` says in all windows that hold a voxel.

    Args:
        predict: `[1, C, *window]` to `[1, channels, *window]`, on any device.
        image: `[1, C, X, Y, Z]`.
        window: voxels of a window; an axis that is shorter than it is taken whole.
        channels: of the result.
        progress: called with the fraction done.

    Returns:
        `[1, channels, X, Y, Z]` float32 on the image's device.
    """
    shape = image.shape[2:]
    size = [min(n, w) for n, w in zip(shape, window, strict=True)]
    weights = gaussian_weights(size).to(image.device)
    result = torch.zeros(1, channels, *shape, device=image.device)
    total = torch.zeros(shape, device=image.device)
    corners = list(product(*(window_starts(n, w) for n, w in zip(shape, size, strict=True))))
    for done, corner in enumerate(corners, start=1):
        x, y, z = (slice(start, start + w) for start, w in zip(corner, size, strict=True))
        output = predict(image[:, :, x, y, z]).to(image.device, torch.float32)
        result[:, :, x, y, z].addcmul_(output, weights)
        total[x, y, z] += weights
        del output  # not beside the features of the next window
        progress(done / len(corners))
    return result.div_(total)


def in_planes(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    channels: int,
    axis: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[Tensor]:
    """What `in_windows` gives, in pieces across an axis, while no more is held than one row of windows covers.

    A window in which the image is 0 everywhere is empty space: the first one's result stands for all of them.

    Args:
        predict: `[1, C, *window]` to `[1, channels, *window]`, on any device.
        image: `[1, C, X, Y, Z]`.
        window: voxels of a window; an axis that is shorter than it is taken whole.
        channels: of the result.
        axis: across which the pieces are cut.
        progress: called with the fraction done.

    Yields:
        `[channels, n, U, V]` float32 on the image's device, the next n planes; `axis` comes first and the other two
        follow in their order. It is overwritten when the next piece is asked for.
    """
    order = [axis, *(a for a in range(3) if a != axis)]
    source = image.permute(0, 1, *(2 + a for a in order))
    back = [0, 1, *(2 + a for a in torch.tensor(order).argsort().tolist())]
    shape = source.shape[2:]
    size = [min(n, window[a]) for n, a in zip(shape, order, strict=True)]
    weights = gaussian_weights(size).to(image.device)
    rows, *across = (window_starts(n, w) for n, w in zip(shape, size, strict=True))
    sums = torch.zeros(channels, size[0], *shape[1:], device=image.device)
    total = torch.zeros(size[0], *shape[1:], device=image.device)
    empty: Tensor | None = None
    done, count = 0, len(rows) * len(across[0]) * len(across[1])
    for start, following in zip(rows, [*rows[1:], shape[0]], strict=True):
        for corner in product(*across):
            u, v = (slice(first, first + w) for first, w in zip(corner, size[1:], strict=True))
            part = source[:, :, start : start + size[0], u, v]
            if empty is not None and not part.any():
                output = empty
            else:
                output = predict(part.permute(back)).to(image.device, torch.float32)
                output = output[0].permute(0, *(1 + a for a in order))
                if empty is None and not part.any():
                    empty = output
            sums[:, :, u, v].addcmul_(output, weights)
            total[:, u, v] += weights
            del output  # as above
            done += 1
            progress(done / count)
        finished = following - start
        yield sums[:, :finished].div_(total[:finished])
        _move_up(sums, finished)
        _move_up(total[None], finished)


def _move_up(planes: Tensor, count: int) -> None:
    """Drop the first `count` planes of `[C, N, U, V]` in place; zeros follow the last."""
    kept = planes.shape[1] - count
    for plane in range(kept):
        planes[:, plane] = planes[:, plane + count]
    planes[:, kept:] = 0
