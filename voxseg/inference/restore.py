"""From class probabilities on the working grid to the label of each voxel of the scan, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.resample import affine_points, axis_matrix, axis_positions, interpolate_at

__all__ = ["keep_largest", "restore"]

SLAB_ELEMENTS = 2**19  # voxels of a slab at the scan's resolution: a few MiB of working memory, which stay in cache
THRESHOLD = 0.5  # probability above which a voxel lies in a region

Box = tuple[slice, slice, slice]


def keep_largest(probabilities: Tensor, regions: bool = False) -> Tensor:
    """Make background, in place, of all structures but the largest piece of their union (26 neighbours).

    Args:
        probabilities: `[K, X, Y, Z]`, class 0 the background; or one of each region.
        regions: whether they are those of regions.
    """
    inside = (probabilities > THRESHOLD).any(0) if regions else probabilities.argmax(0).ne_(0)
    pieces, count = ndimage.label(inside.cpu().numpy(), structure=np.ones((3, 3, 3)))
    if count > 1:
        labels = torch.from_numpy(pieces)
        sizes = torch.bincount(labels.flatten())
        sizes[0] = 0
        small = ((labels > 0) & (labels != sizes.argmax())).to(probabilities.device)
        probabilities[:, small] = 0
        if not regions:
            probabilities[0, small] = 1
    return probabilities


def restore(
    probabilities: Tensor,
    grid: Geometry,
    scan: Geometry,
    layout: tuple[int, int, int] = (2, 1, 0),
    progress: Callable[[float], None] = lambda fraction: None,
    painted: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """The class at each voxel of the scan, from linearly interpolated probabilities.

    Of exclusive classes it is the most probable one. Overlapping regions are painted one after the other, each where
    its probability is above a half.

    Never are all classes held at the scan's resolution: only one class of one slab is, and a running maximum. A class
    is looked at only where it can win, inside the box of the voxels at which its probability is at least 1/K (a half
    for regions): the largest of K numbers that sum to one is no less, and interpolation exceeds no corner. So the
    result is that of interpolating everything.

    Args:
        probabilities: `[K, X, Y, Z]` on `grid`, class 0 the background; outside is background.
        grid: as `prepare` has chosen it for the scan.
        scan: the grid wanted.
        layout: axes of the scan from the one with the largest step in memory to the smallest.
        progress: called with the fraction done.
        painted: for regions, the class index that each of the K gives to its voxels.

    Returns:
        `[X, Y, Z]` in the scan's stored axes, laid out in memory as asked for.
    """
    result = np.zeros([scan.shape[axis] for axis in layout], dtype=np.uint8)
    places = axis_positions(grid, scan)
    if places is None:
        _restore_points(result, probabilities, grid, scan, layout, progress, painted)
    else:
        _restore_axes(result, probabilities, [places[axis] for axis in layout], progress, painted)
    return result.transpose(np.argsort(layout))


def _restore_axes(
    result: NDArray[np.uint8],
    probabilities: Tensor,
    places: list[tuple[int, Tensor]],
    progress: Callable[[float], None],
    painted: Sequence[int] | None,
) -> None:
    """`restore` for parallel axes, into `result`; `places` says where the voxels of each of its axes lie."""
    order = [along for along, _ in places]
    classes = probabilities.permute(0, *(axis + 1 for axis in order)).contiguous()
    matrices = [axis_matrix(positions, probabilities.shape[along + 1], beyond=False) for along, positions in places]
    margins = [_band(matrix) for matrix in matrices]
    least = 1 / len(classes) if painted is None else THRESHOLD
    bounds = [_winning_box(p, least, margins) for p in classes]
    rows = [[_rows(m, b) for m, b in zip(matrices, bound, strict=True)] for bound in bounds]
    slab = max(1, SLAB_ELEMENTS // (result.shape[1] * result.shape[2]))
    on_device = [m.to(probabilities.device) for m in matrices]
    for start in range(0, result.shape[0], slab):
        stop = min(start + slab, result.shape[0])
        blocks = _blocks(start, stop, classes, bounds, rows, on_device)
        shape, device = result[start:stop].shape, classes.device
        winner = _most_probable(blocks, shape, device) if painted is None else _paint(blocks, shape, device, painted)
        result[start:stop] = winner.cpu().numpy()
        progress(stop / result.shape[0])


def _blocks(
    start: int,
    stop: int,
    classes: Tensor,
    bounds: list[Box],
    rows: list[list[slice]],
    matrices: list[Tensor],
) -> Iterator[tuple[int, Box, Tensor]]:
    """Each class that can win in the rows from `start` to `stop`, the place in that slab, and its values there."""
    for k, (bound, (first, second, third)) in enumerate(zip(bounds, rows, strict=True)):
        low, high = max(first.start, start), min(first.stop, stop)
        if high <= low or second.stop <= second.start or third.stop <= third.start:
            continue
        drawn_on = _columns(matrices[0][low:high], bound[0])
        source = classes[k, drawn_on, bound[1], bound[2]]
        along_first = torch.tensordot(matrices[0][low:high, drawn_on], source, dims=1)  # [r, C1, C2]
        values = torch.matmul(matrices[1][second, bound[1]], along_first @ matrices[2][third, bound[2]].T)
        yield k, (slice(low - start, high - start), second, third), values


def _most_probable(blocks: Iterator[tuple[int, Box, Tensor]], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The running maximum over exclusive classes, uint8."""
    best = torch.zeros(shape, device=device)
    winner = torch.zeros(shape, dtype=torch.uint8, device=device)
    for k, place, values in blocks:
        if k:
            winner[place].masked_fill_(values > best[place], k)
            torch.maximum(best[place], values, out=best[place])
        else:
            best[place] = values
    return winner


