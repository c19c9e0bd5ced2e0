"""What a job of `voxseg serve` does in its own process: unpack, read, segment and write as `voxseg predict` does.

    python -c "from voxseg.cli._job import main; main()" SETTINGS [JOB]

SETTINGS is JSON: the fields of `Settings`, and `unpacked`, the bytes that an archive may become. JOB is the file that
`voxseg.service.jobs` writes; without one the model is loaded and nothing else. What comes of it is told in lines of
JSON on standard output. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from voxseg.cli._allocator import keep_freed_memory
from voxseg.cli._case import CaseWork, Settings, Written, failure_of
from voxseg.cli._cases import Task, find_tasks
from voxseg.cli._progress import REPORT_STAGE, STAGES, part_done
from voxseg.data.dicom.files import is_dicom
from voxseg.data.paths import SUFFIXES
from voxseg.errors import UserError
from voxseg.provenance import plain
from voxseg.service.archives import ArchiveLimits, unpack

__all__ = ["command_of", "main"]

ZIP = ".zip"


def command_of(settings: Settings, unpacked: int) -> list[str]:
    """The program of `voxseg.service.jobs.Jobs`, to which the file of a job is added.

    Args:
        settings: of all jobs.
        unpacked: bytes that an archive may become.
    """
    text = json.dumps({**vars(settings), "unpacked": unpacked}, default=str)
    return [sys.executable, "-c", "from voxseg.cli._job import main; main()", text]


def main() -> None:
    """Do what the command line says; see the module."""
    say = _speaker()
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    given = json.loads(sys.argv[1])
    unpacked = given.pop("unpacked")
    work = CaseWork(Settings(**{**given, "folder": Path(given["folder"]), "names": tuple(given["names"])}))
    keep_freed_memory()
    job = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        if job is None:
            work.load()
            say({"result": {}})
        else:
            order = json.loads(job.read_text(encoding="utf-8"))
            say({"result": {"cases": _do(work, order, ArchiveLimits(unpacked), say)}})
    except Exception as error:
        say(plain(_told(error, "scan", job)))


def _speaker() -> Callable[[Mapping[str, Any]], None]:
    """What prints a message on standard output, to which nothing else gets from here on."""
    stream: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: Mapping[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    return say


def _end_with_the_server() -> None:
    """Standard input ends when the server does, however that ends; nobody wants the result then."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def _do(
    work: CaseWork, order: Mapping[str, Any], limits: ArchiveLimits, say: Callable[[Mapping[str, Any]], None]
) -> list[dict[str, Any]]:
    """Segment what was sent, and tell of each result."""
    results = Path(order["results"])
    results.mkdir()
    images = {name: _unpacked(Path(path), limits) for name, path in order["images"].items()}
    tasks = _tasks(images, order["series"], results, work.settings.names)
    stages = STAGES | (REPORT_STAGE if work.settings.report else {})
    cases = []
    for place, task in enumerate(tasks):

        def progress(stage: str, fraction: float, place: int = place) -> None:
            done = (place + part_done(stage, fraction, stages)) / len(tasks)
            say({"stage": stage, "progress": round(done, 3)})

        progress("reading", 0.0)
        cases.append(_facts(task, _segment(work, task, progress), results))
    return cases


def _segment(work: CaseWork, task: Task, progress: Callable[[str, float], None]) -> Written:
    loaded = work.read(task)
    work.plan(loaded)
    return work.write(task, loaded, work.segment(loaded, progress), progress)


def _unpacked(path: Path, limits: ArchiveLimits) -> Path:
    """A scan, or a folder with DICOM."""
    if path.suffix == ZIP:
        folder = path.with_suffix("")
        folder.mkdir()
        unpack(path, folder, limits)
        path.unlink()
        path = folder
    if path.is_dir() and not is_dicom(path):
        remedy = f"send DICOM, as files or as a zip archive, or one of {', '.join(SUFFIXES)} as it is"
        raise UserError(path.name, "holds no DICOM images", remedy)
    return path


def _tasks(images: Mapping[str, Path], series: Sequence[str], results: Path, names: Sequence[str]) -> list[Task]:
    """What is to be segmented, as the command line would be asked for it."""
    if len(names) > 1:
        return find_tasks([], [f"{name}={images[name]}" for name in names], False, results, names, series)
    (path,) = images.values()
    tasks = find_tasks([path], [], False, results, names, series)
    if tasks[0].problem is not None and is_dicom(path) and not series:
        from voxseg.cli._dicom import series_of

        usable = [one for one in series_of(path) if not one["problem"]]
        if len(usable) > 1:
            raise _SeveralSeriesError(path, usable)
    return tasks


class _SeveralSeriesError(UserError):
    """There are several volumes, of which one has to be chosen."""

    def __init__(self, path: Path, series: list[dict[str, object]]) -> None:
        labels = ", ".join(str(one["series"]) for one in series)
        super().__init__(
            path, f"has {len(series)} series that are volumes", f"choose one, with series={labels}, or all"
        )
        self.series = series


def _facts(task: Task, written: Written, results: Path) -> dict[str, Any]:
    files = [path.name for path in written.files]
    told = [text.replace(f"{results}{os.sep}", "") for text in written.told]
    return {
        "name": task.target.name,
        "files": files,
        "quality": round(written.quality, 4),
        "warnings": told,
        "seconds": {stage: round(took, 3) for stage, took in written.seconds.items()},
    }


def _told(error: Exception, what: str, job: Path | None) -> dict[str, Any]:
    """The last message of a job that failed; no folder of the server is in it."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
        return {"out_of_memory": True}
    failure = failure_of(Task(what, {}, Path(what)), cause)
    told: dict[str, Any] = {"what": failure.what or what, "problem": failure.problem, "remedy": failure.remedy}
    if job is not None:
        told = {key: _without_folders(text, job.parent) for key, text in told.items()}
    if isinstance(cause, _SeveralSeriesError):
        told["series"] = cause.series
    return {"error": told}


def _without_folders(text: str, folder: Path) -> str:
    """A message in which files have their names alone."""
    for place in [*sorted((folder / "upload").glob("*")), folder / "upload", folder / "results", folder]:
        text = text.replace(f"{place}{os.sep}", "").replace(str(place), place.name)
    return text.replace(folder.name, "job")
