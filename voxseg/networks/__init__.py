"""Networks, built by name from a config."""

from .config import NetworkConfig
from .registry import build_network, networks
from .unet import UNet

__all__ = ["NetworkConfig", "UNet", "build_network", "networks"]
