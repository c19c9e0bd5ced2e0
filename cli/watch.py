"""`voxseg watch`: segment what arrives in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._options import (
    AllowImport,
    Device,
    MaxMemory,
    ModelName,
    OnDevice,
    PageToo,
    Threads,
    Verbose,
    bytes_of,
)
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model
from voxseg.report.niivue import find_niivue


def watch(
    incoming: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder in which scans arrive; never written to.", readable=False)
    ],
    results: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the results, outside IN.", readable=False)],
    once: Annotated[bool, typer.Option("--once", help="End when all that is in IN is done or has failed.")] = False,
    settle: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="How long a file or folder has to stay as it is to be complete."),
    ] = 5.0,
    every: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How often to look where there is nothing to do.")
    ] = 1.0,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="Which DICOM series to segment, as voxseg predict takes it."),
    ] = None,
    model: ModelName = "brain",
    device: OnDevice = Device.auto,
    threads: Threads = None,
    max_memory: MaxMemory = None,
    report: PageToo = False,
    verbose: Verbose = False,
    allow_import: AllowImport = False,
) -> None:
    """Segment what arrives in a folder, one case at a time, until Ctrl-C or SIGTERM.

    Whatever lies at the top of IN is a case, as voxseg predict takes it: a scan, a folder or zip archive of DICOM, the
    folder of a case. It is taken when it has not changed for a while, and done again, in place of the earlier results,
    when it changes later. A case that fails is told once and set aside as OUT/NAME_failed.json; remove that file to
    have it tried again. OUT/.watch keeps track: nothing is lost or done twice, not even across a power cut, and
    several processes may watch the same folders. Nothing is sent or fetched.
    """
    from voxseg.cli._allocator import keep_freed_memory
    from voxseg.cli._batch import ended_by_signals
    from voxseg.cli._case import CaseWork, Settings
    from voxseg.cli._progress import say
    from voxseg.cli._watching import Watcher
    from voxseg.service.arrivals import Arrivals

    _check_folders(incoming, results)
    if report:
        find_niivue()  # what is missing is told before anything is computed
    folder = locate_model(model)
    names, limit = tuple(image_names(folder)), bytes_of(max_memory)
    work = CaseWork(Settings(folder, names, device.value, threads, limit, allow_import, report, skip_existing=False))
    watcher = Watcher(work, incoming, results, Arrivals(incoming, settle), tuple(series or ()), verbose)
    keep_freed_memory()
    try:
        with ended_by_signals():
            work.load()
            say(f"watching {incoming}, results go to {results}" + ("" if once else "; Ctrl-C ends"))
            watcher.run(every, once)
    except (KeyboardInterrupt, SystemExit):
        if once:  # what was asked for is not done
            raise
    done, failed = watcher.teller.done, len(watcher.teller.failures)
    say(f"{done} case{'s' * (done != 1)} done, {failed} failed")
    if once and failed:
        raise typer.Exit(1)


def _check_folders(incoming: Path, results: Path) -> None:
    """Refuse folders of which one would feed the other."""
    if not incoming.is_dir():
        problem = "is not a folder" if incoming.exists() else "does not exist"
        raise UserError(incoming, problem, "give the folder in which scans arrive")
    if results.exists() and not results.is_dir():
        raise UserError(results, "is not a folder", "give a folder for the results")
    if results.resolve().is_relative_to(incoming.resolve()):
        raise UserError(results, f"lies in {incoming}, so that results would be segmented", "give one outside of it")
