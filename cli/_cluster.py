"""`voxseg predict --cluster`: cases on workers, told as on one machine; imports nothing heavy."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._case import CaseWork, Failure, ModelError, Settings, SkippedError, Written, failure_of
from voxseg.cli._cases import Task
from voxseg.cli._progress import REPORT_STAGE, STAGES, ManyCases, say
from voxseg.data.staging import remove_leftovers
from voxseg.errors import UserError
from voxseg.inference.cluster import LostError, memory_of_worker, threads_of_worker
from voxseg.inference.cluster_start import open_cluster
from voxseg.inference.pipeline import Throughput

if TYPE_CHECKING:
    from voxseg.cli._telling import Teller
    from voxseg.data.datasets.case import ImageFile

__all__ = ["CaseReport", "on_workers"]

APPEARING = 30  # seconds that a network file system may take to show what another machine has written
SHARED = "workers need the same folders, under the same names, as this machine"


@dataclass
class CaseReport:
    """What came of a case on a worker, in what can be sent.

    Attributes:
        host: name of the worker's machine.
        plan: what the teller compares, and the line that it tells; None if it was not got so far.
        written: None if it was not done.
        failure: why.
        missing: files of it that are not there for the worker.
        skipped: whether it was not to be done.
        model: what is wrong with the model, if that is why: it concerns every case.
    """

    host: str
    plan: tuple[object, str] | None = None
    written: Written | None = None
    failure: Failure | None = None
    missing: tuple[Path, ...] = ()
    skipped: bool = False
    model: UserError | None = None


def on_workers(settings: Settings, tasks: Sequence[Task], teller: Teller, where: str, workers: int | None) -> None:
    """Segment cases on the workers of a cluster, and tell what comes of them as it comes.

    Args:
        settings: for each worker.
        tasks: the cases, at least one.
        teller: who tells it.
        where: as `open_cluster` takes it.
        workers: to start.

    Raises:
        UserError: if the cluster or the model cannot be used.
    """
    begin = time.perf_counter()
    watcher = _Watcher(tasks, teller, settings, where)
    try:
        with open_cluster(where, len(tasks), workers, settings.max_memory, settings.threads) as cluster:
            there = replace(
                settings, folder=settings.folder.absolute(), max_memory=cluster.max_memory, threads=cluster.threads
            )
            cluster.run(partial(_segment, there, cluster.own), [_absolute(task) for task in tasks], watcher)
    finally:
        watcher.close()
    order = {task.subject: index for index, task in enumerate(tasks)}
    teller.failures.sort(key=lambda failure: order[failure.subject])
    teller.total(Throughput(teller.done, len(teller.failures), time.perf_counter() - begin))


def _absolute(task: Task) -> Task:
    """The task for a process in another folder."""
    images = {name: _absolute_image(file) for name, file in task.images.items()}
    return replace(task, images=images, target=task.target.absolute())


def _absolute_image(image: ImageFile) -> ImageFile:
    series = image.series
    if series is not None:
        frames = (replace(f, file=replace(f.file, path=f.file.path.absolute())) for f in series.frames)
        series = replace(series, path=series.path.absolute(), frames=tuple(frames))
    return replace(image, path=image.path.absolute(), series=series)


class _Watcher:
    """Tells what comes of the cases, and removes what lost workers have left."""

    def __init__(self, tasks: Sequence[Task], teller: Teller, settings: Settings, where: str) -> None:
        self.tasks, self.teller, self.settings, self.where = tasks, teller, settings, where
        self.bar = ManyCases(len(tasks), STAGES | (REPORT_STAGE if settings.report else {}))
        self.processes: set[int] = set()  # that have begun a case
        self.patience = APPEARING

    def began(self, index: int, process: int, attempt: int) -> None:
        self.processes.add(process)
        if attempt > 1:
            say(f"voxseg: {self.tasks[index].subject}: its worker was lost, it is done again", error=True)

    def moved(self, index: int, stage: str, fraction: float) -> None:
        self.bar.moved(index, stage, fraction)

    def waits(self) -> None:
        say(f"voxseg: --cluster {self.where}: there is no worker, waiting for one", error=True)

    def ended(self, index: int, result: CaseReport | LostError) -> None:
        task = self.tasks[index]
        self.bar.ended(index)
        if isinstance(result, LostError):
            self.teller.failed(Failure(task.subject, f"{task.subject}: {result}", False))
            return
        if result.model is not None:
            raise self._told_of_model(result)
        if result.plan is not None:
            self.teller.plan(task, *result.plan)
        if result.skipped:
            self.teller.skip(task)
        elif result.written is not None and not self._appears(result.written.files):
            problem = f"the results were written on {result.host} and are not here"
            self.teller.failed(Failure(task.subject, f"{task.subject}: {problem}; {SHARED}", True))
        elif result.written is not None:
            self.teller.wrote(task, result.written)
        elif result.failure is not None:
            self.teller.failed(self._told_here(task, result))

    def close(self) -> None:
        """Take the bar away, and the temporary files that lost workers have left: nobody else will.

        Of all cases: what a worker did last before it was lost may not have been heard of.
        """
        self.bar.close()
        work = CaseWork(self.settings)
        remove_leftovers([path for task in self.tasks for path in work.outputs(task)], self.processes)

    def _appears(self, files: Sequence[Path]) -> bool:
        """Whether files that a worker has written are here, or come within some seconds."""
        end = time.monotonic() + self.patience
        while not all(path.exists() for path in files):
            if time.monotonic() >= end:
                self.patience = 0  # others will not come either
                return False
            time.sleep(0.5)
        return True

    def _told_of_model(self, report: CaseReport) -> UserError:
        assert report.model is not None
        if self.settings.folder.exists() and self.settings.folder.absolute() in report.missing:
            return UserError(self.settings.folder, f"is not there for a worker ({report.host})", SHARED)
        return report.model

    def _told_here(self, task: Task, report: CaseReport) -> Failure:
        """A failure with paths as they were given."""
        assert report.failure is not None
        message = report.failure.message
        for file in task.images.values():
            if file.path.absolute() in report.missing and file.path.exists():
                message = f"{file.path}: is not there for a worker ({report.host}); {SHARED}"
        for path in (*(file.path for file in task.images.values()), task.target.parent):
            message = message.replace(str(path.absolute()), str(path))
        return replace(report.failure, message=message)


_work: CaseWork | None = None  # of a worker's process: the model stays loaded from case to case


def _segment(settings: Settings, own: bool, item: Task, progress: Callable[[str, float], None]) -> CaseReport:
    """In a worker: a case.

    Args:
        settings: of the run.
        own: whether the worker's process was started for this run.
        item: the case.
        progress: called with stages and the fraction that is done of each.
    """
    global _work
    from voxseg.inference.memory import WORKER_LIMIT

    if own:
        keep_freed_memory()
    limit = settings.max_memory or WORKER_LIMIT
    limit = min(limit, memory_of_worker() or limit)
    here = replace(settings, max_memory=limit, threads=settings.threads or threads_of_worker())
    if _work is None or _work.settings != here:
        _work = CaseWork(here)
    work, report = _work, CaseReport(socket.gethostname())
    try:
        loaded = work.read(item)
        plan = work.plan(loaded)
        report.plan = (plan.grid, plan.run), plan.line()
        segmentation = work.segment(loaded, progress)
        report.written = work.write(item, loaded, segmentation, progress)
    except SkippedError:
        report.skipped = True
    except ModelError as error:
        report.model = error.cause
    except Exception as error:
        report.failure = failure_of(item, error)
    finally:
        work.release(item)
    needed = (settings.folder, *(file.path for file in item.images.values()))
    report.missing = tuple(path for path in needed if not path.exists())
    return report
