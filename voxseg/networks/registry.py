"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from .config import NetworkConfig
from .layers import PlainLayers, SteerableLayers
from .unet import Spacing, UNet

_BUILDERS: dict[str, Callable[[NetworkConfig, Spacing | None], UNet]] = {
    "steerable_unet": lambda config, spacing: UNet(config, SteerableLayers(config), spacing),
    "plain_unet": lambda config, spacing: UNet(config, PlainLayers(config), spacing),
}


def networks() -> list[str]:
    """The names that a config may give as its architecture."""
    return list(_BUILDERS)


def build_network(config: NetworkConfig, grid_spacing: Spacing | None = None) -> UNet:
    """Build a network with fresh weights from torch's random state.

    Args:
        config: the network.
        grid_spacing: mm between voxels of the input along x, y, z; by default the config's own.
    """
    return _BUILDERS[config.architecture](config, grid_spacing)
