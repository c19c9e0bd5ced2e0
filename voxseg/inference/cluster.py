"""Many cases on many machines: running them on an open Dask cluster (`cluster_start`), each exactly once.

Dask does what it is good at: it hands out cases, notices lost workers and gives their cases to others. Here are what
segmenting needs besides: one case at a time in a process, as a case fills the memory that it may take; progress and the
ends of cases, as they come.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Generic, Protocol, TypeVar

from voxseg.errors import UserError

__all__ = ["Cluster", "LostError", "Watcher", "memory_of_worker", "threads_of_worker"]

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Result_contra = TypeVar("Result_contra", contravariant=True)

ALONE_SECONDS = 10.0  # without any worker, after which that is told
POLL_SECONDS = 1.0  # how often workers are counted
GONE_SECONDS = 60.0  # without any worker or job, after which none is waited for: dask has begun another one by then
ASK_SECONDS = 10.0  # how often it is asked for jobs
REPORT_SECONDS = 0.3  # how often a worker tells how far it is
UNDER_WAY = ("pending", "lost")  # what dask calls a future whose case is done, or done again

_ONE_AT_A_TIME = threading.Lock()  # of a worker's process, whatever the number of its threads


class LostError(Exception):
    """A case that ended without a result: why, for people."""


class Work(Protocol[Item_contra, Result_co]):
    """What a worker does with a case; a function that can be imported there, or a `partial` of one."""

    def __call__(self, item: Item_contra, progress: Callable[[str, float], None]) -> Result_co: ...


class Watcher(Protocol[Result_contra]):
    """Who is told what happens; all calls come one after the other."""

    def began(self, index: int, process: int, attempt: int) -> None:
        """A worker's process has begun a case; attempts are counted from 1, and 0 if its result is known already."""

    def moved(self, index: int, stage: str, fraction: float) -> None:
        """So much of a stage is done."""

    def ended(self, index: int, result: Result_contra | LostError) -> None:
        """A case is done; called once for each."""

    def waits(self) -> None:
        """There has been no worker for a while; called once each time."""


@dataclass(frozen=True)
class _Event:
    """What a worker tells of a case while it is at it."""

    index: int
    process: int = 0
    stage: str = ""
    fraction: float = 0.0


@dataclass
class Cluster:
    """A cluster that cases can be run on.

    Attributes:
        where: as it was given.
        client: of dask.
        own: whether its workers were started for this run.
        max_memory: bytes that a case may take on a worker; None for what is usual. A worker may have less.
        threads: of the processor for a case; None for as many as the worker has.
        jobs_left: whether any job that workers come from waits or runs; None where they come from elsewhere.
    """

    where: str
    client: Any
    own: bool
    max_memory: int | None
    threads: int | None
    jobs_left: Callable[[], bool] | None = None

    def run(self, work: Work[Item, Result], items: Sequence[Item], watcher: Watcher[Result]) -> None:
        """Run all items; a lost worker's are run again.

        Args:
            work: done on a worker with each item; what it raises ends that item alone.
            items: what can be pickled.
            watcher: told of everything, in the thread of the caller.

        Raises:
            UserError: there is no worker, and all jobs that one could come from have ended.
        """
        _Run(self, watcher, len(items)).go(work, items)


