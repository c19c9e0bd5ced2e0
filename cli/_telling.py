"""What `voxseg predict` tells of its cases, whoever does them, and its exit code; imports nothing heavy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from voxseg.cli._case import NOTHING, Failure, Written
from voxseg.cli._cases import Task
from voxseg.cli._progress import say
from voxseg.cli._result import FAILED, USAGE, add_error, add_result

if TYPE_CHECKING:
    from voxseg.inference.pipeline import Throughput

__all__ = ["Teller"]


class Teller:
    """Tells plans, results and failures as they come, and the list of failures in the end.

    Args:
        count: of the cases.
        verbose: whether every plan and the time of each stage are told.
    """

    def __init__(self, count: int, verbose: bool) -> None:
        self.count, self.verbose = count, verbose
        self.done = self.skipped = 0
        self.failures: list[Failure] = []
        self.told: object = None  # the run that was told last

    def plan(self, task: Task, run: object, line: str) -> None:
        """How a case will be segmented, if that differs from the one before in how the network runs."""
        if run != self.told or self.verbose:
            say(f"{task.target.name}: {line}")
            self.told = run

    def wrote(self, task: Task, written: Written) -> None:
        """A case is done."""
        self.done += 1
        facts = {"seconds": written.seconds, "quality": written.quality, "warnings": written.told}
        add_result(scan=task.subject, status="done", files=written.files, **facts)
        for text in written.warnings:
            say(f"voxseg: {task.subject}: {text}", error=True)
        if written.empty:
            picture = next(path for path in written.files if path.suffix == ".png")
            say(f"voxseg: {task.subject}: {NOTHING}; look at {picture}", error=True)
        elif written.doubt:
            picture = next(path for path in written.files if path.suffix == ".png")
            say(f"voxseg: {task.subject}: {written.doubt}; look at {picture}", error=True)
        names = ", ".join(path.name for path in written.files)
        say(f"{task.subject}: wrote {names} to {task.target.parent} in {sum(written.seconds.values()):.0f} s")
        if self.verbose:
            say("  " + ", ".join(f"{stage} {took:.2f} s" for stage, took in written.seconds.items()))

    def skip(self, task: Task) -> None:
        """A case was not to be done."""
        self.skipped += 1
        add_result(scan=task.subject, status="skipped")

    def failed(self, failure: Failure) -> None:
        """A case could not be done."""
        self.failures.append(failure)
        problem = failure.problem or failure.message.removeprefix(f"{failure.subject}: ")
        code = USAGE if failure.by_user else FAILED
        add_error(failure.what or failure.subject, problem, failure.remedy, code, scan=failure.subject)
        say(f"voxseg: {failure.message}", error=True)

    def total(self, throughput: Throughput) -> None:
        """All cases were gone through."""
        if self.skipped:
            say(f"{self.skipped} of {self.count} scans were skipped: done, or in the hands of another process")
        if self.done > 1:
            say(throughput.line())

    def finish(self) -> None:
        """List what failed, if there was more than one case, and exit with the code for it."""
        if not self.failures:
            return
        if self.count > 1:
            print(f"voxseg: {len(self.failures)} of {self.count} scans failed:", file=sys.stderr)
            for failure in self.failures:
                print(f"  {failure.subject}", file=sys.stderr)
        unusable = not self.done and not self.skipped and all(failure.by_user for failure in self.failures)
        raise typer.Exit(2 if unusable else 1)
