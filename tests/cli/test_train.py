from __future__ import annotations

import csv
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from voxseg.cli.train import train
from voxseg.errors import UserError
from voxseg.inference.model import load_model
from voxseg.networks import build_network
from voxseg.training.environment import select_device

CONFIG = """
name: small
steps: 4
labels: {classes: [2, 10], merge_sides: true}
generator: {window: [16, 16, 16], spacing: 4.0}
network: {levels: [2x0e+1x1e, 4x0e+1x1e], encoder_convolutions: [1, 1], decoder_convolutions: [1]}
loss: {deep_supervision: [1.0]}
validation: {every: 2, windows: 1}
checkpoint: {steps: 2}
"""


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One head of nested boxes: tissue around the brain, white matter, and a thalamus on each side."""
    folder = tmp_path_factory.mktemp("maps")
    rows = [(0, 0, 0, 0), (500, 1, 1, 0), (2, 2, 2, 2), (41, 2, 2, 41), (10, 3, 3, 10), (49, 3, 3, 49)]
    _write_csv(
        folder / "labels.csv",
        ["map_label", "intensity_class_any_contrast", "intensity_class_t1", "segmentation_label"],
        rows,
    )
    prior = [(0, 7, 2, 5, 2), (1, 60, 10, 10, 3), (2, 160, 10, 12, 4), (3, 110, 10, 12, 4)]
    names = ["intensity_class_t1", "mean_of_mean", "std_of_mean", "mean_of_std", "std_of_std"]
    _write_csv(folder / "t1_intensity_prior.csv", names, prior)
    head = np.zeros((48, 48, 48), np.int16)
    head[4:44, 4:44, 4:44] = 500
    head[10:24, 10:38, 10:38], head[24:38, 10:38, 10:38] = 2, 41
    head[16:23, 18:30, 18:30], head[25:32, 18:30, 18:30] = 10, 49
    nib.save(nib.Nifti1Image(head, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "map_01.nii.gz")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def _write_csv(path: Path, names: list[str], rows: list[tuple[int, ...]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def _train(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(train)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_from_the_config_to_a_model_and_on(tmp_path: Path, config: Path, label_maps: Path) -> None:
    run = tmp_path / "run"
    output = _train(config, "--data", label_maps, "-o", run, "--device", "cpu", "--threads", 1, "--set", "steps=2")
    assert "done at step 2, Dice 0." in output
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"] == str(label_maps.resolve())
    assert saved["steps"] == 2

    # The run folder knows its config and its data.
    output = _train(run, "--resume", "--set", "steps=4")
    assert "going on at step 2, changed: steps 2 -> 4" in output
    # So does --resume with the config that it was started from.
    assert "going on at step 4" in _train(config, "-o", run, "--resume")
    rows = (run / "metrics.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["step", "1", "2", "3", "4"]
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 4
    # In the warm-up the learning rate is that of a run planned for four steps at once, and so are the weights.
    _train(config, "--data", label_maps, "-o", tmp_path / "whole", "--threads", 1)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert weights[0] == weights[1]
    with pytest.raises(UserError, match="exists and is not empty"):
        _train(config, "--data", label_maps, "-o", run)


@pytest.mark.parametrize(("precision", "in_software"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_a_processor_without_bfloat16_is_warned_of(
    tmp_path: Path, config: Path, label_maps: Path, monkeypatch: pytest.MonkeyPatch, precision: str, in_software: bool
) -> None:
    monkeypatch.setattr("voxseg.training.environment.bfloat16_in_software", lambda device: in_software)
    settings = ["--set", "steps=1", "--set", f"precision={precision}", "--device", "cpu", "--threads", 1]
    output = _train(config, "--data", label_maps, "-o", tmp_path / "run", *settings)
    warning = "warning: precision: bfloat16 is many times slower here than float32; add --set precision=float32"
    assert (warning in output) == (precision == "bfloat16" and in_software)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_stopped(tmp_path: Path, config: Path, label_maps: Path, number: signal.Signals, name: str, code: int) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", "import typer; from voxseg.cli.train import train; typer.run(train)"]
    arguments = [
        config,
        "--data",
        label_maps,
        "-o",
        run,
        "--threads",
        1,
        "--set",
        "steps=10000",
        "--set",
        "log_every=1",
    ]
    child = subprocess.Popen([*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert any(line.startswith("step 3/") for line in child.stderr)
    child.send_signal(number)
    shown = child.communicate(timeout=60)[1]
    assert child.returncode == code
    assert f"stopped by {name} at step" in shown
    assert f"go on with: voxseg train {run} --resume" in shown
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] >= 3


def test_predict_takes_the_model_of_a_run(tmp_path: Path, config: Path, label_maps: Path) -> None:
    _train(config, "--data", label_maps, "-o", tmp_path / "run")
    model = load_model(tmp_path / "run" / "model")
    averaged = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["averaged"]
    network = build_network(model.config.network)
    network.load_state_dict(averaged)
    scan = torch.randn(1, 1, 12, 13, 14)
    with torch.no_grad():
        torch.testing.assert_close(model.network(scan), network(scan), rtol=1e-4, atol=1e-4)
    assert model.table.ids == [2, 10]


def test_default_folder(tmp_path: Path, config: Path, label_maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _train(config, "--data", label_maps, "--set", "steps=1")
    assert (tmp_path / "runs" / "small" / "model" / "config.yaml").is_file()


def test_it_starts_from_another_model(tmp_path: Path, config: Path, label_maps: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _train(config, "--data", label_maps, "-o", first, "--set", "steps=2")
    more = ["--set", "labels.classes=[2, 10, 11]", "--set", f"initial_weights={first}"]
    output = _train(config, "--data", label_maps, "-o", second, "--set", "steps=2", "--set", "name=more", *more)
    assert (
        "initial_weights: 22 of 24 tensors from small; new: logits.0.bias (3 there, 4 here), logits.0.weights.0 (3 x "
        in output
    )

    # The card tells it, without paths of this machine.
    card = (second / "model" / "MODEL_CARD.md").read_text()
    assert "- Started from: the model small, trained for 2 steps, of which 22 of 24 tensors were taken" in card
    training = yaml.safe_load((second / "model" / "config.yaml").read_text())["training"]
    weights = (first / "model" / "model.safetensors").read_bytes()
    assert training["initial_weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(first) not in (second / "model" / "config.yaml").read_text()

    # A resumed run has its own weights and keeps the story, whatever became of that model.
    first.rename(tmp_path / "elsewhere")
    output = _train(second, "--resume", "--set", "steps=3")
    assert "going on at step 2, changed: steps 2 -> 3" in output
    assert "tensors" not in output
    assert "- Started from: the model small" in (second / "model" / "MODEL_CARD.md").read_text()
    _train(config, "-o", second, "--resume", "--set", "name=more", "--set", "labels.classes=[2, 10, 11]")
    with pytest.raises(UserError, match="initial_weights: is brain, but the run was started with"):
        _train(second, "--resume", "--set", "initial_weights=brain")


def test_a_run_killed_before_its_first_checkpoint_starts_from_that_model_again(
    tmp_path: Path, config: Path, label_maps: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _train(config, "--data", label_maps, "-o", first, "--set", "steps=2")
    start = ["--set", "steps=2", "--set", f"initial_weights={first}"]
    _train(config, "--data", label_maps, "-o", second, *start, "--threads", 1)
    whole = (second / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(second / "checkpoints")
    assert "initial_weights: 24 of 24 tensors from small" in _train(second, "--resume", "--threads", 1)
    assert (second / "model" / "model.safetensors").read_bytes() == whole


def test_mistakes(tmp_path: Path, config: Path, label_maps: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"data: is not set; .* --data FOLDER"):
        _train(config, "-o", run)
    with pytest.raises(UserError, match="missing: is not a folder"):
        _train(config, "-o", run, "--data", tmp_path / "missing")
    with pytest.raises(UserError, match="--set optimizer: unknown key; did you mean 'optimiser'"):
        _train(config, "-o", run, "--set", "optimizer=1")
    with pytest.raises(UserError, match="--device tpu: is not known"):
        _train(config, "-o", run, "--data", label_maps, "--device", "tpu")
    with pytest.raises(UserError, match="there is no run to go on with"):
        _train(config, "-o", run, "--data", label_maps, "--resume")
    with pytest.raises(UserError, match=r"initial_weights .*nowhere: there is no such model; give one of these names"):
        _train(config, "-o", run, "--data", label_maps, "--set", "initial_weights=nowhere")
    assert not run.exists()


def test_device() -> None:
    assert select_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda: there is none on this machine"):
            select_device("cuda")


def test_a_wrong_path_is_told_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom voxseg.cli.train import train\nfrom voxseg.errors import UserError\n"
        "try:\n    train('nowhere.yaml')\nexcept UserError as error:\n    print(error, 'torch' in sys.modules)"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("nowhere.yaml: no such file")
    assert result.stdout.strip().endswith("False")
    assert time.monotonic() - started < 10
