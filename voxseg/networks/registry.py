"""Networks by name, or by the path that they are imported from."""

from __future__ import annotations

from collections.abc import Callable

from voxseg.errors import UserError

from .config import NetworkConfig
from .foreign import ForeignNetwork
from .layers import PlainLayers, SteerableLayers
from .unet import LayerFactory, Spacing, UNet

_LAYERS: dict[str, Callable[[NetworkConfig], LayerFactory]] = {
    "steerable_unet": SteerableLayers,
    "plain_unet": PlainLayers,
}


def networks() -> list[str]:
    """The names of networks built of `levels`; `hosted.HOSTED` has the baselines beside them."""
    return list(_LAYERS)


def build_network(config: NetworkConfig, grid_spacing: Spacing | None = None) -> UNet | ForeignNetwork:
    """Build a network with fresh weights from torch's random state.

    A baseline is imported when it is first built; so is a network given by its import path, which runs its code.

    Args:
        config: the network.
        grid_spacing: mm between voxels of the input along x, y, z; by default the config's own.

    Raises:
        UserError: if a network given by its import path cannot be imported or does not fit the config, or if fields of
            one level cannot be made of those of the next.
    """
    if config.import_path is not None:
        return ForeignNetwork(config)
    try:
        return UNet(config, _LAYERS[config.architecture](config), grid_spacing)
    except ValueError as error:  # what fields can be made of which is known to the layers alone
        remedy = "use degrees up to 2, and in each level every kind of field that the finer level has"
        raise UserError("network.levels", str(error), remedy) from None
