"""Progress bars and messages of commands in which several threads are at work; imports nothing heavy."""

from __future__ import annotations

import sys
from typing import Any

from voxseg.data.quiet import STANDARD_ERROR

__all__ = ["REPORT_STAGE", "STAGES", "ManyCases", "Progress", "part_done", "say"]

# The share of the time that each stage of a case takes, about, for the progress bar.
STAGES = {"reading": 5, "preparing": 5, "network": 65, "restoring": 10, "writing": 5, "drawing": 10}
REPORT_STAGE = {"page": 10}


def say(text: str, error: bool = False) -> None:
    """Print a line from any thread, above a progress bar if there is one."""
    stream = sys.stderr if error else sys.stdout
    with STANDARD_ERROR:
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=stream)
        else:
            print(text, file=stream, flush=True)


class Progress:
    """A bar on standard error that names the stage; nothing where standard error is not a terminal."""

    def __init__(self, name: str, stages: dict[str, int]) -> None:
        self.name, self.stages = name, stages
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
            self.bar = tqdm(total=sum(self.stages.values()), bar_format=form, leave=False, desc=self.name)

    def __call__(self, stage: str, fraction: float) -> None:
        if self.bar is None:
            return
        self.bar.n = _before(stage, self.stages) + fraction * self.stages[stage]
        self.bar.set_description_str(f"{self.name}: {stage}")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class ManyCases:
    """A bar over cases that are worked on at the same time; nothing where standard error is not a terminal."""

    def __init__(self, total: int, stages: dict[str, int]) -> None:
        self.stages = stages
        self.done, self.under_way = 0, dict[int, float]()
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
            self.bar = tqdm(total=total, bar_format=form, leave=False, desc=f"0 of {total} scans")

    def moved(self, case: int, stage: str, fraction: float) -> None:
        """So much of a stage of a case is done."""
        self.under_way[case] = part_done(stage, fraction, self.stages)
        self._show()

    def ended(self, case: int) -> None:
        """A case is done, one way or the other."""
        self.done += 1
        self.under_way.pop(case, None)
        self._show()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _show(self) -> None:
        if self.bar is not None:
            self.bar.n = min(self.done + sum(self.under_way.values()), self.bar.total)
            self.bar.set_description_str(f"{self.done} of {self.bar.total} scans")


def part_done(stage: str, fraction: float, stages: dict[str, int]) -> float:
    """The fraction of all the work that is done when such a fraction of a stage is."""
    return (_before(stage, stages) + fraction * stages[stage]) / sum(stages.values())


def _before(stage: str, stages: dict[str, int]) -> int:
    """What the stages before one add up to."""
    return sum(stages[s] for s in list(stages)[: list(stages).index(stage)])
