"""Networks, built from a config by name or import path."""

from .config import NetworkConfig
from .foreign import ForeignNetwork
from .hosted import HOSTED
from .registry import build_network, networks
from .unet import UNet

__all__ = ["HOSTED", "ForeignNetwork", "NetworkConfig", "UNet", "build_network", "networks"]
