"""Cases one after the other on this machine, with a bar for the one at hand; imports nothing heavy."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._case import CaseWork, Loaded, ModelError, SkippedError, Written, failure_of
from voxseg.cli._cases import Task
from voxseg.cli._progress import REPORT_STAGE, STAGES, Progress
from voxseg.cli._telling import Teller
from voxseg.errors import UserError
from voxseg.inference.pipeline import Outcome, run_pipeline

if TYPE_CHECKING:
    from voxseg.inference.predictor import Segmentation

__all__ = ["ended_by_signals", "on_this_machine"]

# Of the memory allowed, what a scan may take to be read or written while another one is segmented.
BESIDE = 0.05


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that temporary files are removed."""
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def on_this_machine(work: CaseWork, tasks: Sequence[Task], teller: Teller) -> None:
    """Segment cases one after the other, and tell what comes of them.

    Args:
        work: how a case is done.
        tasks: the cases.
        teller: who tells it.

    Raises:
        UserError: if the model cannot be used.
    """
    keep_freed_memory()
    batch = _Batch(work, teller)
    try:
        throughput = run_pipeline(tasks, work.read, batch.segment, batch.write, batch.tell, batch.ahead, (ModelError,))
    except ModelError as error:
        raise error.cause from None
    finally:
        work.close()
    teller.total(throughput)


@dataclass
class _Found:
    """A case that was segmented and is not yet written."""

    segmentation: Segmentation
    progress: Progress


class _Batch:
    """The steps of the cases, with a bar for the one at hand."""

    def __init__(self, work: CaseWork, teller: Teller) -> None:
        self.work, self.teller = work, teller

    def segment(self, task: Task, loaded: Loaded) -> _Found:
        plan = self.work.plan(loaded)
        self.teller.plan(task, (plan.grid, plan.run), plan.line())
        progress = Progress(task.target.name, STAGES | (REPORT_STAGE if self.work.settings.report else {}))
        try:
            segmentation = self.work.segment(loaded, progress)
        except BaseException:
            progress.close()
            raise
        if self.teller.count > 1:  # the next one's bar is about to begin
            progress.close()
        return _Found(segmentation, progress)

    def write(self, task: Task, loaded: Loaded, found: _Found) -> Written:
        try:
            return self.work.write(task, loaded, found.segmentation, found.progress)
        finally:
            found.progress.close()

    def ahead(self, task: Task, following: Task) -> bool:
        """Whether three cases at a time (read, segmented, written) are few enough bytes."""
        from voxseg.inference.memory import DEFAULT_LIMIT

        share = BESIDE * (self.work.settings.max_memory or DEFAULT_LIMIT)
        beside = max(_bytes_of(task), _bytes_of(following)) <= share
        self.work.reserved = int(3 * share) if beside else 0  # the next one, and the last one with its labels
        return beside

    def tell(self, outcome: Outcome[Task, Written]) -> None:
        """What came of a case."""
        self.work.release(outcome.task)
        if outcome.written is not None:
            self.teller.wrote(outcome.task, outcome.written)
        elif isinstance(outcome.error, SkippedError):
            self.teller.skip(outcome.task)
        elif outcome.error is not None:
            self.teller.failed(failure_of(outcome.task, outcome.error))


def _bytes_of(task: Task) -> float:
    """Bytes of the voxels of a case, as its files announce them; what is unreadable takes none."""
    from voxseg.data.volume import read_header

    try:
        sizes = [
            read_header(image.path).size if image.series is None else image.series.bytes
            for image in task.images.values()
        ]
    except UserError:
        return 0.0
    return sum(math.inf if size is None else size for size in sizes)
