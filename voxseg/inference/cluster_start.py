"""Opening a Dask cluster for many cases: one that is there, processes on this machine, or jobs of Slurm.

Workers that are started here are given one case at a time and the memory for it, and nobody else can reach them. dask
is imported when a cluster is opened.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from voxseg.errors import UserError
from voxseg.inference.cluster import Cluster

__all__ = ["open_cluster"]

LOCAL, SLURM = "local", "slurm"
JOBS = 4  # of Slurm, if nothing else is said
ANSWER_SECONDS = 10  # within which a scheduler has to answer
ROOM = 0.8  # share of a worker's memory that a case may take; dask ends workers of ours at 0.95
ALLOW_ALL = {
    "distributed.scheduler.worker-saturation": 1.0,  # no case waits at one worker while another one is idle
    # Freed memory is kept on purpose, for speed: dask must not wait for it to be given back.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}


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
        jobs_left = partial(_jobs_left, cluster) if where == SLURM else None
        yield Cluster(where, client, cluster is not None, max_memory, threads, jobs_left)


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


def _jobs_left(cluster: Any) -> bool:
    """Whether a job of the cluster waits or runs; True if that cannot be told."""
    submitted = {str(job.job_id) for job in list(cluster.workers.values()) if job.job_id}
    command = ["squeue", "--noheader", "--format=%A", f"--user={getpass.getuser()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return True
    return not submitted or not submitted.isdisjoint(done.stdout.split())


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
