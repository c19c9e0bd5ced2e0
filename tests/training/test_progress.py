from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from voxseg.errors import UserError
from voxseg.training.progress import (
    Display,
    MetricsFile,
    format_seconds,
    open_tensorboard,
    read_metrics,
    score_table,
)

COLUMNS = ["step", "loss", "dice", "dice Left, odd"]


def _write(path: Path, first: int, last: int) -> None:
    file = MetricsFile(path, COLUMNS, first - 1)
    for step in range(first, last + 1):
        file.write({"step": step, "loss": step / 3, "dice": 0.5 if step % 2 else None, "dice Left, odd": math.nan})
    file.close()


def test_rows_beyond_the_checkpoint_are_cut(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    _write(whole, 1, 6)
    _write(parts, 1, 5)
    with open(parts, "a") as file:
        file.write("6,1.2")  # killed while writing
    _write(parts, 4, 6)
    assert parts.read_text() == whole.read_text()


def test_numbers_come_back_in_full(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    _write(path, 1, 3)
    metrics = read_metrics(path)
    assert list(metrics) == COLUMNS
    assert metrics["loss"] == [1 / 3, 2 / 3, 1.0]
    assert metrics["dice"][0] == 0.5
    assert math.isnan(metrics["dice"][1])
    assert all(math.isnan(value) for value in metrics["dice Left, odd"])


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        MetricsFile(path, COLUMNS, 0)
    assert path.read_text() == "epoch,loss\n1,2\n"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(steps=20, every=10) as display:
        display.start(0)
        for step in range(1, 21):
            dice = 0.25 if step == 5 else None
            display.update({"step": step, "loss": 1.5, "learning_rate": 0.01, "dice": dice})
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["step 5/20", "step 10/20", "step 20/20"]
    assert "loss 1.500, rate 0.01, Dice 0.250" in lines[1]
    assert lines[1].endswith("s left")


def test_a_bar_where_there_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Display(steps=4, every=1) as display:
        display.start(2)
        display.message("a line")
        display.update({"step": 3, "loss": 1.5, "learning_rate": 0.01, "dice": 0.5})
        display.update({"step": 4, "loss": 1.25, "learning_rate": 0.01, "dice": None})
    shown = capsys.readouterr().err
    assert "a line\n" in shown
    assert "4/4" in shown
    assert "loss 1.250, rate 0.01, Dice 0.500" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (89, "89 s"), (720, "12 min"), (3600 * 3 + 300, "3 h 05 min")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert open_tensorboard(tmp_path / "events", 0) is None
    assert not (tmp_path / "events").exists()


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((1, 5), (4, 6)):
        writer = open_tensorboard(tmp_path, first - 1)
        assert writer is not None
        for step in range(first, last + 1):
            writer.log({"loss": step / 2, "step": step}, step)
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(k, k / 2) for k in range(1, 7)]


def test_score_table() -> None:
    text = score_table(["whole", "core"], [0.9061, math.nan], [0.9, 0.8], 0.1234)
    assert text.splitlines() == [
        "                       Dice  turned",
        "  whole               0.906   0.900",
        "  core                    -   0.800",
        "  equivariance error  0.123",
    ]
    assert "turned" not in score_table(["whole"], [0.9], None, math.nan)
    assert "error" not in score_table(["whole"], [0.9], None, math.nan)
