from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny_training import (
    SIZE,
    BandBatches,
    BandSource,
    TinyNetwork,
    metrics_without_time,
    tiny_config,
    tiny_run,
    weights,
)
from voxseg.errors import UserError
from voxseg.networks import build_network
from voxseg.training.environment import StopSignals, seed_everything
from voxseg.training.loop import Outcome, fit, train
from voxseg.training.progress import read_metrics
from voxseg.training.run import check_folder
from voxseg.training.step import forward
from voxseg.training.validation import WindowValidation


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _fit(folder: Path, resume: bool = False, source: BandSource | None = None, **changes: Any) -> Outcome:
    seed_everything(5)
    run = tiny_run(folder, **changes)
    bands = source or BandSource()
    validation = WindowValidation(cast(Any, bands), run.config)
    return fit(run, TinyNetwork(), BandBatches(bands, run), validation, resume)


def _assert_same_bits(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left["step"] == right["step"]
    for part in ("network", "averaged"):
        assert left[part].keys() == right[part].keys()
        assert all(torch.equal(left[part][name], right[part][name]) for name in left[part])
    for index, moments in left["optimiser"]["state"].items():
        assert all(torch.equal(moments[name], right["optimiser"]["state"][index][name]) for name in moments)
    assert torch.equal(left["random"]["torch"], right["random"]["torch"])
    assert metrics_without_time(a) == metrics_without_time(b)
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()


def _stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Sends this process a signal in the middle of a step."""
    original = BandSource.sample

    def sample(self: BandSource, seed: Any, batch: int = 1) -> Any:
        if seed[1:] == (step - 1, 0):
            os.kill(os.getpid(), number)
        return original(self, seed, batch)

    monkeypatch.setattr(BandSource, "sample", sample)


@pytest.mark.parametrize("first", [1, 3, 4])
def test_resumed_run_is_the_uninterrupted_one_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    assert _fit(tmp_path / "whole").step == 6
    with monkeypatch.context() as patch:
        _stop_after(patch, first)
        stopped = _fit(tmp_path / "parts")
        assert (stopped.step, stopped.signal) == (first, signal.SIGTERM)
    finished = _fit(tmp_path / "parts", resume=True)
    assert (finished.step, finished.signal) == (6, None)
    _assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_killed_after_a_checkpoint_the_rows_beyond_it_are_written_once(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Source(BandSource):
        def sample(self, seed: Any, batch: int = 1) -> Any:
            if seed[1:] == (4, 0):
                raise Killed
            return super().sample(seed, batch)

    _fit(tmp_path / "whole")
    with pytest.raises(Killed):
        _fit(tmp_path / "parts", source=Source())
    assert weights(tmp_path / "parts")["step"] == 3
    assert read_metrics(tmp_path / "parts" / "metrics.csv")["step"] == [1, 2, 3, 4]
    _fit(tmp_path / "parts", resume=True)
    _assert_same_bits(tmp_path / "whole", tmp_path / "parts")


def test_truncated_checkpoint_goes_on_from_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fit(tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    os.truncate(last, last.stat().st_size // 2)
    capsys.readouterr()
    _fit(tmp_path / "run", resume=True)
    assert "going on from previous.pt at step 3" in capsys.readouterr().err
    _fit(tmp_path / "whole")
    _assert_same_bits(tmp_path / "whole", tmp_path / "run")


def test_killed_before_the_first_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        _fit(tmp_path / "run", source=BandSource(nan_at=1))
    _fit(tmp_path / "run", resume=True)
    assert "no checkpoint yet, starting at step 0" in capsys.readouterr().err
    _fit(tmp_path / "whole")
    _assert_same_bits(tmp_path / "whole", tmp_path / "run")


def test_steps_may_be_raised_but_not_lowered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fit(tmp_path)
    capsys.readouterr()
    assert _fit(tmp_path, resume=True, steps=9, optimiser={"weight_decay": 0.5}).step == 9
    shown = capsys.readouterr().err
    assert "going on at step 6, changed: steps 6 -> 9; optimiser.weight_decay 0.0001 -> 0.5" in shown
    assert read_metrics(tmp_path / "metrics.csv")["step"] == list(range(1, 10))
    assert weights(tmp_path)["optimiser"]["param_groups"][0]["weight_decay"] == 0.5
    with pytest.raises(UserError, match="steps: is 4, but 9 were taken; raise it"):
        _fit(tmp_path, resume=True, steps=4)


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    _fit(tmp_path)
    told = ("events", "environment")  # of every start
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not any(word in str(path) for word in told)]
    before = {path: path.read_bytes() for path in files}
    assert _fit(tmp_path, resume=True).step == 6
    assert [part["from_step"] for part in json.loads((tmp_path / "environment.json").read_text())] == [0, 6]
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"group": "O3"}}, "network.group: is O3, but the run was started with SO3"),
        ({"labels": {"classes": [10, 11, 13]}}, "labels.classes: is .*10, 11, 13.*, but the run was started with"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _fit(tmp_path)
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UserError, match=message):
        _fit(tmp_path, resume=True, **changes)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    assert "SO3" in (tmp_path / "config.yaml").read_text()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    _fit(tmp_path)
    run = tiny_run(tmp_path)
    with pytest.raises(UserError, match="does not fit this network"):
        fit(run, TinyNetwork(classes=7), BandBatches(BandSource(), run), None, resume=True)


def test_folders(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", resume=False)
    check_folder(tmp_path, resume=False)
    with pytest.raises(UserError, match="there is no run to go on with"):
        check_folder(tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("name: refused before its first step")
    check_folder(tmp_path, resume=False)
    check_folder(tmp_path, resume=True)
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="exists and is not empty"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(UserError, match="exists and is not empty"):
        check_folder(tmp_path / "notes.txt", resume=False)


def test_nan_loss_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    message = r"the loss is nan .* in step 5 \(generated scan \(0, 4, 0\); kept as failed.step_000005.npz\); the last"
    with pytest.raises(UserError, match=message):
        _fit(tmp_path, source=BandSource(nan_at=4))
    saved = weights(tmp_path)
    assert saved["step"] == 3
    assert all(tensor.isfinite().all() for tensor in saved["network"].values())
    assert read_metrics(tmp_path / "metrics.csv")["step"] == [1, 2, 3, 4]
    with np.load(tmp_path / "failed" / "step_000005.npz") as kept:
        assert np.isnan(kept["image"]).all()
        assert kept["image"].shape == (1, 1, SIZE, SIZE, SIZE)
        assert set(np.unique(kept["target"])) == {0, 1, 2, 3}
    assert _fit(tmp_path, resume=True).step == 6


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the last checkpoint is kept"):
        _fit(tmp_path, source=BandSource(nan_at=4))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"step 6 cannot .*No space.*; the checkpoint of step 3 is kept"):
        _fit(tmp_path, resume=True)
    assert weights(tmp_path)["step"] == 3


def test_time_between_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        _fit(tmp_path, source=BandSource(nan_at=2), checkpoint={"steps": 1000, "minutes": 1e-9})
    assert weights(tmp_path)["step"] == 2


def test_what_a_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = BandSource()
    assert 0 <= _fit(tmp_path, source=source).dice <= 1
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    model = [f"model/{name}" for name in ("MODEL_CARD.md", "config.yaml", "labels.csv", "model.safetensors")]
    assert files == [
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        *model,
        "progress.png",
    ]
    assert "tensorboard is not installed" in capsys.readouterr().err
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert [not math.isnan(dice) for dice in metrics["dice"]] == [False, True] * 3
    assert metrics["learning_rate"][-1] == pytest.approx(1e-5)
    assert source.seeds[2:] == [(0, step, 0) for step in range(6)]
    assert not set(source.seeds[:2]) & set(source.seeds[2:])


def test_it_learns(tmp_path: Path) -> None:
    outcome = _fit(tmp_path, steps=80, batch=2, validation={"every": 80, "windows": 2}, averaging={"decay": 0.9})
    assert outcome.dice > 0.8


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    _fit(tmp_path / "single")
    _fit(tmp_path / "half", precision="bfloat16")
    single, half = (read_metrics(tmp_path / name / "metrics.csv")["loss"] for name in ("single", "half"))
    assert half == pytest.approx(single, rel=0.02)
    assert half != single
    assert weights(tmp_path / "half")["network"]["fine.weight"].dtype == torch.float32
    assert forward(TinyNetwork().eval(), torch.zeros(1, 1, SIZE, SIZE, SIZE), "bfloat16").dtype == torch.bfloat16


@pytest.fixture
def usual_interrupt() -> Iterator[None]:
    """Ctrl-C raises, even where the tests were started in the background by a shell that lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_interrupt")
def test_second_signal_acts_as_before() -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


CHILD = """
import sys, time
sys.path.insert(0, {here!r})
import torch
from torch import Tensor
from collections.abc import Iterator
from pathlib import Path
from tiny_training import BandBatches, BandSource, TinyNetwork, tiny_run
from voxseg.training.environment import seed_everything
from voxseg.training.loop import fit

class Slow(BandSource):
    def sample(self, seed, batch=1):
        time.sleep(0.05)
        return super().sample(seed, batch)

torch.set_num_threads(1)
seed_everything(5)
run = tiny_run(Path({folder!r}), steps=300, log_every=1, checkpoint={{"steps": 4}})
outcome = fit(run, TinyNetwork(), BandBatches(Slow(), run), None)
sys.exit(128 + outcome.signal if outcome.signal else 0)
"""


def _child_until_step(folder: Path, step: int) -> subprocess.Popen[str]:
    code = CHILD.format(here=str(Path(__file__).parents[1]), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith(f"step {step}/"):
            return child
    raise AssertionError(f"the child ended with {child.wait()}")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_sigterm_saves_the_step_and_kill_loses_little(tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = _child_until_step(run, 6)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    step = weights(run)["step"]
    assert step >= 6
    assert read_metrics(run / "metrics.csv")["step"] == list(range(1, step + 1))

    run = tmp_path / "killed"
    child = _child_until_step(run, 10)
    child.kill()
    child.communicate(timeout=60)
    saved = weights(run)["step"]
    assert saved >= 8
    _fit(run, resume=True, steps=saved + 3)
    assert read_metrics(run / "metrics.csv")["step"] == list(range(1, saved + 4))


class _Hungry(TinyNetwork):
    def forward(self, x: Tensor, deep_supervision: bool = False) -> Any:
        return super().forward(x.repeat(2**40, 1, 1, 1, 1), deep_supervision)


def test_out_of_memory_tells_what_to_lower(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, batch=2)
    message = (
        r"out of memory on cpu after step 0; lower generator.window \(now 12 x 12 x 12\), or raise accumulate "
        r"\(batch 2, accumulate 1\), or set network.checkpointing=true, and use --resume"
    )
    with pytest.raises(UserError, match=message):
        fit(run, _Hungry(), BandBatches(BandSource(), run), None)


def test_checkpointing_may_change_within_a_run(tmp_path: Path) -> None:
    _fit(tmp_path, steps=3)
    assert _fit(tmp_path, resume=True, network={"checkpointing": True}).step == 6


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no compiler")
def test_a_compiled_network_trains_as_the_plain_one_does(tmp_path: Path) -> None:
    """The compiler sees a steerable network in pieces; a resumed run takes up the state of one that was compiled."""
    blocks = {"levels": ["3x0e+1x1e", "4x0e+1x1e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1]}
    losses = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        for steps, resume in ((2, False), (4, True)):
            seed_everything(3)
            changes = {"network": blocks, "loss": {"deep_supervision": [1.0]}, "schedule": {"warmup": 9}}
            run = tiny_run(tmp_path / name, steps=steps, compile=compiled, **changes)
            fit(run, build_network(run.config.network), BandBatches(BandSource(), run), None, resume)
        losses[name] = read_metrics(tmp_path / name / "metrics.csv")["loss"]
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-4)
    assert weights(tmp_path / "compiled")["network"].keys() == weights(tmp_path / "plain")["network"].keys()


def test_float16_is_for_gpus(tmp_path: Path) -> None:
    config = tiny_config(precision="float16", data=str(tmp_path))
    with pytest.raises(UserError, match="precision: float16 is for CUDA, this is cpu; use bfloat16 or float32"):
        train(config, tmp_path / "run", "cpu")


def test_accumulated_parts_have_the_gradient_of_the_batch(tmp_path: Path) -> None:
    cross_entropy = {"deep_supervision": [1.0], "dice": 0.0}
    for name, accumulate in (("at_once", 1), ("in_parts", 4)):
        run = tiny_run(tmp_path / name, batch=4, accumulate=accumulate, loss=cross_entropy, steps=3)
        network = TinyNetwork()
        network.dropout.p = 0.0
        fit(run, network, BandBatches(BandSource(), run), None)
    losses = [read_metrics(tmp_path / name / "metrics.csv")["loss"] for name in ("at_once", "in_parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
