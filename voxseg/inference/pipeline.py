"""Many scans one after the other, where reading the next and writing the last overlap with the network.

The network runs in the thread that calls; one thread reads ahead by one scan and another one writes. So there are never
more than three scans in memory, of which one is worked on, and outcomes are told in the order of the scans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

__all__ = ["Outcome", "Throughput", "run_pipeline"]

Task = TypeVar("Task")
Loaded = TypeVar("Loaded")
Found = TypeVar("Found")
Written = TypeVar("Written")


@dataclass(frozen=True)
class Outcome(Generic[Task, Written]):
    """How a scan ended.

    Attributes:
        task: the scan.
        written: what `write` returned; None if it failed.
        error: what was raised on the way; None if it went well.
        seconds: from the moment at which it was begun to be read.
    """

    task: Task
    written: Written | None
    error: Exception | None
    seconds: float


@dataclass(frozen=True)
class Throughput:
    """What a run has done.

    Attributes:
        done: scans that went well.
        failed: those that did not.
        seconds: that it took.
    """

    done: int
    failed: int
    seconds: float

    @property
    def an_hour(self) -> float:
        """Scans an hour, of those that went well."""
        return self.done * 3600 / self.seconds if self.seconds > 0 else 0.0

    def line(self) -> str:
        """That in a line, for people."""
        rate = f"{self.an_hour:.0f}" if self.an_hour >= 10 else f"{self.an_hour:.1f}"
        return f"{self.done} scan{'s' * (self.done != 1)} in {_duration(self.seconds)}, {rate} an hour"


def run_pipeline(
    tasks: Sequence[Task],
    read: Callable[[Task], Loaded],
    segment: Callable[[Task, Loaded], Found],
    write: Callable[[Task, Loaded, Found], Written],
    tell: Callable[[Outcome[Task, Written]], None],
    ahead: Callable[[Task, Task], bool] = lambda now, following: True,
    fatal: tuple[type[BaseException], ...] = (),
) -> Throughput:
    """Run tasks through reading, segmenting and writing, each step of one beside the other steps of its neighbours.

    An error of one task ends that task alone. Ctrl-C, SystemExit and `fatal` end everything: what is being written is
    finished where that goes on beside the network, as it takes seconds and is worth a scan; nothing else is begun, and
    the exception goes on.

    Args:
        tasks: in the order in which they are done and told.
        read: called in a thread of its own.
        segment: called in the thread of the caller.
        write: called in a thread of its own, one at a time; in that of the caller where there is nothing beside it, as
            for the last task.
        tell: called with every outcome in the order of the tasks, one at a time, in the thread that writes.
        ahead: whether the following scan may be read and this one be written beside the network, given this task and
            the following; otherwise they wait for each other, and there is one scan in memory at a time.
        fatal: exceptions of `segment` that concern all tasks.
    """
    begin = time.perf_counter()
    counts = [0, 0]  # done, failed

    def finish(task: Task, start: float, work: Callable[[], Written]) -> None:
        """In the thread that writes: the end of a task."""
        try:
            outcome = Outcome(task, work(), None, time.perf_counter() - start)
        except Exception as error:
            outcome = Outcome(task, None, error, time.perf_counter() - start)
        counts[outcome.error is not None] += 1
        tell(outcome)

    reader, writer = ThreadPoolExecutor(1, "reading"), ThreadPoolExecutor(1, "writing")
    last: Future[None] | None = None
    following: Future[tuple[float, Loaded]] | None = None
    try:
        for index, task in enumerate(tasks):
            start = time.perf_counter()
            loading = following or reader.submit(_timed, read, task)
            following = None
            upcoming = tasks[index + 1] if index + 1 < len(tasks) else None
            try:
                start, loaded = loading.result()
                beside = upcoming is not None and ahead(task, upcoming)
                if beside and upcoming is not None:
                    following = reader.submit(_timed, read, upcoming)
                found = segment(task, loaded)
            except fatal:
                raise
            except Exception as error:
                _wait(last)
                last = writer.submit(finish, task, start, _raiser(error))
                continue
            _wait(last)  # one result is written and one waits, at most
            work = _writer(write, task, loaded, found)
            del loaded, found, loading
            if beside:
                last = writer.submit(finish, task, start, work)
            else:  # nothing to overlap with: an interruption reaches it here
                last = None
                finish(task, start, work)
            del work
        _wait(last)
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True)
    return Throughput(counts[0], counts[1], time.perf_counter() - begin)


def _timed(read: Callable[[Task], Loaded], task: Task) -> tuple[float, Loaded]:
    """When reading began, and what was read."""
    return time.perf_counter(), read(task)


def _wait(writing: Future[None] | None) -> None:
    """Until a scan is written and told; what `tell` raised goes on."""
    if writing is not None:
        writing.result()


def _raiser(error: Exception) -> Callable[[], NoReturn]:
    def work() -> NoReturn:
        raise error

    return work


def _writer(
    write: Callable[[Task, Loaded, Found], Written], task: Task, loaded: Loaded, found: Found
) -> Callable[[], Written]:
    return lambda: write(task, loaded, found)


def _duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
