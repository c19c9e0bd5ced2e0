"""How far a long row of predictions is."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["RunBar"]


class RunBar:
    """How far it is: a number and an estimate at first, and a bar on standard error if that is a terminal."""

    def __init__(self) -> None:
        self.total, self.done, self.started = 0, 0, 0.0
        self.bar: Any = None
        self.text = ""

    def announce(self, total: int, models: int, scans: int) -> None:
        """Say how much there is to do."""
        self.total, self.started = total, time.perf_counter()
        what = f"{models} model{'s' * (models != 1)}, {scans} scan{'s' * (scans != 1)}"
        print(f"{what}: {total:,} predictions", flush=True)

    def show(self, text: str) -> None:
        """What is being done."""
        self.text = text
        if self.bar is not None:
            self.bar.set_description_str(text[:60].ljust(60))

    def advance(self, count: int) -> None:
        """So many more are done; the first tells how long one takes."""
        if not self.done:
            seconds = time.perf_counter() - self.started
            print(f"{seconds:.1f} s for the first one: about {_duration(seconds * self.total)} in all", flush=True)
        self.done += count
        if self.bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}, {remaining} left"
            self.bar = tqdm(total=self.total, initial=self.done, bar_format=form, leave=False, dynamic_ncols=True)
            self.show(self.text)
        elif self.bar is not None:
            self.bar.update(count)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _duration(seconds: float) -> str:
    """Such as 40 s, 12 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