class _Run(Generic[Result]):
    """Items on their way."""

    def __init__(self, cluster: Cluster, watcher: Watcher[Result], count: int) -> None:
        self.cluster, self.watcher = cluster, watcher
        self.left = set(range(count))
        self.attempts = [0] * count
        self.again: dict[int, Any] = {}  # futures of cases that were done when their worker was lost with the result
        self.alone = 0.0  # since when there is no worker; 0 if there are some, infinite when that was told
        self.asked = 0.0  # when it was asked for jobs
        self.gone = math.inf  # since when there is none
        self.news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def go(self, work: Work[Any, Result], items: Sequence[Any]) -> None:
        client, topic = self.cluster.client, f"voxseg-{uuid.uuid4().hex}"
        client.subscribe_topic(topic, lambda event: self.news.put(_Event(*event[1])))
        futures = client.map(
            _on_worker,
            [work] * len(items),
            items,
            range(len(items)),
            [topic] * len(items),
            key=[f"{topic}-{index}" for index in range(len(items))],
            pure=False,
        )
        indices = {future.key: index for index, future in enumerate(futures)}
        for future in futures:
            future.add_done_callback(self.news.put)
        try:
            while self.left:
                self._count_workers()
                self._look_again()
                try:
                    news = self.news.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(news, _Event):
                    self._event(news)
                else:
                    self._ended(indices[news.key], news)
        finally:
            client.cancel(futures, asynchronous=False) if self.left and client.status == "running" else None
            client.unsubscribe_topic(topic)

    def _event(self, event: _Event) -> None:
        known = event.index not in self.left  # told late, or lost with its worker at the moment that it was heard
        if event.process:
            self.attempts[event.index] += 1
            self.watcher.began(event.index, event.process, 0 if known else self.attempts[event.index])
        elif not known:
            self.watcher.moved(event.index, event.stage, event.fraction)

    def _ended(self, index: int, future: Any) -> None:
        if index not in self.left:
            return
        if future.status in UNDER_WAY:  # it had ended when this was sent; dask tells of that once
            self.again[index] = future
            return
        self.left.remove(index)
        result = _result(future)
        future.release()  # as long as it is wanted, dask makes it again if its worker is lost
        self.watcher.ended(index, result)

    def _look_again(self) -> None:
        """See whether cases that are done a second time have ended."""
        for index, future in list(self.again.items()):
            if future.status not in UNDER_WAY:
                del self.again[index]
                self._ended(index, future)

    def _count_workers(self) -> None:
        """Tell if there are none, and give up where the scheduler is gone."""
        client = self.cluster.client
        if client.status not in ("running", "connecting"):
            for index in sorted(self.left):
                self.left.remove(index)
                self.watcher.ended(index, LostError(f"the cluster {self.cluster.where} was lost before it was done"))
            return
        if client.scheduler_info(n_workers=-1)["workers"]:
            self.alone, self.gone = 0.0, math.inf
            return
        now = time.monotonic()
        self._count_jobs(now)
        self.alone = self.alone or now
        if now - self.alone >= ALONE_SECONDS:
            self.alone = math.inf
            self.watcher.waits()

    def _count_jobs(self, now: float) -> None:
        """Give up where no worker can come any more: jobs that end at their very start are not begun again."""
        if self.cluster.jobs_left is None or now - self.asked < ASK_SECONDS:
            return
        self.asked = now
        self.gone = math.inf if self.cluster.jobs_left() else min(self.gone, now)
        if now - self.gone >= GONE_SECONDS:
            problem = f"its jobs have ended, and no worker is left for {len(self.left)} of {len(self.attempts)} cases"
            remedy = "look at what the jobs wrote (slurm-NUMBER.out), and go on with --skip-existing"
            raise UserError(f"--cluster {self.cluster.where}", problem, remedy)


def _result(future: Any) -> Any:
    """What came of a case: its result, or a `LostError`."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status != "error":
        return LostError("the cluster has dropped it")
    error = future.exception()
    if isinstance(error, KilledWorker):
        times = error.allowed_failures + 1
        return LostError(f"its worker was lost {times} times, perhaps for lack of memory; give it more")
    return LostError(" ".join(f"{type(error).__name__} on a worker: {error}".split()))


def _on_worker(work: Work[Item, Result], item: Item, index: int, topic: str) -> Result:
    """In a worker: one item, when those before it are done."""
    from distributed import get_worker

    worker, last = get_worker(), [0.0]

    def progress(stage: str, fraction: float) -> None:
        now = time.monotonic()
        if now - last[0] >= REPORT_SECONDS:
            last[0] = now
            worker.log_event(topic, astuple(_Event(index, stage=stage, fraction=fraction)))

    with _ONE_AT_A_TIME:
        worker.log_event(topic, astuple(_Event(index, process=os.getpid())))
        return work(item, progress)


def memory_of_worker() -> int | None:
    """Bytes that a case may take in the worker that this is called in; None where it has no limit."""
    from distributed import get_worker

    manager = get_worker().memory_manager
    if not manager.memory_limit:
        return None
    # From a share on, a worker is given no more cases, however long it waits.
    return int(min(manager.memory_pause_fraction or 1.0, 0.95) * 0.9 * manager.memory_limit)


def threads_of_worker() -> int:
    """Threads of the processor that the worker that this is called in may use."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)
