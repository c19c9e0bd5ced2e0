from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tiny_training import TinyNetwork, tiny_config
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.preparation import PreparationConfig
from voxseg.networks import NetworkConfig
from voxseg.training.checkpoint import TrainingState
from voxseg.training.config import TrainingConfig
from voxseg.training.model_card import Scores
from voxseg.training.model_folder import write_model
from voxseg.training.provenance import machine
from voxseg.training.run import Run


def _write(folder: Path, config: TrainingConfig, dice: list[float] | None = None, step: int = 6) -> str:
    network = TinyNetwork().to(memory_format=torch.channels_last_3d)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(network, network, torch.optim.AdamW(network.parameters()), scaler, step, 125.0)
    run = Run(folder, config, config.labels.predicted(), torch.device("cpu"))
    write_model(run, state, None if dice is None else Scores(dice))
    return (folder / "model" / "MODEL_CARD.md").read_text()


def test_weights_and_config_come_back(tmp_path: Path) -> None:
    config = tiny_config(description="Three bands.")
    _write(tmp_path, config, [0.5, 0.75, math.nan])
    read = load_file(tmp_path / "model" / "model.safetensors")
    expected = TinyNetwork().state_dict()
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)

    contents = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert contents["format"] == 1
    assert contents["name"] == "tiny"
    assert contents["description"] == "Three bands."
    assert PreparationConfig.model_validate(contents["preparation"]) == config.preparation
    assert NetworkConfig.model_validate(contents["network"]) == config.network
    assert LabelScheme.model_validate(contents["labels"]) == config.labels
    assert contents["training"]["steps"] == 6
    assert contents["training"]["validation_dice"] == 0.625
    assert LabelTable.read(tmp_path / "model" / "labels.csv") == config.labels.predicted()


def test_all_files_may_be_read_by_those_who_may_read_new_files(tmp_path: Path) -> None:
    _write(tmp_path, tiny_config())
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_card_tells_data_steps_time_machine_and_versions(tmp_path: Path) -> None:
    config = tiny_config(data="/some/where/head_maps", licence="Apache-2.0")
    card = _write(tmp_path, config, [0.5, 0.75, math.nan])
    for text in ("(head_maps)", "Steps: 6,", "in 2 min", machine(torch.device("cpu")), f"torch {torch.__version__}"):
        assert text in card
    assert "| 10 | Thalamus | 0.500 |" in card
    assert "| 12 | Putamen |  |" in card
    assert "Apache-2.0" in card
    # Where it lay on the machine that trained is nobody's business.
    assert "/some/where" not in card + (tmp_path / "model" / "config.yaml").read_text()


def test_card_of_an_unfinished_run(tmp_path: Path) -> None:
    card = _write(tmp_path, tiny_config(), step=4)
    assert "Steps: 4 of 6 planned: the run was not finished" in card
    assert "Not stated." in card


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_machine(device: str) -> None:
    assert "threads" in machine(torch.device(device))
