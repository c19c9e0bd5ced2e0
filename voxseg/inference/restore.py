"""From class probabilities on the working grid to the label of each voxel of the scan, slab by slab.

Of exclusive classes it is the logarithm of the probability that is interpolated. Across a border between two classes
that of their ratio is about proportional to the distance from it, so that linear interpolation finds the border between
the voxels, which probabilities, of the shape of an S, move towards the voxel that is less sure. Where a voxel of the
scan holds several of the working grid it is the mean probability that counts, the share that a class has in it.

`Restorer` takes the probabilities in pieces, as the windows that the network runs in become complete, so that neither
on the working grid nor on the scan's are all classes ever held for the whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.resample import axis_positions
from voxseg.inference.interpolation import Sheared, Straight
from voxseg.inference.pieces import THRESHOLD, keep_largest

__all__ = ["ProbabilitySink", "Restorer", "keep_largest", "least_probability", "restore", "sweep_axis"]

SLAB_ELEMENTS = 2**19  # voxels of a slab at the scan's resolution: a few MiB of working memory, which stay in cache

LEAST = 1e-3
"""Probabilities below count as this one: how sure a voxel is that a class is absent must not outweigh the others."""

THICK = 2.5
"""How many times as long as those of the working grid voxels of the scan are, along some axis, that hold several."""

Layout = tuple[int, int, int]


class ProbabilitySink(Protocol):
    """What takes probabilities in the scan's grid, slab by slab across its last stored axis."""

    def write(self, start: int, probabilities: NDArray[np.float32]) -> None:
        """Take `[K, n, Y, X]`, the slices from `start` on."""

    def clear(self, start: int, removed: NDArray[np.bool_], background: bool) -> None:
        """Make background where `removed` `[n, Y, X]` says so; there is a class for it, the first, if `background`."""


def sweep_axis(grid: Geometry, scan: Geometry, stored: int) -> int:
    """The axis of the working grid that runs along a stored axis of the scan, more or less where it is sheared."""
    directions = np.linalg.inv(grid.affine)[:3, :3] @ scan.affine[:3, :3]
    return int(np.abs(directions[:, stored]).argmax())


