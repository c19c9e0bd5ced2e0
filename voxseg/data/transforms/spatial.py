"""Where a window lies in a case, and its mirror image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.labels import LabelTable
from voxseg.data.prepared_case import sample_points
from voxseg.errors import UserError

__all__ = ["RandMirrord", "RandWindowd"]

Data = dict[Hashable, Any]


class RandWindowd(Randomizable, MapTransform):
    """Cuts a window of one size, with each structure equally often near its centre.

    Unlike MONAI's crops a window may reach over the edge of the volume (it is 0 there), as the outer windows of a
    prediction do, and it reads no more of a mapped array than the window. Tensors become float32 unless they are
    integers; affines follow.

    Args:
        keys: of the tensors `[C, X, Y, Z]`, all of one size.
        size: voxels of the window along each axis.
        classes: structures are the values 1 to `classes` of the label.
        foreground: share of windows that are centred near a voxel of a structure: any of those there are, each with
            the same probability. The others lie anywhere.
        margin: voxels that are cut in addition on each side, for transforms that look beyond the window.
        label_key: of the label `[1, X, Y, Z]`.
        points_key: of the voxels to choose from, for each class an array `[N, 3]` (`sample_points`); they are taken
            from the label, which is slow, where there is no such key.
    """

    def __init__(
        self,
        keys: Sequence[str],
        size: Sequence[int],
        classes: int,
        foreground: float = 0.67,
        margin: Sequence[int] = (0, 0, 0),
        label_key: str = "label",
        points_key: str = "points",
    ) -> None:
        MapTransform.__init__(self, keys)
        self.size, self.margin = tuple(size), tuple(margin)
        self.classes, self.foreground = classes, foreground
        self.label_key, self.points_key = label_key, points_key
        self.start = (0, 0, 0)

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draws where the window, without its margin, starts."""
        shape = data[self.label_key].shape[1:]
        point = self._point(data) if self.R.random() < self.foreground else None
        start = []
        for axis, (n, size) in enumerate(zip(shape, self.size, strict=True)):
            if point is None:
                beyond = size // 4
                first = int(self.R.randint(min(0, n - size) - beyond, max(0, n - size) + beyond + 1))
            else:
                # Near the centre and not at it, or the network learns that structures are in the middle.
                first = int(point[axis]) - size // 2 + int(self.R.randint(-(size // 4), size // 4 + 1))
            start.append(first)
        self.start = (start[0], start[1], start[2])

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Cuts the same window out of each tensor."""
        result = dict(data)
        self.randomize(result)
        start = [s - m for s, m in zip(self.start, self.margin, strict=True)]
        size = [s + 2 * m for s, m in zip(self.size, self.margin, strict=True)]
        for key in self.key_iterator(result):
            result[key] = _cut(result[key], start, size)
        result.pop(self.points_key, None)
        return result

    def _point(self, data: Mapping[Hashable, Any]) -> NDArray[np.integer[Any]] | None:
        """A voxel of a structure; None if there is none."""
        points = data.get(self.points_key)
        if points is None:
            points = sample_points(np.asarray(data[self.label_key][0]), self.classes)
        there = [voxels for voxels in points if len(voxels)]
        if not there:
            return None
        voxels = there[self.R.randint(len(there))]
        point: NDArray[np.integer[Any]] = voxels[self.R.randint(len(voxels))]
        return point


def _cut(volume: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """A box of `[C, X, Y, Z]`, 0 beyond the edges, as a tensor of its own."""
    dtype = torch.float32 if volume.is_floating_point() else volume.dtype
    window = torch.zeros((volume.shape[0], *size), dtype=dtype)
    within, place = [slice(None)], [slice(None)]
    for first, length, n in zip(start, size, volume.shape[1:], strict=True):
        low, high = max(first, 0), min(first + length, n)
        within.append(slice(low, max(low, high)))
        place.append(slice(low - first, max(low, high) - first))
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    window[tuple(place)] = plain[tuple(within)].to(dtype)
    if not isinstance(volume, MetaTensor):
        return window
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.as_tensor(start, dtype=affine.dtype)
    return MetaTensor(window, affine=affine)


class RandMirrord(RandomizableTransform, MapTransform):
    """Mirror image along the first axis, left and right in canonical axes, with the sides of the labels swapped.

    The affine stays: what is made is a mirrored patient in the same space, not another storage of the same patient.

    Args:
        keys: of the tensors `[C, X, Y, Z]`.
        table: of the classes; says which structures are each other's mirror image.
        prob: how often.
        label_key: of the label, dense class indices.

    Raises:
        UserError: a structure has a side, but its partner is not among the classes.
    """

    def __init__(self, keys: Sequence[str], table: LabelTable, prob: float = 0.5, label_key: str = "label") -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        for label in table:
            if label.side != "none" and (label.partner is None or label.partner not in table.ids):
                missing = "has no partner" if label.partner is None else f"{label.partner} is not among the classes"
                raise UserError(
                    f"label {label.id} ({label.name})",
                    f"has a side, but its other side {missing}: a mirror image would teach the wrong side",
                    "set augmentation.mirror: 0, or give its partner in labels.classes and labels.table",
                )
        self.mirrored = torch.from_numpy(table.mirrored())
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Mirrors all keys or none."""
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        for key in self.key_iterator(result):
            flipped = result[key].flip(1)
            if key == self.label_key:
                plain = flipped.as_tensor() if isinstance(flipped, MetaTensor) else flipped
                swapped = self.mirrored[plain.long()].to(plain.dtype)
                flipped = MetaTensor(swapped, meta=flipped.meta) if isinstance(flipped, MetaTensor) else swapped
            result[key] = flipped
        return result
