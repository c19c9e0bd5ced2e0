"""Many cases on many machines: opening a Dask cluster, and running cases on it, each exactly once.

Dask does what it is good at: it hands out cases, notices lost workers and gives their cases to others. Here are what
segmenting needs besides: one case at a time in a process, as a case fills the memory that it may take; workers of our
own that nobody else can reach; progress and the ends of cases, as they come. dask is imported when a cluster is opened.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from voxseg.errors import UserError

__all__ = ["Cluster", "LostError", "Watcher", "memory_of_worker", "open_cluster", "threads_of_worker"]

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Result_contra = TypeVar("Result_contra", contravariant=True)

LOCAL, SLURM = "local", "slurm"
JOBS = 4  # of Slurm, if nothing else is said
ANSWER_SECONDS = 10  # within which a scheduler has to answer
ALONE_SECONDS = 10.0  # without any worker, after which that is told
POLL_SECONDS = 1.0  # how often workers are counted
REPORT_SECONDS = 0.3  # how often a worker tells how far it is
ROOM = 0.8  # share of a worker's memory that a case may take; dask ends workers of ours at 0.95
ALLOW_ALL = {
    "distributed.scheduler.worker-saturation": 1.0,  # no case waits at one worker while another one is idle
    # Freed memory is kept on purpose, for speed: dask must not wait for it to be given back.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}

_ONE_AT_A_TIME = threading.Lock()  # of a worker's process, whatever the number of its threads


class LostError(Exception):
    """A case that ended without a result: why, for people."""


class Work(Protocol[Item_contra, Result_co]):
    """What a worker does with a case; a function that can be imported there, or a `partial` of one."""

    def __call__(self, item: Item_contra, progress: Callable[[str, float], None]) -> Result_co: ...


class Watcher(Protocol[Result_contra]):
    """Who is told what happens; all calls come one after the other."""

    def began(self, index: int, process: int, attempt: int) -> None:
        """A worker's process has begun a case; attempts are counted from 1."""

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
    """

    where: str
    client: Any
    own: bool
    max_memory: int | None
    threads: int | None

    def run(self, work: Work[Item, Result], items: Sequence[Item], watcher: Watcher[Result]) -> None:
        """Run all items; a lost worker's are run again.

        Args:
            work: done on a worker with each item; what it raises ends that item alone.
            items: what can be pickled.
            watcher: told of everything, in the thread of the caller.
        """
        _Run(self, watcher, len(items)).go(work, items)


class _Run(Generic[Result]):
    """Items on their way."""

    def __init__(self, cluster: Cluster, watcher: Watcher[Result], count: int) -> None:
        self.cluster, self.watcher = cluster, watcher
        self.left = set(range(count))
        self.attempts = [0] * count
        self.alone = 0.0  # since when there is no worker; 0 if there are some, infinite when that was told
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
        if event.index not in self.left:
            return  # told late
        if event.process:
            self.attempts[event.index] += 1
            self.watcher.began(event.index, event.process, self.attempts[event.index])
        else:
            self.watcher.moved(event.index, event.stage, event.fraction)

    def _ended(self, index: int, future: Any) -> None:
        if index not in self.left:
            return
        self.left.remove(index)
        self.watcher.ended(index, _result(future))

    def _count_workers(self) -> None:
        """Tell if there are none, and give up where the scheduler is gone."""
        client = self.cluster.client
        if client.status not in ("running", "connecting"):
            for index in sorted(self.left):
                self.left.remove(index)
                self.watcher.ended(index, LostError(f"the cluster {self.cluster.where} was lost before it was done"))
            return
        if client.scheduler_info(n_workers=-1)["workers"]:
            self.alone = 0.0
            return
        now = time.monotonic()
        self.alone = self.alone or now
        if now - self.alone >= ALONE_SECONDS:
            self.alone = math.inf
            self.watcher.waits()


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


@contextmanager
def open_cluster(
    where: str, cases: int, workers: int | None, max_memory: int | None, threads: int | None
) -> Iterator[Cluster]:
    """Connect to a cluster, or start one for as long as the block lasts.

    Args:
        where: the address of a scheduler (`tcp://...`, `tls://...`), the path of its scheduler file, `local` for
            processes on this machine, or `slurm` for jobs.
        cases: how many there are to do; there are no more workers than that.
        workers: to start; None for as many as suit the machine, or four jobs.
        max_memory: bytes that a case may take on a worker; None for what is usual.
        threads: of the processor for a case.

    Raises:
        UserError: if a package is missing, nobody answers, or the cluster cannot be started.
    """
    _require(where)
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what happens to workers is told here
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if where == LOCAL:
            cluster, max_memory, threads = _start_local(stack, cases, workers, max_memory, threads)
        elif where == SLURM:
            cluster, threads = _start_slurm(stack, cases, workers, max_memory, threads)
        else:
            if workers is not None:
                problem = "says how many workers to start, and those of this cluster are there already"
                raise UserError("--workers", problem, "leave it out")
            cluster = None
        client = stack.enter_context(Client(cluster) if cluster is not None else _connect(where))
        if cluster is not None:
            client.register_plugin(_own_worker())
        yield Cluster(where, client, cluster is not None, max_memory, threads)


def _require(where: str) -> None:
    """Refuse where dask is not installed."""
    try:
        import distributed  # noqa: F401

        if where == SLURM:
            import dask_jobqueue  # noqa: F401
    except ImportError as error:
        problem = f"needs the package {error.name or 'distributed'}, which is not installed"
        raise UserError(f"--cluster {where}", problem, "install it with: pip install 'voxseg[cluster]'") from error


def _connect(where: str) -> Any:
    """A client of a cluster that is there already."""
    from distributed import Client

    subject, remedy = f"--cluster {where}", "give the address that 'dask scheduler' shows, local or slurm"
    try:
        if Path(where).is_file():
            return Client(scheduler_file=where, timeout=ANSWER_SECONDS)
        return Client(where, timeout=ANSWER_SECONDS)
    except (OSError, TimeoutError) as error:
        raise UserError(subject, "no scheduler answers there", remedy) from error
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(subject, f"is not the address of a scheduler ({reason})", remedy) from error


def _start_local(
    stack: ExitStack, cases: int, workers: int | None, max_memory: int | None, threads: int | None
) -> tuple[Any, int, int]:
    """Processes on this machine: the cluster, bytes for a case and threads for a case."""
    import dask
    from distributed import LocalCluster

    from voxseg.inference.memory import WORKER_LIMIT, free_memory

    free, cores = free_memory(), _cores()
    limit = max_memory or WORKER_LIMIT
    if workers is None:
        workers = max(1, min(cores, cores if free is None else int(0.9 * free) // limit))
    workers = min(workers, cases)
    if max_memory is None and free is not None:
        limit = min(limit, int(0.9 * free) // workers)
    stack.enter_context(dask.config.set(ALLOW_ALL))
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=int(limit / ROOM),
        # Whoever can talk to a scheduler can run code as its user: only this machine, and only who has the key.
        host="127.0.0.1",
        security=True,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    return stack.enter_context(cluster), limit, threads or max(1, cores // workers)


def _start_slurm(
    stack: ExitStack, cases: int, workers: int | None, max_memory: int | None, threads: int | None
) -> tuple[Any, int]:
    """Jobs of Slurm, each a worker: the cluster and threads for a case."""
    import dask
    from dask_jobqueue import SLURMCluster

    stack.enter_context(dask.config.set(ALLOW_ALL))
    arguments = slurm_arguments(max_memory, threads)
    try:
        cluster = stack.enter_context(SLURMCluster(**arguments))
        jobs = min(workers or JOBS, cases)
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # jobs that end at their time limit are followed by others
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        remedy = "look at the section jobqueue.slurm of dask's configuration"
        raise UserError(f"--cluster {SLURM}", f"the jobs cannot be set up ({reason})", remedy) from error
    return cluster, int(arguments["job_cpu"])


def slurm_arguments(max_memory: int | None, threads: int | None) -> dict[str, Any]:
    """What `SLURMCluster` is given; the rest (queue, account, walltime ...) is in dask's configuration.

    Args:
        max_memory: bytes that a case may take; None for the memory of the configuration, or what is usual.
        threads: processors of a job; None for those of the configuration, or four.
    """
    import dask

    from voxseg.inference.memory import WORKER_LIMIT

    shared = "jobqueue.slurm.shared-temp-directory"
    memory = dask.config.get("jobqueue.slurm.memory", None)
    if max_memory is not None or memory is None:
        memory = f"{int((max_memory or WORKER_LIMIT) / ROOM / 1e6)}MB"
    cpus = threads or dask.config.get("jobqueue.slurm.job-cpu", None) or dask.config.get("jobqueue.slurm.cores", None)
    exports = [
        f"export DASK_{key.replace('.', '__').replace('-', '_').upper()}={value}" for key, value in ALLOW_ALL.items()
    ]
    return {
        "processes": 1,
        "cores": 1,  # a case at a time, on all processors of the job
        "job_cpu": int(cpus or 4),
        "memory": memory,
        "job_name": "voxseg",
        "python": sys.executable,
        "job_script_prologue": [*dask.config.get("jobqueue.slurm.job-script-prologue", []), *exports],
        "worker_extra_args": [*dask.config.get("jobqueue.slurm.worker-extra-args", []), "--no-dashboard"],
        # The nodes have to reach the scheduler, and others on the network must not.
        "security": True,
        "shared_temp_directory": str(Path(dask.config.get(shared, None) or Path.home()).expanduser()),
        "scheduler_options": {"dashboard": False, **dask.config.get("jobqueue.slurm.scheduler-options", {})},
    }


def _own_worker() -> Any:
    """What is set up in workers that were started for this run."""
    from distributed import WorkerPlugin

    class OwnWorker(WorkerPlugin):
        name = "voxseg"

        def setup(self, worker: Any) -> None:
            # Ctrl-C reaches all processes of a terminal; who called them ends them.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return OwnWorker()


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
