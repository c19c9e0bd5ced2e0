"""The weights that a run starts from, where they are another model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxseg.errors import UserError
from voxseg.inference.locate import locate_model, packaged_models
from voxseg.networks import NetworkConfig, UNet, build_network
from voxseg.provenance import file_hash
from voxseg.training.config_file import read_yaml
from voxseg.training.weights_file import is_weights_file, read_weights
from voxseg.training.widening import is_wider, widen

__all__ = ["KEY", "describe", "resolve_model", "take_weights"]

KEY = "initial_weights"
NAMES_TOLD = 6
"""Names of tensors in a message; all of them are in the `config.yaml` of the model that comes out."""

MEANING = ("group", "basis", "sigma", "sigma_down", "shell_diameter", "shell_count")
"""Keys of the network that change what weights of the same shape do."""


def resolve_model(model: str) -> str:
    """A packaged name as it is, a folder as its absolute path: what a run can be found by from any working folder."""
    return model if model in packaged_models() else str(Path(model).resolve())


def take_weights(network: nn.Module, config: NetworkConfig, model: str) -> dict[str, Any]:
    """Copies into a network every tensor of a model that has the name and the shape of one of its own.

    If the network is the model's own with more fields on some level, all tensors go into the larger ones (`widen`).

    Of a model's folder only safetensors are read, and files of weights with `read_weights`, so that no code of theirs
    runs, whatever the network is.

    Args:
        network: with fresh weights; changed in place.
        config: of that network.
        model: as `locate_model` takes it, or a file of weights.

    Returns:
        In plain types: `model` (its name), `steps` that it was trained for (None if it does not say), `sha256` of its
        weights, how many `tensors` were `taken` of how many, names of those left `new` and why, names of those that
        are `unused`, how the networks differ (`changed`: key, to the value there and here), and the levels of the model
        if it was `widened`.

    Raises:
        UserError: there is no such model, its files are damaged, or not one tensor fits.
    """
    alone = is_weights_file(Path(model))
    folder = Path(model) if alone else locate_model(model, KEY)
    weights = folder if alone else folder / "model.safetensors"
    offered = read_weights(weights)
    contents = {} if alone else read_yaml(folder / "config.yaml")
    own: dict[str, Tensor] = network.state_dict()
    narrow = _narrower(_block(contents, "network"), config, offered)
    if narrow is not None:
        widen(network, narrow)
    new = {} if narrow is not None else _copy(own, offered)
    # A counter of a batch norm fits every network; what has learnt something are the parameters.
    if not any(name not in new for name, _ in network.named_parameters()):
        example = next(iter(own), None)
        reason = f"; {example}: {new[example]}" if example in new else ""
        problem = f"none of the {len(offered)} tensors of {folder} fits the network{reason}"
        raise UserError(KEY, problem, "give network.architecture and network.levels as in that model's config.yaml")
    return {
        "model": str(contents.get("name", folder.name)),
        "steps": _block(contents, "training").get("steps"),
        "sha256": file_hash(weights),
        "tensors": len(own),
        "taken": len(own) - len(new),
        "new": new,
        "unused": [name for name in offered if name not in own],
        "changed": {} if alone else _changed(_block(contents, "network"), config),
        "widened": [] if narrow is None else list(narrow.config.levels),
    }


def describe(origin: Mapping[str, Any]) -> str:
    """What `take_weights` did, as one line for people."""
    text = f"{KEY}: {origin['taken']} of {origin['tensors']} tensors from {origin['model']}"
    if origin["new"]:
        text += "; new: " + _few([f"{name} ({why})" for name, why in origin["new"].items()])
    if origin.get("widened"):
        text += f", widened from levels {', '.join(origin['widened'])}"
    if origin["unused"]:
        text += "; not used of it: " + _few(list(origin["unused"]))
    for key, (there, here) in origin["changed"].items():
        text += f"; warning: network.{key} is {there} there and {here} here, so that the same weights do something else"
    return text


def _copy(own: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> dict[str, str]:
    """Copies what fits; the names of the others, and why they do not."""
    new = {}
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in offered:
                new[name] = "not there"
            elif offered[name].shape != tensor.shape:
                new[name] = f"{_shape(offered[name])} there, {_shape(tensor)} here"
            else:
                tensor.copy_(offered[name])
    return new


def _narrower(there: Mapping[str, Any], here: NetworkConfig, offered: dict[str, Tensor]) -> UNet | None:
    """The network of a model with its weights, if it is a narrower one of the same layout."""
    try:
        config = NetworkConfig(**there)
    except ValueError:  # of another version; what fits is copied
        return None
    if not is_wider(here, config):
        return None
    network = build_network(config)
    assert isinstance(network, UNet)
    try:
        network.load_state_dict(offered)
    except RuntimeError:  # the weights are not those of that network
        return None
    return network


def _changed(there: Mapping[str, Any], here: NetworkConfig) -> dict[str, list[Any]]:
    """Keys of two steerable networks under which the same weights are other kernels."""
    if here.architecture != "steerable_unet":
        return {}
    values = here.model_dump(mode="json")
    defaults = {key: NetworkConfig.model_fields[key].default for key in MEANING}
    both = {key: [there.get(key, defaults[key]), values[key]] for key in MEANING}
    bases = (both["basis"][0], both["basis"][1])
    unread = ("shell_",) if "shells" not in bases else ("sigma",) if set(bases) == {"shells"} else ()
    return {key: pair for key, pair in both.items() if pair[0] != pair[1] and not key.startswith(unread)}


def _block(contents: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    block = contents.get(key)
    return block if isinstance(block, Mapping) else {}


def _few(names: list[str]) -> str:
    more = len(names) - NAMES_TOLD
    return ", ".join(names[:NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
