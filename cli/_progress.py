"""Progress bars and messages of commands in which several threads are at work; imports nothing heavy."""

from __future__ import annotations

import sys
from typing import Any

from voxseg.data.quiet import STANDARD_ERROR

__all__ = ["Progress", "say"]


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
        before = sum(self.stages[s] for s in list(self.stages)[: list(self.stages).index(stage)])
        self.bar.n = before + fraction * self.stages[stage]
        self.bar.set_description_str(f"{self.name}: {stage}")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
