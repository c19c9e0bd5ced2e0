"""Which device a network runs on, and what it may take there."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from voxseg.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is a GPU, otherwise the CPU.

    Raises:
        UserError: if torch does not know it, or the machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}", "there is no such device", "give auto, cpu, cuda or mps") from None
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"--device {name}", "this machine (or this torch) has none", "give --device cpu")
    return device


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network if it is on the device, otherwise a copy there, so that the caller's stays where it is."""
    place = torch.empty(0, device=device).device  # with its number: cuda is cuda:0
    tensors = itertools.chain(network.parameters(), network.buffers())
    return network if all(t.device == place for t in tensors) else copy.deepcopy(network).to(device)


def gpu_memory(device: torch.device) -> int | None:
    """Bytes that a network may take on a device that has memory of its own."""
    return int(torch.cuda.mem_get_info(device)[0] * 0.8) if device.type == "cuda" else None
