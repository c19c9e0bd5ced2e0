from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from models import write_model
from voxseg.errors import UserError
from voxseg.inference.locate import locate_model
from voxseg.inference.model import load_model
from voxseg.networks import NetworkConfig, build_network
from voxseg.training.checkpoint import CheckpointStore
from voxseg.training.initial_weights import KEY, describe, resolve_model, take_weights

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
    assert {name.split(".")[0] for name in origin["new"]} == {"logits", "coarse_logits"}
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


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("place", [None, "state_dict", "network_weights"])
def test_a_file_of_weights(tmp_path: Path, suffix: str, place: str | None) -> None:
    tensors = load_file(write_model(tmp_path / "model") / "model.safetensors")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({place: tensors, "epoch": 3} if place else tensors, path)
    origin, _, after = take(path)
    assert all(torch.equal(after[name], tensors[name]) for name in after)
    assert (origin["taken"], origin["changed"]) == (len(tensors), {})
    assert origin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path: Path, suffix: str, old: bool) -> None:
    path, mark = tmp_path / f"weights{suffix}", tmp_path / "mark"
    torch.save({"w": torch.zeros(2), "x": Payload(mark)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match="could run code; it was not loaded"):
        take(path)
    for option in ("--model", KEY):  # nor is it a model
        with pytest.raises(UserError, match=f"^{option} .*is a file of weights.* as a pickle it could run code"):
            locate_model(path, option)
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(UserError, match="was not loaded"):
        take(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the payload is a real one


def test_checkpoints_are_no_way_in_either(tmp_path: Path) -> None:
    store, mark = CheckpointStore(tmp_path), tmp_path / "mark"
    for path in (store.last, store.previous):
        torch.save({"step": 1, "format": 2, "x": Payload(mark)}, path)
    with pytest.raises(UserError, match="no readable checkpoint"):
        store.load()
    assert not mark.exists()


def test_files_without_weights(tmp_path: Path) -> None:
    for contents in ([torch.zeros(1)], {}, {"epoch": 3}, {"state_dict": {"w": 1}}):
        torch.save(contents, tmp_path / "w.pt")
        with pytest.raises(UserError, match="holds no tensors by name"):
            take(tmp_path / "w.pt")
