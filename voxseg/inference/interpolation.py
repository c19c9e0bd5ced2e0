"""How a slab of the scan draws on planes of the working grid: along parallel axes, or point by point.

Both ways know the rows of the scan across the swept axis, in the order in which the planes come, and for each row the
planes `low` to `high` that it draws on; both are ascending.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.resample import affine_points, axis_matrix, interpolate_at

__all__ = ["Sheared", "Straight"]

BLOCK = 64  # samples that are interpolated by one product: they draw on few others

Box = tuple[slice, slice, slice]
Triple = tuple[int, int, int]


class Straight:
    """Axes of scan and grid are parallel: three small banded matrices.

    Args:
        places: as `axis_positions` gives them for the scan in the grid.
        shape: of the grid.
        axis: of the grid, the one that is swept.
        layout: axes of the scan, the order in which the two not swept are taken.
        scan: the scan's grid.

    Attributes:
        order: axes of the scan as rows, columns and depth of a slab; the first runs along the swept axis.
        flipped: whether the rows come in the scan's opposite direction.
        planes: of the grid across the swept axis.
        low: first plane that each row draws on.
        high: one after the last.
    """

    def __init__(
        self, places: list[tuple[int, Tensor]], shape: Triple, axis: int, layout: Triple, scan: Geometry
    ) -> None:
        del scan
        first = next(a for a in range(3) if places[a][0] == axis)
        second, third = (a for a in layout if a != first)
        self.order: Triple = (first, second, third)
        self.planes = shape[axis]
        along = [places[a][0] for a in self.order]
        self._swapped = along[1] > along[2]  # planes have the two other axes of the grid in their order
        self._matrices = [axis_matrix(places[a][1], shape[places[a][0]], beyond=False) for a in self.order]
        positions = places[first][1]
        self.flipped = len(positions) > 1 and bool(positions[1] < positions[0])
        if self.flipped:
            self._matrices[0] = self._matrices[0].flip(0)
        used = (self._matrices[0] > 0).numpy()
        self.low, self.high = _ascending(
            np.where(used.any(1), used.argmax(1), -1), used.shape[1] - used[:, ::-1].argmax(1), self.planes
        )
        self._margins = [_band(matrix) for matrix in self._matrices[1:]]
        self._used = [(matrix > 0).numpy() for matrix in self._matrices[1:]]
        self._pairs = _pairs(self._matrices[1])

    def arranged(self, planes: Tensor) -> Tensor:
        """Planes `[K, n, U, V]` with their axes in the order of a slab, in one piece of memory."""
        return (planes.transpose(2, 3) if self._swapped else planes).contiguous()

    def blocks(
        self, planes: Tensor, least: float, first: int, start: int, stop: int
    ) -> Iterator[tuple[int, Box, Tensor]]:
        """Each class that reaches `least`, the box of the slab that draws on such voxels, and its values there.

        Args:
            planes: arranged, `[K, n, U, V]`, from plane `first` on.
            least: of a probability that counts.
            first: number of the first plane.
            start: first row of the slab.
            stop: one after the last.
        """
        rows = self._matrices[0][start:stop, first : first + planes.shape[1]].to(planes.device)
        if not planes.shape[1]:  # rows beside the grid
            return
        reached = planes.amax(1) >= least  # [K, U, V]
        lines = reached.any(2).cpu().numpy(), reached.any(1).cpu().numpy()
        for k, plane in enumerate(planes):
            u, v = (_bound(line[k], margin) for line, margin in zip(lines, self._margins, strict=True))
            if u is None or v is None:
                continue
            places = self._drawing(0, u), self._drawing(1, v)
            if any(place.stop <= place.start for place in places):
                continue
            across = torch.tensordot(rows, plane[:, u, v], dims=1)  # [rows, U', V']
            yield k, (slice(0, stop - start), *places), self._across(across, u, v, *places)

    def values(self, planes: Tensor, first: int, start: int, stop: int) -> Tensor:
        """All classes of a slab, `[K, rows, columns, depth]`."""
        rows = self._matrices[0][start:stop, first : first + planes.shape[1]].to(planes.device)
        second, third = (m.to(planes.device) for m in self._matrices[1:])
        return torch.stack([torch.matmul(second, torch.tensordot(rows, plane, dims=1) @ third.T) for plane in planes])

    def _across(self, rows: Tensor, u: slice, v: slice, columns: slice, depth: slice) -> Tensor:
        """`[rows, U', V']` taken along the second and the third axis: `[rows, columns, depth]`.

        Along the second, a row of the matrix with two entries is two rows of the volume: nothing grows with its length.
        """
        third = self._matrices[2]
        parts = []
        for begin in range(depth.start, depth.stop, BLOCK):
            end = min(begin + BLOCK, depth.stop)
            used = _bound((third[begin:end, v] > 0).any(0).numpy(), 0) or slice(0, 1)
            weights = third[begin:end, v.start + used.start : v.start + used.stop].to(rows.device)
            parts.append(rows[..., used] @ weights.T)
        along = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if self._pairs is None:
            return torch.matmul(self._matrices[1][columns, u].to(rows.device), along)
        index, weight = (part[:, columns].to(rows.device) for part in self._pairs)
        # What a row draws on outside the box counts for nothing there.
        weight = weight * ((index >= u.start) & (index < u.stop))
        index = (index - u.start).clamp_(0, along.shape[1] - 1)
        near, far = (along.index_select(1, i).mul_(w[:, None]) for i, w in zip(index, weight, strict=True))
        return near.add_(far)

    def _drawing(self, axis: int, columns: slice) -> slice:
        """The rows of the second or the third matrix that draw on any of these columns."""
        return _bound(np.logical_or.reduce(self._used[axis][:, columns], axis=1), 0) or slice(0, 0)

    def positive(self, signed: Tensor, marked: Tensor, first: int, start: int, stop: int) -> Tensor:
        """Where in a slab the interpolation of `signed` `[n, U, V]` is above 0; it is so only near `marked`."""
        result = torch.zeros(stop - start, *(len(m) for m in self._matrices[1:]), dtype=torch.bool)
        marks = self.arranged(marked[None].float())
        values = self.arranged(signed[None])
        for _, (_, u, v), _ in self.blocks(marks, 1.0, first, start, stop):
            rows = self._matrices[0][start:stop, first : first + len(values[0])]
            across = torch.tensordot(rows, values[0], dims=1)
            result[:, u, v] = torch.matmul(self._matrices[1][u], across @ self._matrices[2][v].T) > 0
        return result


class Sheared:
    """The scan's axes are not at right angles: its voxels are points in the grid.

    Args:
        grid: of the planes.
        scan: the scan's grid.
        axis: of `grid`, the one that is swept.
        layout: axes of the scan, the order in which the two not swept are taken.

    Attributes: as those of `Straight`.
    """

    def __init__(self, grid: Geometry, scan: Geometry, axis: int, layout: Triple) -> None:
        to_grid = np.linalg.inv(grid.affine) @ scan.affine
        first = int(np.abs(to_grid[axis, :3]).argmax())
        second, third = (a for a in layout if a != first)
        self.order: Triple = (first, second, third)
        self.planes = grid.shape[axis]
        shape = [scan.shape[a] for a in self.order]
        matrix = to_grid[[axis, *(a for a in range(3) if a != axis), 3]][:, [*self.order, 3]]
        self.flipped = bool(matrix[0, 0] < 0)
        if self.flipped:
            matrix = matrix.copy()
            matrix[:, 3] += matrix[:, 0] * (shape[0] - 1)
            matrix[:, 0] *= -1
        self._matrix, self._shape = matrix, shape
        corners = [matrix[0, 1] * u + matrix[0, 2] * v for u in (0, shape[1] - 1) for v in (0, shape[2] - 1)]
        places = matrix[0, 0] * np.arange(shape[0]) + matrix[0, 3]
        low = np.floor(places + min(corners)).astype(np.int64)
        high = np.ceil(places + max(corners)).astype(np.int64) + 1
        self.low, self.high = np.clip(low, 0, self.planes), np.clip(high, 0, self.planes)

    def arranged(self, planes: Tensor) -> Tensor:
        """Planes as `blocks` takes them."""
        return planes

    def blocks(
        self, planes: Tensor, least: float, first: int, start: int, stop: int
    ) -> Iterator[tuple[int, Box, Tensor]]:
        """As those of `Straight`: each class that reaches `least` anywhere, in the whole slab."""
        able = [k for k, plane in enumerate(planes) if plane.numel() and bool((plane >= least).any())]
        if not able:
            return
        points = self._points(start, stop, first)
        box = (slice(0, stop - start), slice(0, self._shape[1]), slice(0, self._shape[2]))
        for k in able:
            yield k, box, interpolate_at(planes[None, k : k + 1], points)[0]

    def values(self, planes: Tensor, first: int, start: int, stop: int) -> Tensor:
        """All classes of a slab, `[K, rows, columns, depth]`."""
        if not planes.shape[1]:
            return planes.new_zeros(len(planes), stop - start, *self._shape[1:])
        return interpolate_at(planes[None], self._points(start, stop, first))

    def positive(self, signed: Tensor, marked: Tensor, first: int, start: int, stop: int) -> Tensor:
        """Where in a slab the interpolation of `signed` `[n, U, V]` is above 0."""
        del marked
        return interpolate_at(signed[None, None], self._points(start, stop, first))[0] > 0

    def _points(self, start: int, stop: int, first: int) -> Tensor:
        """Where the voxels of a slab lie in the planes from `first` on."""
        matrix = self._matrix.copy()
        matrix[0, 3] -= first
        return affine_points(matrix, (range(start, stop), range(self._shape[1]), range(self._shape[2])))


def _ascending(low: NDArray[np.int64], high: NDArray[np.int64], planes: int) -> tuple[NDArray[np.int64], ...]:
    """Bounds of rows, of which some draw on no plane (`low` -1): empty ranges before the first and after the last."""
    drawing = np.flatnonzero(low >= 0)
    if not len(drawing):
        return np.zeros_like(low), np.zeros_like(high)
    low, high = low.copy(), high.copy()
    begin, end = drawing[0], drawing[-1] + 1
    low[:begin] = high[:begin] = 0
    low[end:] = high[end:] = planes
    return low, high


def _band(matrix: Tensor) -> int:
    """How far apart two samples can be that a row of the matrix draws on."""
    used = matrix > 0
    first = used.byte().argmax(1)
    last = matrix.shape[1] - 1 - used.flip(1).byte().argmax(1)
    return int((last - first)[used.any(1)].max()) if used.any() else 0


def _pairs(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """The two columns `[2, M]` that each row draws on, and their weights; None if it may be more than two."""
    if _band(matrix) > 1:
        return None
    first = (matrix > 0).byte().argmax(1)
    index = torch.stack([first, (first + 1).clamp_(max=matrix.shape[1] - 1)])
    weights = matrix.gather(1, index.T).T.clone()
    weights[1][index[1] == index[0]] = 0
    return index, weights


def _bound(line: NDArray[np.bool_], margin: int) -> slice | None:
    """From the first to the last true entry, and `margin` more on both sides; None if there is none."""
    if not line.any():
        return None
    first, last = int(line.argmax()), len(line) - int(line[::-1].argmax())
    return slice(max(first - margin, 0), min(last + margin, len(line)))
