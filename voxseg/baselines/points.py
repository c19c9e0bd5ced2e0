"""Point clouds of a scan: foreground points or landmarks with features of a steerable network, and layers between them.

The layers are those of `voxseg.baselines.nequip` and `voxseg.baselines.mace`, which have an `on_points` beside their
form on voxels: where all voxels are points, both compute the same. What is scattered is cheap this way: a thousand
surface points of a scan of a million voxels, say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from voxseg.networks.unet import Spacing
from voxseg.steerable import FieldLinear, FieldType

from .mace import MACEBlock
from .messages import Graph
from .nequip import NequIPBlock, TissueClasses

__all__ = ["PointNetwork", "foreground", "radius_graph", "sample"]


def radius_graph(places: Tensor, radius: float, targets: Tensor | None = None) -> Graph:
    """Who hears whom: everyone within a radius, themselves included.

    Args:
        places: ``[N, 3]`` in mm, of those that send.
        radius: in mm; who lies exactly on it is not heard.
        targets: ``[M, 3]``, of those that receive; by default the same points.

    Returns:
        The graph, with edges sorted by target and source.
    """
    receivers = places if targets is None else targets
    if not len(places) or not len(receivers):
        empty = torch.zeros(0, dtype=torch.long, device=places.device)
        return Graph(empty, empty, places.new_zeros(0, 3), len(receivers))
    tree = cKDTree(places.detach().cpu().double().numpy())
    found = tree.query_ball_point(receivers.detach().cpu().double().numpy(), radius, return_sorted=True)
    source = torch.from_numpy(np.concatenate([np.asarray(near, dtype=np.int64) for near in found]))
    counts = torch.tensor([len(near) for near in found])
    target = torch.repeat_interleave(torch.arange(len(found)), counts)
    source, target = source.to(places.device), target.to(places.device)
    offsets = places[source] - receivers[target]
    inside = offsets.detach().norm(dim=-1) < radius
    return Graph(source[inside], target[inside], offsets[inside], len(receivers))


def foreground(mask: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
    """Centres of the voxels of a mask ``[X, Y, Z]``, ``[N, 3]`` in mm from the centre of the first voxel."""
    return mask.nonzero() * torch.tensor(spacing, device=mask.device)


def sample(volume: Tensor, places: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
    """Features of a volume at points, by linear interpolation; zero outside.

    Fields of any degree can be interpolated component by component, as all voxels have the same axes.

    Args:
        volume: ``[C, X, Y, Z]``.
        places: ``[N, 3]`` in mm from the centre of the first voxel, along x, y, z.
        spacing: mm between voxels.

    Returns:
        ``[N, C]``.
    """
    size = torch.tensor(volume.shape[1:], dtype=places.dtype, device=places.device)
    step = torch.tensor(spacing, dtype=places.dtype, device=places.device)
    # grid_sample counts axes from the last, and voxels from -1 to 1 between their outer faces.
    grid = ((2 * places / step + 1) / size - 1).flip(-1).to(volume)
    found = F.grid_sample(volume[None], grid[None, None, None], mode="bilinear", align_corners=False)
    return found[0, :, 0, 0].T


class PointNetwork(nn.Module):
    """Layers between points: scalars, or any field, for each of them.

    Args:
        field_in: type of the points' features.
        field_out: type of what is asked for.
        hidden: types after each layer.
        radius: of the messages, in mm.
        spacing: mm; points of this mean distance give messages of unit size.
        intensities: of a point, for classes and, in blocks that depend on the data, for radial networks.
        classes: T of `TissueClasses`.
        order: 0 for the blocks of NequIP, 1 to 3 for those of MACE with products of this order.
        data_dependent: whether radial networks see the intensities of both ends.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        hidden: Sequence[str],
        radius: float,
        spacing: float = 1.0,
        intensities: int = 1,
        classes: int = 1,
        order: int = 0,
        data_dependent: bool = False,
    ) -> None:
        super().__init__()
        self.radius = radius
        self.classes = TissueClasses(intensities, classes)
        sees = intensities if data_dependent else 0
        self.blocks = nn.ModuleList()
        for before, after in zip((str(FieldType(field_in)), *hidden), hidden, strict=False):
            options: dict[str, Any] = {"radius": radius, "spacing": spacing, "intensities": sees}
            block = (
                MACEBlock(before, after, classes=classes, order=order, **options)
                if order
                else NequIPBlock(before, after, classes=classes, **options)
            )
            self.blocks.append(block)
        self.last = FieldLinear(hidden[-1], field_out)

    def forward(self, features: Tensor, places: Tensor, intensities: Tensor, volume: float = 1.0) -> Tensor:
        """Run.

        Args:
            features: ``[N, C_in]``, such as `sample` of what `UNet.features` gives.
            places: ``[N, 3]`` in mm.
            intensities: ``[N, intensities]``.
            volume: of space that belongs to a point, in units of ``spacing^3``.

        Returns:
            ``[N, C_out]``.
        """
        graph, known = radius_graph(places, self.radius), self.classes.on_points(intensities)
        for block in self.blocks:
            features = block.on_points(features, graph, known, volume)  # type: ignore[operator]
        rows: Tensor = self.last(features.T[None, :, :, None, None])
        return rows[0, :, :, 0, 0].T
