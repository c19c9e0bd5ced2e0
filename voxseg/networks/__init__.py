"""Networks, built from a config by name or import path."""

from .config import NetworkConfig
from .foreign import ForeignNetwork
from .registry import build_network, networks
from .unet import UNet

__all__ = ["ForeignNetwork", "NetworkConfig", "UNet", "build_network", "networks"]
