"""What a run tells while it goes on: the bar or lines on stderr, `metrics.csv`, and TensorBoard events."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from voxseg.data.staging import write_text
from voxseg.errors import UserError

MetricValue = float | int | None
Row = Mapping[str, MetricValue]


class MetricsFile:
    """`metrics.csv`: one row a step, with the Dice columns filled in at the steps with a validation.

    Args:
        path: the file; appended to where it exists.
        columns: names of the columns, "step" first.
        step: steps that the run has taken; rows beyond it, written after the checkpoint that the run is resumed
            from, are cut, so that no step is there twice.

    Raises:
        UserError: the file exists with other columns.
    """

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        self.path = path
        self.columns = columns
        kept = ""
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            if lines and next(csv.reader(lines[:1])) != columns:
                raise UserError(path, "has other columns than this run writes", "move it away, then resume")
            kept = "".join(line for line in lines[1:] if _is_row_until(line, step))
        header = ",".join(_quoted(column) for column in columns) + "\n"
        write_text(path, header + kept)
        # Line-buffered: a row is on its way to the disk as soon as it is written.
        self._file = open(path, "a", encoding="utf-8", newline="", buffering=1)  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\n")

    def write(self, row: Row) -> None:
        """Appends one row; numbers in full precision, missing ones and NaN as an empty cell."""
        self._writer.writerow([_cell(row.get(column)) for column in self.columns])

    def close(self) -> None:
        """Flushes to the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a `metrics.csv`, with NaN for empty cells and for a last row that is cut short."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        rows = [row for row in reader if len(row) == len(names)]
    return {name: [float(row[k]) if row[k] else math.nan for row in rows] for k, name in enumerate(names)}


class TensorBoard:
    """TensorBoard events.

    Args:
        writer: torch's.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Writes the figures of a step, those of each structure in a group of their own."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name.replace(" ", "/", 1), value, step)

    def flush(self) -> None:
        """Writes to the disk what waits to be written."""
        self._writer.flush()

    def close(self) -> None:
        """The same, and ends."""
        self._writer.close()


def open_tensorboard(folder: Path, step: int) -> TensorBoard | None:
    """TensorBoard events, or None where tensorboard is not installed.

    Args:
        folder: where the event files go.
        step: steps taken; what earlier event files hold beyond it is hidden.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return TensorBoard(SummaryWriter(str(folder), purge_step=step + 1 if step else None))


class Display:
    """Progress on stderr: a bar where that is a terminal, else one line every few steps.

    Args:
        steps: steps in the whole run.
        every: steps between two lines where there is no bar.
        silent: whether to show nothing, as all but one of several processes do.
    """

    def __init__(self, steps: int, every: int, silent: bool = False) -> None:
        self.silent = silent
        self.steps = steps
        self.every = every
        self.dice: float | None = None
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def message(self, text: str) -> None:
        """One line, above the bar if there is one."""
        if self.silent:
            return
        tqdm.write(text, file=sys.stderr)

    def start(self, step: int) -> None:
        """Starts the bar and the clock for the time left, `step` steps having been taken before."""
        self.begun, self.first = time.monotonic(), step
        if sys.stderr.isatty() and not self.silent:
            self.bar = tqdm(total=self.steps, initial=step, unit="step", file=sys.stderr, smoothing=0.05)

    def update(self, row: Row) -> None:
        """Shows the figures of one step, as they are written to `metrics.csv`."""
        step, dice = int(row["step"] or 0), row.get("dice")
        self.dice = self.dice if dice is None else dice
        figures = f"loss {row['loss']:.3f}, rate {row['learning_rate']:.2g}"
        if self.dice is not None:
            figures += f", Dice {self.dice:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.update(1)
        elif step % self.every == 0 or step == self.steps or dice is not None:
            pace = (time.monotonic() - self.begun) / (step - self.first)
            left = format_seconds((self.steps - step) * pace)
            self.message(f"step {step}/{self.steps}: {figures}, {pace:.2f} s/step, {left} left")


def score_table(names: Sequence[str], dice: Sequence[float], turned: Sequence[float] | None, error: float) -> str:
    """The scores of a validation for people, one line a structure.

    Args:
        names: of the structures.
        dice: of each.
        turned: the same in the turned pose, if it was measured.
        error: equivariance error, NaN if it was not measured.
    """
    width = max(len(name) for name in [*names, "equivariance error"])
    columns = [dice] if turned is None else [dice, turned]
    head = f"  {'':{width}}   Dice" + ("  turned" if turned is not None else "")
    lines = [
        f"  {name:{width}}  " + "   ".join("    -" if math.isnan(value) else f"{value:5.3f}" for value in row)
        for name, *row in zip(names, *columns, strict=True)
    ]
    if not math.isnan(error):
        lines.append(f"  {'equivariance error':{width}}  {error:5.3f}")
    return "\n".join([head, *lines])


def format_seconds(seconds: float) -> str:
    """A length of time for people: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _is_row_until(line: str, step: int) -> bool:
    """Whether a line is whole (a crash can cut the last one short) and not beyond a step."""
    first = line.partition(",")[0]
    return line.endswith("\n") and first.isdigit() and int(first) <= step


def _cell(value: MetricValue) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value)


def _quoted(name: str) -> str:
    return f'"{name}"' if "," in name else name
