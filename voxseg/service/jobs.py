"""The jobs of the service: a queue, one at work at a time, and nothing of them left behind.

Each job has a folder below one that is made at the start and removed at the end. A lock in it, which the system lets go
of with its process, tells the next server that a folder is what one that was killed has left.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Any

from voxseg.data.locks import lock_file
from voxseg.errors import UserError
from voxseg.service.child import End, Limits, run_child

__all__ = ["BusyError", "Job", "Jobs", "State"]

PREFIX = "voxseg-serve-"
LOCK, ORDER, UPLOAD, RESULTS, WORK = "lock", "job.json", "upload", "results", "work"
SWEEP = 15.0  # seconds between looks for what has expired
SHOWN = 6  # characters of an id in messages; whoever knows all of it has the results


class State(str, Enum):
    """Where a job is."""

    UPLOADING = "uploading"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class BusyError(Exception):
    """There are as many jobs as are taken at a time."""


@dataclass(eq=False)
class Job:
    """One case.

    Attributes:
        id: a secret: whoever knows it has the results.
        folder: everything of it.
        state: where it is.
        stage: what is being done.
        progress: fraction of the work that is done.
        error: `what`, `problem`, `remedy` of a job that failed; also `series`, where one of several has to be chosen.
        result: what the program told of it, and its `files`, each with `name` and `bytes`.
        ended: when it was done or failed, by the clock of `Jobs`.
        stop: set to end it.
        removed: whether nothing of it is wanted any more.
    """

    id: str
    folder: Path
    state: State = State.UPLOADING
    stage: str = ""
    progress: float = 0.0
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    removed: bool = False

    @property
    def upload(self) -> Path:
        """Folder of what was sent."""
        return self.folder / UPLOAD

    @property
    def results(self) -> Path:
        """Folder of what came of it."""
        return self.folder / RESULTS

    def files(self) -> list[Path]:
        """The results of a job that is done."""
        names = [file["name"] for file in self.result["files"]] if self.result else []
        return [self.results / name for name in names]


class Jobs:
    """All jobs of a server.

    Args:
        command: a program that does the job of `job.json` in its folder (`images`, `series`, `results`), and tells of
            it in lines of JSON: `{"stage": ..., "progress": ...}`, and in the end `{"result": {...}}`,
            `{"error": {"what": ..., "problem": ..., "remedy": ...}}`, or `{"out_of_memory": true}`.
        limits: what a job may take.
        expire: seconds that results wait to be fetched.
        keep: folder that gets a copy of all results; None to keep none.
        most: jobs that may wait or be at work.
        say: called with lines about what happens, in which nothing tells whose scans they are.
        show_errors: whether the standard error of the program is shown.
        clock: seconds, from any beginning.

    Raises:
        UserError: if there is no folder for temporary files.
    """

    def __init__(
        self,
        command: Sequence[str],
        limits: Limits,
        expire: float = 3600.0,
        keep: Path | None = None,
        most: int = 20,
        say: Callable[[str], None] = lambda text: None,
        show_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command, self.limits, self.expire, self.keep = list(command), limits, expire, keep
        self.most, self.say, self.show_errors, self.clock = most, say, show_errors, clock
        remove_leftovers()
        self.root, self._lock_file = _make_root()
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="voxseg jobs", daemon=True)
        self._worker.start()

    def open(self) -> Job:
        """A new job, to whose `upload` folder files are written before it is submitted.

        Raises:
            BusyError: if there are too many.
            OSError: if its folder cannot be made.
        """
        with self._changed:
            active = (State.UPLOADING, State.QUEUED, State.RUNNING)
            if self._closed or sum(job.state in active for job in self._jobs.values()) >= self.most:
                raise BusyError
            name = secrets.token_urlsafe(16)
            job = Job(name, self.root / name)
            for folder in (job.folder, job.upload, job.folder / WORK):
                folder.mkdir()
            self._jobs[name] = job
            return job

    def submit(self, job: Job, images: dict[str, Path], series: Sequence[str] = ()) -> None:
        """Put a job into the queue.

        Args:
            job: as `open` gave it.
            images: its files or folders, by the names of the model's images.
            series: which DICOM series to take; the only volume by default.

        Raises:
            OSError: if that cannot be written down.
        """
        order = {"images": images, "series": list(series), "results": job.results}
        (job.folder / ORDER).write_text(json.dumps(order, default=str), encoding="utf-8")
        with self._changed:
            if not job.removed:
                job.state = State.QUEUED
                self._queue.append(job)
                self._changed.notify()

    def find(self, name: str) -> Job | None:
        """The job of an id; None if there is none, or none any more."""
        self.sweep()
        with self._changed:
            return self._jobs.get(name)

    def ahead(self, job: Job) -> int:
        """How many jobs are done before a job that waits."""
        with self._changed:
            running = sum(one.state is State.RUNNING for one in self._jobs.values())
            return self._queue.index(job) + running if job in self._queue else 0

    def remove(self, job: Job) -> None:
        """End a job if need be, and remove all of it."""
        with self._changed:
            self._jobs.pop(job.id, None)
            if job in self._queue:
                self._queue.remove(job)
            job.removed = True
            job.stop.set()
            running = job.state is State.RUNNING
        if not running:  # otherwise whoever runs it does so when it has ended
            _remove(job.folder)

    def sweep(self) -> None:
        """Remove what has waited for too long."""
        with self._changed:
            now = self.clock()
            old = [one for one in self._jobs.values() if one.ended is not None and now - one.ended >= self.expire]
        for job in old:
            self.say(f"job {job.id[:SHOWN]}: its results were not fetched and have expired")
            self.remove(job)

    def close(self) -> None:
        """End what is at work and remove everything; may be called again."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for job in self._jobs.values():
                job.stop.set()
            self._jobs.clear()
            self._changed.notify()
        self._worker.join()
        _remove(self.root)
        self._lock_file.close()

    def _work(self) -> None:
        """What the worker's thread does."""
        while True:
            with self._changed:
                if not self._closed and not self._queue:
                    self._changed.wait(SWEEP)
                if self._closed:
                    return
                job = self._queue.pop(0) if self._queue else None
                if job is not None:
                    job.state, job.stage = State.RUNNING, "starting"
            if job is None:
                self.sweep()
            else:
                self._run(job)

    def _run(self, job: Job) -> None:
        name = job.id[:SHOWN]
        self.say(f"job {name}: begun")
        told: dict[str, Any] = {}

        def said(message: dict[str, Any]) -> None:
            if "progress" in message:
                job.stage, job.progress = str(message.get("stage", "")), float(message["progress"])
            else:
                told.update(message)

        result = None
        try:
            command, show = [*self.command, str(job.folder / ORDER)], self.show_errors
            end = run_child(command, job.folder / WORK, self.limits, said, job.stop, _environment(), show)
            error = self._error_of(end, told)
            if error is None and self.keep is not None:
                error = self._keep(job, self.keep)
            if error is None:
                result = told["result"] | {"files": _listed(job.results)}
        except Exception as problem:  # the thread has to go on whatever happens
            self.say(f"job {name}: {type(problem).__name__}: {problem}")
            end, error = End("exit", -1, 0, 0.0), _error("could not be done", "tell whoever runs this server")
        _remove(job.upload)
        _remove(job.folder / WORK)
        with self._changed:
            gone = job.removed or self._closed
            job.error, job.result = error, result
            job.progress, job.stage, job.ended = (job.progress if error else 1.0), "", self.clock()
            job.state = State.FAILED if error else State.DONE
        if gone:
            _remove(job.folder)
        how = "ended by its sender" if gone else "failed, its sender was told why" if error else "done"
        self.say(f"job {name}: {how}, {end.seconds:.0f} s, {end.peak / 1e9:.1f} GB")

    def _error_of(self, end: End, told: dict[str, Any]) -> dict[str, Any] | None:
        """What went wrong, if something did."""
        if end.reason == "memory" or told.get("out_of_memory"):
            problem = f"takes more memory than a job may have here ({self.limits.memory / 1e9:.1f} GB)"
            return _error(problem, "send a smaller scan, or start voxseg with a larger --max-memory")
        if end.reason == "time":
            problem = f"takes longer than a job may take here ({self.limits.seconds:.0f} s)"
            return _error(problem, "send a smaller scan, or start voxseg with a larger --time-limit")
        if end.reason == "stopped":
            return _error("was ended", "send it again")
        if isinstance(told.get("error"), dict):
            return dict(told["error"])
        if end.code or not isinstance(told.get("result"), dict):
            how = f"signal {-end.code}" if end.code < 0 else f"exit code {end.code}"
            self.say(f"a job's process ended unexpectedly ({how})")
            problem = f"could not be segmented: the process ended unexpectedly ({how})"
            return _error(problem, "check that the file opens elsewhere; a damaged one can take too much memory")
        return None

    def _keep(self, job: Job, folder: Path) -> dict[str, Any] | None:
        """Copy the results to where they stay, all or none."""
        target = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{job.id[:SHOWN]}"
        staged = folder / f".{target.name}"
        try:
            shutil.copytree(job.results, staged)
            os.replace(staged, target)
        except OSError as problem:
            _remove(staged)
            self.say(f"{folder}: the results cannot be kept there ({problem.strerror or problem})")
            return _error("the results could not be kept", "tell whoever runs this server")
        return None


def remove_leftovers() -> None:
    """Remove what servers of this user that were killed have left."""
    if os.name == "nt":  # there are no locks to tell whether one is running
        return
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):
                if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.geteuid():
                    continue
                lock = lock_file(path / LOCK)
                if lock is not None:
                    with lock:
                        _remove(path)


def _make_root() -> tuple[Path, IO[bytes]]:
    """A folder that nobody else may look into, and its lock, held."""
    while True:
        try:
            root = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = lock_file(root / LOCK)
        except OSError as error:
            problem = f"temporary files cannot be written ({error.strerror})"
            raise UserError(tempfile.gettempdir(), problem, "set TMPDIR to a folder that can be") from error
        if lock is not None:  # otherwise another server takes it for left behind at this moment
            root.chmod(0o700)
            return root, lock


def _environment() -> dict[str, str]:
    """That of this process without its secret."""
    return {name: value for name, value in os.environ.items() if name != "VOXSEG_TOKEN"}


def _listed(folder: Path) -> list[dict[str, Any]]:
    return [{"name": path.name, "bytes": path.stat().st_size} for path in sorted(folder.iterdir())]


def _error(problem: str, remedy: str) -> dict[str, Any]:
    return {"what": "scan", "problem": problem, "remedy": remedy}


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
