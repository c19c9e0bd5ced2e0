from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_training import metrics_without_time, weights
from voxseg.training.distributed import SINGLE, join_processes
from voxseg.training.progress import read_metrics

PROGRAM = Path(__file__).with_name("run_tiny.py")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PROGRAM.parents[1]), "OMP_NUM_THREADS": "1"}


def _run(folder: Path, batch: int, steps: int, *options: str, processes: int = 1) -> None:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0", "--standalone"]
    command = [*start, str(PROGRAM), str(folder), str(batch), str(steps), *options]
    subprocess.run(command, check=True, env=_environment(), capture_output=True, timeout=900)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch_and_go_on_to_the_bit(tmp_path: Path) -> None:
    _run(tmp_path / "one", batch=4, steps=8)
    _run(tmp_path / "two", batch=2, steps=8, processes=2)
    one, two = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert one["step"] == two["step"] == list(range(1, 9))
    assert one["loss"][-1] < 0.9 * one["loss"][0]
    for column in ("loss", "gradient_norm"):
        assert two[column] == pytest.approx(one[column], rel=2e-4)
    left, right = weights(tmp_path / "one")["network"], weights(tmp_path / "two")["network"]
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-4)

    _run(tmp_path / "parts", batch=2, steps=4, processes=2)
    _run(tmp_path / "parts", 2, 8, "--resume", processes=2)
    parts = weights(tmp_path / "parts")["network"]
    assert all(torch.equal(right[name], parts[name]) for name in right)
    assert metrics_without_time(tmp_path / "two") == metrics_without_time(tmp_path / "parts")


@pytest.mark.slow
def test_killed_ten_times_in_a_row(tmp_path: Path) -> None:
    """Whatever moment the power fails at, training goes on from the last checkpoint to the same end."""
    steps = 240
    _run(tmp_path / "whole", 1, steps)
    luck = random.Random(4)
    folder, killed = tmp_path / "parts", 0
    while killed < 10:
        command = [sys.executable, str(PROGRAM), str(folder), "1", str(steps), *(["--resume"] if killed else [])]
        child = subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL)
        first = _rows(folder)
        while child.poll() is None and _rows(folder) < first + luck.randint(1, 40):
            time.sleep(luck.uniform(0, 0.02))
        assert child.poll() is None, "the run has ended before it was killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed += 1
    _run(folder, 1, steps, "--resume")
    assert not list((folder / "checkpoints").glob("broken*"))
    left, right = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(left["network"][name], right["network"][name]) for name in left["network"])
    assert metrics_without_time(folder) == metrics_without_time(tmp_path / "whole")


def _rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_processes_wait_for_a_data_set_that_takes_long_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **options: given.update(options))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with join_processes("cpu") as (processes, device):
        assert (processes.rank, processes.world, device.type) == (1, 2, "cpu")
    assert given["timeout"].total_seconds() >= 6 * 3600


def test_alone_everything_is_free() -> None:
    tensor = torch.ones(3)
    assert SINGLE.sum(tensor) is tensor
    assert SINGLE.totals([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]
    assert SINGLE.gather("a") == ["a"]
    assert SINGLE.leader_does(lambda: 3) == 3
    assert SINGLE.leads
