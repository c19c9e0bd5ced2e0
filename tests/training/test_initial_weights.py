from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from models import write_model
from voxseg.errors import UserError
from voxseg.inference.model import load_model
from voxseg.networks import NetworkConfig, build_network
from voxseg.training.initial_weights import describe, resolve_model, take_weights

SMALL: dict[str, Any] = {
    "out_channels": 4,
    "levels": ("4x0e+2x1e", "6x0e+2x1e"),
    "encoder_convolutions": (1, 1),
    "decoder_convolutions": (1,),
    "spacing": 4.0,
}


def take(model: object, **changes: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What was taken, and the tensors of a network before and after."""
    config = NetworkConfig(**{**SMALL, **changes})
    network = build_network(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return take_weights(network, config, str(model)), before, network.state_dict()


def test_all_of_the_same_network(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    origin, before, after = take(folder)
    offered = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], offered[name]) for name in after)
    assert not all(torch.equal(after[name], before[name]) for name in after)
    assert origin["taken"] == origin["tensors"] == len(offered)
    assert describe(origin) == f"initial_weights: {len(offered)} of {len(offered)} tensors from tiny"


def test_other_labels_images_and_depth_keep_what_fits(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    offered = load_file(folder / "model.safetensors")
    changes = {"out_channels": 7, "in_channels": 2, "heads": {"pose": "2x1e"}}
    origin, before, after = take(folder, **changes)
    fits = {name for name in after if name in offered and offered[name].shape == after[name].shape}
    assert 0 < len(fits) < len(after)
    for name in after:
        assert torch.equal(after[name], offered[name] if name in fits else before[name]), name
    assert origin["taken"] == len(fits)
    line = describe(origin)
    assert "\n" not in line
    assert "encoder.0.0.0.weights.0_0 (6 x 1 x 2 there, 6 x 2 x 2 here)" in line
    assert f"and {len(origin['new']) - 6} more" in line
    assert origin["new"]["heads.pose.weights.0"] == "not there"

    origin, _, _ = take(folder, levels=SMALL["levels"][:1], encoder_convolutions=(1,), decoder_convolutions=())
    assert any(name.startswith("decoder.") for name in origin["unused"])
    assert "not used of it: " in describe(origin)


def test_the_packaged_model_by_name() -> None:
    packaged = load_model("brain").config.network
    origin, _, after = take("brain", **{**packaged.model_dump(), "out_channels": 40})
    assert origin["model"] == "brain"
    assert origin["steps"] > 0
    assert {name.split(".")[0] for name in origin["new"]} == {"logits"}
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert resolve_model("brain") == "brain"
    assert Path(resolve_model("./brain")).is_absolute()


def test_weights_that_mean_something_else_are_told(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    line = describe(take(folder, sigma=1.2)[0])
    assert "warning: network.sigma is 0.8 there and 1.2 here" in line
    assert "warning" not in describe(take(folder, shell_diameter=9.0)[0])  # read with basis: shells alone
    assert "warning" not in describe(take(folder, spacing=1.0)[0])  # sigma is in voxels


def test_nothing_fits_or_is_there(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"initial_weights: none of the \d+ tensors of .*model fits the network"):
        take(folder, architecture="torch.nn:Conv3d", arguments={"in_channels": 1, "out_channels": 4, "kernel_size": 1})
    with pytest.raises(UserError, match=r"^initial_weights .*missing: there is no such model"):
        take(tmp_path / "missing")
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"model\.safetensors: is no safetensors file"):
        take(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the model folder has no model\.safetensors"):
        take(folder)


def test_a_damaged_config_of_the_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump({"network": None, "training": [1]}))
    origin, _, _ = take(folder)
    assert (origin["model"], origin["steps"]) == ("model", None)