def restore(
    probabilities: Tensor,
    grid: Geometry,
    scan: Geometry,
    layout: Layout = (2, 1, 0),
    progress: Callable[[float], None] = lambda fraction: None,
    painted: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """`Restorer` for probabilities `[K, X, Y, Z]` that are all there.

    Args:
        probabilities: on `grid`, class 0 the background; outside is background.
        grid: and all that follows as `Restorer` takes it.
        scan: the grid wanted.
        layout: of the result in memory.
        progress: called with the fraction done.
        painted: for regions.
    """
    axis = sweep_axis(grid, scan, layout[0])
    restorer = Restorer(grid, scan, axis, layout, painted, progress=progress)
    restorer.feed(probabilities.movedim(axis + 1, 1))
    return restorer.result


def evidence(probabilities: Tensor) -> Tensor:
    """What is interpolated of exclusive classes: 0 for one that is absent."""
    return (probabilities / LEAST).clamp_(min=1).log_()


def least_probability(classes: int) -> float:
    """What the class of a voxel of the scan has in at least one of the voxels of the working grid that it draws on.

    In each of those one of K classes has a probability of 1/K or more, and the evidence of that. The class with most of
    it after interpolation has no less than the mean over classes: a K-th.
    """
    return LEAST * max(1 / (LEAST * classes), 1.0) ** (1 / classes)


class Restorer:
    """The class at each voxel of the scan, from probabilities that come plane by plane.

    Of exclusive classes it is the one with the most `evidence`, the logarithm of the probability over `LEAST`,
    interpolated linearly, or in a scan of thick slices the one with the largest mean probability. Overlapping regions
    are painted one after the other, each where its linearly interpolated probability is above a half.

    Never are all classes held at the scan's resolution: only one class of one slab is, and a running maximum. A class
    is looked at only where it can win, inside the box of the voxels of the slab at which it reaches `least_probability`
    (1/K in thick slices, a half for regions): interpolation exceeds no corner. So the result is that of interpolating
    everything.

    Args:
        grid: of the probabilities, as `prepare` has chosen it for the scan.
        scan: the grid wanted.
        axis: of `grid`, across which the planes come, the first one first.
        layout: axes of the scan from the one with the largest step in memory to the smallest.
        painted: for regions, the class index that each of the K gives to its voxels.
        sink: takes the probabilities in the scan's grid, of which that of the class told is the largest. The axis then
            has to run along the scan's last stored one.
        progress: called with the fraction done.

    Attributes:
        result: `[X, Y, Z]` uint8 in the scan's stored axes, laid out in memory as asked for; complete when all planes
            were fed.
    """

    def __init__(
        self,
        grid: Geometry,
        scan: Geometry,
        axis: int,
        layout: Layout = (2, 1, 0),
        painted: Sequence[int] | None = None,
        sink: ProbabilitySink | None = None,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        stored = np.zeros([scan.shape[a] for a in layout], dtype=np.uint8)
        self.result: NDArray[np.uint8] = stored.transpose(np.argsort(layout))
        if sink is not None:
            layout = (2, 1, 0)
        places = axis_positions(grid, scan)
        self._way = (
            Sheared(grid, scan, axis, layout) if places is None else Straight(places, grid.shape, axis, layout, scan)
        )
        self._rows = self.result.transpose(self._way.order)
        if self._way.flipped:
            self._rows = self._rows[::-1]
        self._painted, self._sink, self._progress = painted, sink, progress
        self._by_evidence = painted is None and max(scan.spacing) < THICK * max(grid.spacing)
        self._slab = max(1, SLAB_ELEMENTS // (self._rows.shape[1] * self._rows.shape[2]))
        self._tail: Tensor | None = None  # planes that rows to come draw on, the first of them `_first`
        self._first = self._row = self._fed = 0
        if sink is not None and self._way.order != (2, 1, 0):
            raise ValueError(f"probabilities are written across the scan's last axis, the planes lie across {axis}")

    def feed(self, planes: Tensor) -> None:
        """Take the next n planes of the working grid, and give labels to all rows that can be told now.

        Args:
            planes: `[K, n, U, V]`, the two axes after the swept one in their order; not kept after the call.
        """
        self._fed += planes.shape[1]
        ended = self._fed == self._way.planes
        low, high = self._way.low, self._way.high
        count = len(low)
        while self._row < count:
            stop = min(self._row + self._slab, count)
            if not ended:
                stop = min(stop, int(np.searchsorted(high, self._fed, side="right")))
            if stop <= self._row:
                break
            first, last = int(low[self._row]), int(high[stop - 1])
            self._do(self._chunk(planes, first, last), first, self._row, stop)
            self._row = stop
            self._progress(stop / count)
        if self._row < count and not ended:
            first = max(int(low[self._row]), 0)
            self._tail, self._first = self._chunk(planes, first, self._fed).clone(), first
        else:
            self._tail = None

    def clear(self, small: NDArray[np.bool_], largest: NDArray[np.bool_]) -> None:
        """Make background of pieces that are not wanted, after all planes were fed.

        What comes of making them background before interpolating, but for single voxels, wherever a voxel of the scan
        draws on neighbours in the working grid only: pieces do not touch, so it draws on one of them and on voxels
        where the background is the most probable class already. Where the scan is coarser than the working grid, a
        voxel may draw on a small piece and on the largest one. The one with the larger share has it then.

        Args:
            small: `[N, U, V]` in the working grid, the swept axis first.
            largest: the piece that stays.
        """
        low, high = self._way.low, self._way.high
        for start in range(0, len(low), self._slab):
            stop = min(start + self._slab, len(low))
            first, last = int(low[start]), int(high[stop - 1])
            part = small[first:last]
            if not part.any():
                continue
            signed = torch.from_numpy(part.astype(np.float32) - largest[first:last])
            removed = self._way.positive(signed, torch.from_numpy(part), first, start, stop).numpy()
            self._rows[start:stop][removed] = 0
            if self._sink is not None:
                at, mask = self._slices(start, stop, removed[None])
                self._sink.clear(at, mask[0], self._painted is None)

    def tell_sides(self, right: NDArray[np.float32], paired: NDArray[np.bool_], classes: NDArray[np.uint8]) -> None:
        """Give the voxels of paired structures on the right their classes, after all planes were fed.

        Args:
            right: `[N, U, V]` float32 in the working grid, the swept axis first; above 0 on the right.
            paired: where in it any structure with sides may be, `[N, U, V]`.
            classes: the class on the right of each class fed, its own for one without sides, `[K]`.
        """
        low, high = self._way.low, self._way.high
        for start in range(0, len(low), self._slab):
            stop = min(start + self._slab, len(low))
            first, last = int(low[start]), int(high[stop - 1])
            marked = paired[first:last]
            if not marked.any():
                continue
            signed = torch.from_numpy(np.ascontiguousarray(right[first:last]))
            on_right = self._way.positive(signed, torch.from_numpy(np.ascontiguousarray(marked)), first, start, stop)
            rows = self._rows[start:stop]
            rows[:] = np.where(on_right.numpy(), classes[rows], rows)

    def _chunk(self, planes: Tensor, first: int, last: int) -> Tensor:
        """Planes from `first` to `last` of the grid, of which the tail holds the first ones."""
        begin = self._fed - planes.shape[1]
        if first >= begin or self._tail is None:
            return planes[:, max(first - begin, 0) : max(last - begin, 0)]
        tail = self._tail[:, first - self._first : last - self._first]
        return tail if last <= begin else torch.cat([tail, planes[:, : last - begin]], 1)

    def _do(self, chunk: Tensor, first: int, start: int, stop: int) -> None:
        """Rows from `start` to `stop` from the planes that they draw on, which begin at `first`."""
        regions = self._painted is not None
        chunk = self._way.arranged(chunk)
        least = THRESHOLD if regions else 1 / len(chunk)
        if self._by_evidence:
            chunk, least = evidence(chunk), math.log(least_probability(len(chunk)) / LEAST)
        shape = (stop - start, *self._rows.shape[1:])
        winner = torch.zeros(shape, dtype=torch.uint8, device=chunk.device)
        best = torch.zeros(0 if regions else shape, device=chunk.device)
        for k, place, values in self._way.blocks(chunk, least, first, start, stop):
            if self._painted is not None:
                winner[place].masked_fill_(values > THRESHOLD, self._painted[k])
            elif k:
                # The classes come in ascending order: the larger of two is the later one. A masked fill is slower.
                better = (values > best[place]).view(torch.uint8).mul_(k)
                torch.maximum(winner[place], better, out=winner[place])
                torch.maximum(best[place], values, out=best[place])
            else:
                best[place] = values
        self._rows[start:stop] = winner.cpu().numpy()
        if self._sink is not None:
            values = self._way.values(chunk, first, start, stop)
            if self._by_evidence:  # back to probabilities, of which `LEAST` is taken, so that absent classes have none
                values.expm1_()
            if not regions:  # shares of what the grid holds of a voxel, as the class goes; all outside is background
                values /= values.sum(0).clamp_(min=1e-6)
                values[0] += (1 - values.sum(0)).clamp_(min=0)
            self._sink.write(*self._slices(start, stop, values.cpu().numpy()))

    def _slices(self, start: int, stop: int, values: NDArray[Any]) -> tuple[int, NDArray[Any]]:
        """The first slice of the scan, and values `[K, n, ...]` in the order of its slices."""
        if not self._way.flipped:
            return start, values
        return self._rows.shape[0] - stop, values[:, ::-1]
