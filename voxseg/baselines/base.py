"""What every baseline has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from voxseg.networks import NetworkConfig
from voxseg.networks.unet import Triple
from voxseg.testing import grid_rotations

__all__ = ["Baseline", "Group", "sampled", "skeleton"]

Group = Literal["SO3", "O3"]


class Baseline(nn.Module):
    """A network from another paper; the package's docstring says what it has to fulfil."""

    def rotations(self) -> list[Tensor]:
        """Grid rotations, ``[3, 3]`` each, under which the logits turn with the volume to rounding: all 24.

        A network of a smaller group lists fewer, one that commutes with reflections all 48.
        """
        return grid_rotations()


def skeleton(in_channels: int, out_channels: int, levels: Sequence[str], group: Group = "SO3") -> NetworkConfig:
    """A config for `voxseg.networks.UNet`, the skeleton that baselines fill with their own layers.

    One convolution on the finest level, two on each of the others, one on every level on the way up.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: field types, finest first.
        group: with ``O3`` the fields may be odd.

    Raises:
        ValueError: for levels that are no field types.
    """
    depth = len(levels)
    return NetworkConfig.model_validate(
        {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "levels": tuple(levels),
            "encoder_convolutions": (1, *[2] * (depth - 1)),
            "decoder_convolutions": (1,) * (depth - 1),
            "group": group,
            "spacing": 1.0,
            "deep_supervision": False,
        }
    )


def sampled(x: Tensor, stride: Triple) -> Tensor:
    """What lies at the centres of a strided convolution: every second voxel of an odd axis, means of two of an even."""
    for axis, step in enumerate(stride, start=2):
        if step == 1:
            continue
        if x.shape[axis] % 2:
            x = x.index_select(axis, torch.arange(0, x.shape[axis], step, device=x.device))
        else:
            x = x.unflatten(axis, (-1, step)).mean(axis + 1)
    return x
