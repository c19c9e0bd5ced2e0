"""From the folder of a data set to a segmentation, through the commands that a lab would use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from small_cases import write_case
from tiny_training import metrics_without_time, weights
from voxseg.data.labels import LabelTable
from voxseg.errors import UserError
from voxseg.training.config import TrainingConfig
from voxseg.training.data import open_data, resolve_paths
from voxseg.training.distributed import SINGLE
from voxseg.training.loop import train
from voxseg.training.progress import read_metrics
from voxseg.training.run import Run

CONFIG: dict[str, Any] = {
    "name": "balls",
    "steps": 6,
    "labels": {
        "classes": [1, 2, 4],
        "unlisted": "refuse",
        "table": [{"id": 1, "name": "core"}, {"id": 2, "name": "oedema"}, {"id": 4, "name": "rim"}],
        "regions": [
            {"name": "whole", "ids": [1, 2, 4], "label": 2},
            {"name": "inner", "ids": [1, 4], "label": 1},
            {"name": "rim", "ids": [4], "label": 4},
        ],
    },
    "dataset": {"folds": 3, "fold": 1, "workers": 0},
    "preparation": {"spacing": 1.5, "images": {"flair": {"scale": "zscore"}, "t1": {"scale": "zscore"}}, "crop": False},
    "windows": {"size": [16, 16, 16]},
    "postprocessing": {"largest_component": False},
    "network": {"levels": ["3x0e+1x1e", "4x0e+1x1e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1]},
    "loss": {"deep_supervision": [1.0]},
    "schedule": {"warmup": 2},
    "validation": {"every": 3},
    "checkpoint": {"steps": 3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases in the layout of BraTS."""
    folder = tmp_path_factory.mktemp("balls")
    for k in range(3):
        write_case(folder / f"Case_{k}", f"Case_{k}", seed=k)
    return folder


def _config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**CONFIG, **changes})


def _train(folder: Path, data: Path, resume: bool = False, **changes: Any) -> None:
    config = _config(**changes).model_copy(update={"data": data})
    train(config, folder, "cpu", resume)


def _voxseg(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "voxseg", *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)


def test_from_the_folder_to_a_segmentation_by_commands(tmp_path: Path, data: Path) -> None:
    config, run = tmp_path / "balls.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(CONFIG))
    assert _voxseg("data", "check", data, "--config", config).returncode == 0
    trained = _voxseg("train", config, "--data", data, "-o", run, "--device", "cpu", "--fold", 0)
    assert trained.returncode == 0, trained.stderr
    assert "2 of 2 cases to prepare" in trained.stderr
    assert "on held-out cases" in trained.stderr

    splits = json.loads((run / "splits.json").read_text())
    assert [len(split["val"]) for split in splits] == [1, 1, 1]
    (held_out,) = splits[0]["val"]
    assert sorted([*splits[0]["train"], held_out]) == ["Case_0", "Case_1", "Case_2"]
    assert [path.name for path in (run / "pictures").iterdir()] == [f"{held_out}.png"]
    assert {entry.name.rsplit("-", 1)[0] for entry in (run / "cache").iterdir()} == set(splits[0]["train"])
    (environment,) = json.loads((run / "environment.json").read_text())
    assert environment["from_step"] == 0
    metrics = read_metrics(run / "metrics.csv")
    for column in ("dice", "turned", "equivariance_error"):
        assert [not np.isnan(value) for value in metrics[column]] == [False, False, True] * 2
    card = (run / "model" / "MODEL_CARD.md").read_text()
    assert "2 cases to train on and 1 held out" in card
    assert "| 2 | whole |" in card
    assert str(data.parent) not in card + (run / "model" / "config.yaml").read_text()

    predicted = _voxseg("predict", data / held_out, "--model", run, "-o", tmp_path / "out", "--device", "cpu")
    assert predicted.returncode == 0, predicted.stderr
    result = nib.load(next((tmp_path / "out").glob("*_seg.nii.gz")))
    scan = nib.load(data / held_out / f"{held_out}_flair.nii.gz")
    assert result.shape == scan.shape
    assert np.array_equal(result.affine, scan.affine)
    assert set(np.unique(np.asanyarray(result.dataobj))) <= {0, 1, 2, 4}
    assert LabelTable.read(run / "model" / "labels.csv").names == ["core", "oedema", "rim"]


def test_resumed_with_other_workers_it_is_the_uninterrupted_run_to_the_bit(tmp_path: Path, data: Path) -> None:
    torch.set_num_threads(1)
    _train(tmp_path / "whole", data)
    stopped = _config().model_copy(update={"data": data})
    run = Run(tmp_path / "parts", stopped, stopped.labels.predicted(), torch.device("cpu"))
    _stop_at(run, 3)
    _train(tmp_path / "parts", data, resume=True, dataset={"folds": 3, "fold": 1, "workers": 2})
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for part in ("network", "averaged"):
        assert all(torch.equal(left[part][name], right[part][name]) for name in left[part])
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "parts")
    for name in ("model.safetensors", "labels.csv"):
        assert (tmp_path / "whole/model" / name).read_bytes() == (tmp_path / "parts/model" / name).read_bytes()