def _paint(
    blocks: Iterator[tuple[int, Box, Tensor]], shape: tuple[int, ...], device: torch.device, painted: Sequence[int]
) -> Tensor:
    """The class of the last region that holds a voxel, uint8."""
    result = torch.zeros(shape, dtype=torch.uint8, device=device)
    for k, place, values in blocks:
        result[place].masked_fill_(values > THRESHOLD, painted[k])
    return result


def _winning_box(probability: Tensor, least: float, margins: list[int]) -> Box:
    """Smallest box that holds every voxel at which a class reaches `least`, and all that may be averaged with one."""
    reached = probability >= least
    slices = []
    for axis, (margin, count) in enumerate(zip(margins, probability.shape, strict=True)):
        low, high = [a for a in range(3) if a != axis]
        line = reached.any(high).any(low).nonzero()
        if len(line) == 0:
            return slice(0, 0), slice(0, 0), slice(0, 0)
        slices.append(slice(max(int(line[0]) - margin, 0), min(int(line[-1]) + margin + 1, count)))
    return slices[0], slices[1], slices[2]


def _band(matrix: Tensor) -> int:
    """How far apart two samples can be that a row of the matrix draws on."""
    used = matrix > 0
    first = used.byte().argmax(1)
    last = matrix.shape[1] - 1 - used.flip(1).byte().argmax(1)
    return int((last - first)[used.any(1)].max()) if used.any() else 0


def _rows(matrix: Tensor, columns: slice) -> slice:
    """The rows of a banded matrix that draw on any of these columns."""
    return _span((matrix[:, columns] > 0).any(1), 0)


def _columns(rows: Tensor, within: slice) -> slice:
    """The columns, among those in `within`, that any of these rows draws on."""
    return _span((rows[:, within] > 0).any(0), within.start)


def _span(used: Tensor, offset: int) -> slice:
    """From the first to the last true entry."""
    places = used.nonzero()
    return slice(offset + int(places[0]), offset + int(places[-1]) + 1) if len(places) else slice(0, 0)


def _restore_points(
    result: NDArray[np.uint8],
    probabilities: Tensor,
    grid: Geometry,
    scan: Geometry,
    layout: tuple[int, int, int],
    progress: Callable[[float], None],
    painted: Sequence[int] | None,
) -> None:
    """`restore` for a scan whose axes are not at right angles: interpolated point by point, into `result`."""
    to_grid = (np.linalg.inv(grid.affine) @ scan.affine)[:, [*layout, 3]]
    source = probabilities[None]
    depth, height, width = result.shape
    slab = max(1, SLAB_ELEMENTS // 4 // (height * width))
    for start in range(0, depth, slab):
        stop = min(start + slab, depth)
        points = affine_points(to_grid, (range(start, stop), range(height), range(width)))
        values = interpolate_at(source, points)
        if painted is None:
            result[start:stop] = values.argmax(0).to(torch.uint8).cpu().numpy()
        else:
            for label, inside in zip(painted, (values > THRESHOLD).cpu().numpy(), strict=True):
                result[start:stop][inside] = label
        progress(stop / depth)
