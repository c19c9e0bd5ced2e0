"""Weights in a file of their own, from elsewhere: safetensors, or what PyTorch has saved without code in it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from voxseg.errors import UserError
from voxseg.inference.locate import PICKLED

__all__ = ["is_weights_file", "read_safetensors", "read_weights"]

PLACES = ("state_dict", "network_weights", "model_state_dict", "model", "network")
"""Keys under which training programs keep the weights in a checkpoint."""


def is_weights_file(path: Path) -> bool:
    """Whether a path is that of a file of weights rather than of a model folder."""
    return path.is_file() and path.suffix.lower() in (".safetensors", *PICKLED)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name.

    Files of PyTorch are pickles, which can run any code when they are loaded. They are read with `weights_only=True`:
    tensors, numbers, text and what holds them; anything else is refused, and nothing of it is run.

    Args:
        path: `.safetensors`, or a file of PyTorch: of tensors by name, or of a checkpoint that has such.

    Raises:
        UserError: if it cannot be read in that way, or holds no tensors by name.
    """
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol of a pickle that is refused in the next line
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        problem = "is damaged, or holds more than weights, which could run code; it was not loaded"
        remedy = "save the weights alone where they come from: torch.save(network.state_dict(), ...), or as safetensors"
        raise UserError(path, problem, remedy) from error
    found = next((one for one in (contents, *_places(contents)) if _is_weights(one)), None)
    if found is None:
        raise UserError(path, "holds no tensors by name", "save them with torch.save(network.state_dict(), ...)")
    return {str(name): tensor for name, tensor in found.items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        UserError: if it is none.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(path, f"is no safetensors file ({error})", "copy it again") from None


def _places(contents: Any) -> list[Any]:
    return [contents.get(place) for place in PLACES] if isinstance(contents, Mapping) else []


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