def _stop_at(run: Run, step: int) -> None:
    """Ends a run at a checkpoint, as a killed one does."""
    import voxseg.training.step as module

    original = module.Step.take

    def take(self: Any, stop: Any) -> Any:
        if self.state.step == step:
            raise KeyboardInterrupt
        return original(self, stop)

    module.Step.take = take  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            train(run.config, run.folder, "cpu")
    finally:
        module.Step.take = original  # type: ignore[method-assign]


def test_the_network_and_the_transform_of_a_user(tmp_path: Path, data: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
import torch
from monai.transforms import MapTransform

class Shift(MapTransform):
    def __init__(self, keys, by):
        super().__init__(keys)
        self.by = by

    def __call__(self, data):
        return data | {key: data[key] + self.by for key in self.keys}

class Tiny(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(2, width, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(width, 3, 1)
        )

    def forward(self, x):
        return self.layers(x)
"""
    )
    config = {
        **CONFIG,
        "augmentation": {"transforms": [{"path": "mine:Shift", "arguments": {"keys": ["image"], "by": 0.1}}]},
        "network": {"architecture": "mine:Tiny", "arguments": {"width": 4}},
    }
    del config["loss"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    run, here = tmp_path / "run", {"PYTHONPATH": str(tmp_path)}
    trained = _voxseg("train", path, "--data", data, "-o", run, "--device", "cpu", **here)
    assert trained.returncode == 0, trained.stderr
    case = ["predict", data / "Case_0", "--model", run, "-o", tmp_path / "out", "--device", "cpu"]
    refused = _voxseg(*case, **here)
    assert refused.returncode == 2
    assert "--allow-import" in refused.stderr
    predicted = _voxseg(*case, "--allow-import", **here)
    assert predicted.returncode == 0, predicted.stderr


def test_two_of_the_images_and_every_case(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "balls.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    options = ["--images", "t1", "--fold", "all", "--set", "steps=1", "--device", "cpu"]
    trained = _voxseg("train", path, "--data", data, "-o", tmp_path / "run", *options)
    assert trained.returncode == 0, trained.stderr
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert list(saved["preparation"]["images"]) == ["t1"]
    assert saved["network"]["in_channels"] == 1
    assert not (tmp_path / "run" / "splits.json").exists()
    refused = _voxseg("train", path, "--data", data, "-o", tmp_path / "other", "--images", "t1,t2")
    assert refused.returncode == 2
    assert "--images t2: is not in preparation.images; balls.yaml has flair, t1" in refused.stderr


def test_a_run_that_gets_no_better_ends(tmp_path: Path, data: Path) -> None:
    changes = {"optimiser": {"learning_rate": 1e-12}, "schedule": {"warmup": 0, "final_learning_rate": 0.0}}
    validation = {"every": 1, "patience": 2, "turned_deg": 0}
    _train(tmp_path / "run", data, steps=50, validation=validation, **changes)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics["step"] == [1, 2, 3]
    assert weights(tmp_path / "run")["step"] == 3
    assert np.isnan(metrics["turned"]).all()


def test_whole_cases_and_parts_of_a_batch(tmp_path: Path, data: Path) -> None:
    _train(tmp_path / "whole", data, windows={"size": "whole"}, steps=3)
    assert np.isfinite(read_metrics(tmp_path / "whole" / "metrics.csv")["loss"]).all()
    for name, accumulate in (("at_once", 1), ("in_parts", 2)):
        cross_entropy = {"deep_supervision": [1.0], "dice": 0.0}  # Dice pools the samples of a part
        _train(tmp_path / name, data, batch=2, accumulate=accumulate, steps=3, loss=cross_entropy)
    losses = [read_metrics(tmp_path / name / "metrics.csv")["loss"] for name in ("at_once", "in_parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _open(folder: Path, data: Path, **changes: Any) -> None:
    config = resolve_paths(_config(**changes).model_copy(update={"data": data}), folder, False)
    open_data(Run(folder, config, config.labels.predicted(), torch.device("cpu")), SINGLE)


def test_what_stops_training_before_it_begins(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "data"
    for k in range(3):
        write_case(folder / f"Case_{k}", f"Case_{k}", seed=k)
    label = folder / "Case_1" / "Case_1_seg.nii.gz"
    image = nib.load(label)
    ids = np.asanyarray(image.dataobj).copy()
    ids[ids == 4] = 3
    nib.save(nib.Nifti1Image(ids, image.affine), label)
    with pytest.raises(UserError, match=r"(?s)Case_1.*label.* 3.*voxseg data check"):
        _open(tmp_path / "run", folder)
    with pytest.raises(UserError, match="3 subjects cannot be divided into 5 folds"):
        _open(tmp_path / "run", data, dataset={"folds": 5, "workers": 0})
    with pytest.raises(UserError, match="data: is not set; give the folder of the data set with --data FOLDER"):
        resolve_paths(_config(), tmp_path / "run", False)
    assert not (tmp_path / "run").exists()


def test_what_is_not_installed_is_told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "voxseg.training.dataset_run", raising=False)
    monkeypatch.setitem(sys.modules, "voxseg.training.dataset_source", None)
    with pytest.raises(UserError, match=r"training on a data set: needs the package .*; pip install 'voxseg\[train\]'"):
        _open(tmp_path / "run", data)
