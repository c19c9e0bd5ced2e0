"""`voxseg benchmark`, as its user sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.image import imread

from voxseg.cli import main

TINY: dict[str, Any] = {
    "name": "tiny heads",
    "sizes": [1, 2],
    "seeds": [0],
    "arms": [
        {"name": "steerable", "title": "steerable U-Net", "architecture": "steerable_unet"},
        {"name": "plain", "title": "plain twin", "architecture": "plain_unet"},
    ],
    "heads": {"images": ["flair"], "spacing": 6.0, "field_mm": [144, 168, 144], "radius_mm": [15, 24]},
    "pool": 2,
    "training": {
        "steps": 2,
        "windows": {"size": [16, 16, 16]},
        "dataset": {"workers": 0},
        "network": {"levels": ["2x0e+1x1e", "4x0e+1x1e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1]},
        "loss": {"deep_supervision": [1.0]},
        "schedule": {"warmup": 1},
    },
    "test": {"cases": 1, "poses": [{"axis": [0, 0, 1], "degrees": 90}]},
    "fit": {"draws": 100},
}


@pytest.fixture(autouse=True)
def _command(monkeypatch):
    monkeypatch.setattr(main, "COMMANDS", tuple(dict.fromkeys((*main.COMMANDS, "benchmark"))))


def call(*arguments) -> int:
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        main.run(["benchmark", "data-efficiency", *map(str, arguments)])
    return caught.value.code or 0


def write(path: Path, **changes) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def test_the_whole_way_and_again(tmp_path, capsys):
    config, folder = write(tmp_path / "tiny.yaml"), tmp_path / "out"
    assert call(config, "-o", folder, "--device", "cpu") == 0
    first = capsys.readouterr()
    lines = first.out.splitlines()
    assert lines[0] == "Dice, mean over the structures, upright (as they are); mean over seeds, lowest and highest"
    assert lines[1].split() == ["cases", "1", "2"]
    assert lines[2].startswith("steerable U-Net  ")
    assert "two sizes: c was set to 0" in first.out
    assert "one run a size" in first.out
    assert lines[-1] == str(folder / "learning_curves.png")
    told = first.err.splitlines()
    assert [line.split(":")[0] for line in told] == [
        "steerable, 1 case, seed 0", "plain, 1 case, seed 0", "steerable, 2 cases, seed 0", "plain, 2 cases, seed 0",
    ]  # fmt: skip
    assert imread(folder / "learning_curves.png").shape[2] >= 3
    assert len((folder / "runs.csv").read_text().splitlines()) == 1 + 4 * 2
    assert len(json.loads((folder / "fits.json").read_text())["fits"]) == 4
    (folder / "learning_curves.png").unlink()
    assert call("-o", folder, "--device", "cpu") == 0, "the folder knows its config"
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""
    assert (folder / "learning_curves.png").is_file()
    assert len(json.loads((folder / "environment.json").read_text())) == 2
    assert call("-o", folder, "--set", "training.steps=3") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"voxseg: training.steps: is 3, but {folder} was begun with 2; put it back, or choose another -o"


def test_a_run_that_fails_is_listed(tmp_path, capsys):
    arms = [{"name": "half", "training": {"precision": "float16"}}, TINY["arms"][1]]
    assert call(write(tmp_path / "b.yaml", arms=arms, sizes=[1]), "-o", tmp_path / "out", "--device", "cpu") == 1
    captured = capsys.readouterr()
    assert "1 run failed:" in captured.err
    assert "  half, 1 case, seed 0: precision: float16 is for CUDA" in captured.err
    assert "1 of 2 runs are finished" in captured.out
    assert "one size: no curve can be fitted" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "size=[1]"], "--set size: unknown key; did you mean 'sizes'?"),
        (["--set", "training.step=5"], "data_efficiency.yaml, arm steerable: step: unknown key; did you mean 'steps'?"),
        (["--set", "sizes"], "--set sizes: is not key=value"),
        (["--set", "fit.level=95"], "--set fit.level: 95 is not allowed"),
        (
            ["missing.yaml"],
            "missing.yaml: no such file and no such packaged benchmark; packaged are: baselines, data_efficiency",
        ),
        (["--data", "scans"], "data_efficiency.yaml: a data set (data) needs a training config (config)"),
        (["--data", "scans", "--set", "config=brats"], "brats: no such file and no such packaged config"),
        (["data_efficiency_brats2020", "--data", "scans"], "scans: does not exist"),
        (["data_efficiency_brats2020", "-o", "out"], "data_efficiency_brats2020.yaml: config is for a data set"),
        (["-o", "out", "--device", "abacus"], "--device abacus: is not known"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"voxseg: {message}")


def test_help_and_a_wrong_path_come_at_once():
    program = (
        "import sys; from voxseg.cli import main; main.COMMANDS = (*main.COMMANDS, 'benchmark')\n"
        "try: main.run(['benchmark', 'data-efficiency', ARGUMENT])\n"
        "finally: print('heavy:', sorted({'torch', 'numpy', 'matplotlib', 'monai', 'nibabel'} & set(sys.modules)))"
    )
    for argument, code in (("--help", 0), ("missing.yaml", 2)):
        command = [sys.executable, "-c", program.replace("ARGUMENT", repr(argument))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert "heavy: []" in done.stdout


# voxseg benchmark baselines


@pytest.mark.slow
def test_baselines_are_trained_measured_and_not_trained_again(tmp_path, capsys):
    """Every hosted model is in the plan; two of them are run here, at toy size."""
    folder = tmp_path / "out"
    changes = [
        "sizes=[2]", "seeds=[0]", "pool=2", "test.cases=1", "training.steps=2", "training.schedule.warmup=1",
        "training.windows.size=[16,16,16]", "heads.images=[flair]", "test.poses=[{axis: [0, 0, 1], degrees: 90}]",
    ]  # fmt: skip
    arguments = ["-o", folder, "--device", "cpu", *(part for change in changes for part in ("--set", change))]
    assert call_baselines(*arguments, "--models", "steerable_unet,se3cnn") == 0
    first = capsys.readouterr()
    head, _, columns, _, *table = (folder / "baselines.md").read_text(encoding="utf-8").splitlines()
    assert head.startswith(
        "baselines on generated heads with tumours: 2 steps on 2 cases, 1 seed; Dice of whole tumour"
    )
    assert columns.startswith("| model | weights | step |")
    assert [line.split(" | ")[0] for line in table] == ["| steerable_unet", "| se3cnn"]
    assert all(float(line.split(" | ")[4]) < 1e-4 for line in table), "exact under the grid's rotations"
    assert all(int(line.split(" | ")[3].split()[0]) > 0 for line in table), "memory"
    assert imread(folder / "baselines.png").shape[2] >= 3
    rows = [line.split(",") for line in (folder / "baselines.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["model", "steerable_unet", "se3cnn"]
    assert "".join(table[0].split(" | ")[0]) in first.out
    assert call_baselines("-o", folder, "--device", "cpu") == 0, "the folder knows its config"
    assert capsys.readouterr().out == first.out, "nothing is measured again"


def test_a_folder_takes_further_models_later(tmp_path, capsys):
    folder = tmp_path / "out"
    arms = [{"name": "steerable_unet"}, {"name": "own", "architecture": "plain_unet"}]
    config = write(tmp_path / "b.yaml", arms=arms, sizes=[1])
    assert call_baselines(config, "-o", folder, "--device", "cpu", "--models", "own") == 0
    assert capsys.readouterr().err.startswith("own, 1 case, seed 0: ")
    result = folder / "runs" / "own" / "cases_0001" / "seed_0" / "result.json"
    before = result.read_bytes()
    result.unlink()
    assert call_baselines("-o", folder, "--device", "cpu", "--models", "e3nn_gates") == 0
    captured = capsys.readouterr()
    assert [line.split(",")[0] for line in captured.err.splitlines()] == ["e3nn_gates"], "only what was asked for"
    result.write_bytes(before)
    assert call_baselines("-o", folder, "--device", "cpu") == 0
    captured = capsys.readouterr()
    assert captured.err == "", "both are there"
    table = (folder / "baselines.md").read_text(encoding="utf-8").splitlines()[4:]
    assert [line.split(" | ")[0] for line in table] == ["| e3nn_gates", "| own"]
    assert call_baselines("-o", folder, "--models", "e3nn") == 2
    assert "--models e3nn: is no model of this benchmark; there are steerable_unet, " in capsys.readouterr().err


@pytest.mark.slow
def test_where_dice_is_lost_pose_by_pose(tmp_path):
    folder = tmp_path / "out"
    assert call_baselines(write(tmp_path / "b.yaml", sizes=[1]), "-o", folder, "--device", "cpu") == 0
    program = Path(__file__).parents[2] / "benchmarks" / "baseline_poses.py"
    done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heads, _, *poses = ([cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines())
    assert heads[:3] == ["model", "upright", "90 about (0, 0, 1)"]
    assert [row[0] for row in poses] == ["steerable U-Net", "plain twin"]
    assert all(float(cell) >= 0 for row in poses for cell in row[1:])


def test_the_plan_of_the_baselines_holds_every_hosted_network(tmp_path):
    from voxseg.evaluation.data_efficiency_config import load_benchmark, training_config
    from voxseg.evaluation.data_efficiency_file import find_benchmark
    from voxseg.networks import HOSTED

    config = load_benchmark(find_benchmark(None, tmp_path, "baselines"))
    networks = [training_config(config, arm).network for arm in config.arms]
    assert [network.architecture for network in networks] == ["steerable_unet", "plain_unet", *sorted(HOSTED)]


def test_models_that_are_none(tmp_path, capsys):
    assert call_baselines("-o", tmp_path / "out", "--models", "steerable") == 2
    assert "--models steerable: is no model of this benchmark" in capsys.readouterr().err


def call_baselines(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main.run(["benchmark", "baselines", *map(str, arguments)])
    return caught.value.code or 0
