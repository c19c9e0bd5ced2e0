"""`voxseg serve`: segment what a browser or a program sends."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxseg.cli._options import AllowImport, Device, MaxMemory, ModelName, OnDevice, Threads, bytes_of
from voxseg.errors import UserError
from voxseg.inference.locate import image_names, locate_model, model_name
from voxseg.inference.memory import WORKER_LIMIT
from voxseg.report.niivue import find_niivue

if TYPE_CHECKING:
    from voxseg.service.child import Limits

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "psutil")
BEYOND = 1.25  # of the memory that a job plans to stay within: what it is killed at
UNPACKED = 4  # times the largest upload: what an archive may become
GRACE = 3  # seconds that requests have to end when the server does


def serve(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen. Anything but this machine alone needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0 for any that is free.")] = 8642,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="VOXSEG_TOKEN",
            show_envvar=False,
            metavar="TEXT",
            help="What every request has to bring. Better set VOXSEG_TOKEN: command lines can be seen by others.",
        ),
    ] = None,
    without_token: Annotated[
        bool, typer.Option("--without-token", help="Let whoever reaches ADDRESS use it, from other machines too.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of this machine that browsers may use; once for each."),
    ] = None,
    max_upload: Annotated[float, typer.Option(min=0.001, metavar="MB", help="The largest upload.")] = 2000.0,
    max_memory: MaxMemory = None,
    time_limit: Annotated[float, typer.Option(min=1.0, metavar="SECONDS", help="The longest job.")] = 1800.0,
    expire: Annotated[
        float, typer.Option(min=0.1, metavar="MINUTES", help="How long results wait to be fetched.")
    ] = 60.0,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep a copy of all results here; none is kept otherwise.", readable=False),
    ] = None,
    model: ModelName = "brain",
    device: OnDevice = Device.auto,
    threads: Threads = None,
    allow_import: AllowImport = False,
) -> None:
    """Segment what a browser or a program sends, one job at a time, until Ctrl-C or SIGTERM.

    At http://ADDRESS:N is a page with drag and drop, progress, pictures, volumes and the viewer. Programs POST a form
    with the scan to /api/jobs, ask /api/jobs/ID for its state, and GET /api/jobs/ID/results.zip. Each job runs in a
    process of its own with limits of memory and time. Its files are removed when all results were fetched together,
    when it was deleted or has expired, and when the server ends. Nothing is sent to or fetched from elsewhere.
    """
    _check_packages()
    from voxseg.cli._case import Settings
    from voxseg.cli._job import command_of
    from voxseg.cli._progress import say
    from voxseg.service.access import Access, check_exposure
    from voxseg.service.app import About, make_app
    from voxseg.service.child import Limits
    from voxseg.service.jobs import Jobs

    check_exposure(host, token, without_token)
    folder = locate_model(model)
    if keep is not None:
        _check_folder(keep)
    viewer = _has_viewer(say)
    names, limit, largest = tuple(image_names(folder)), bytes_of(max_memory) or WORKER_LIMIT, int(max_upload * 1e6)
    settings = Settings(folder.resolve(), names, device.value, threads, limit, allow_import, viewer, False)
    command, limits = command_of(settings, UNPACKED * largest), Limits(int(limit * BEYOND), time_limit)
    with _bound(host, port) as listening:
        _check_model(command, limits)
        jobs = Jobs(command, limits, 60 * expire, keep, say=say, show_errors=_debugging())
        try:
            about = About(model_name(folder), names, largest, viewer, keep is not None, 60 * expire)
            names_allowed = [*(allow_host or []), *([host] if host.strip() else [])]
            app = make_app(jobs, Access(token, names_allowed), about)
            _run(app, listening, lambda: say(f"serving {about.model} at {_address(listening)}; Ctrl-C ends"))
        finally:
            jobs.close()


def _check_packages() -> None:
    for name in PACKAGES:
        if find_spec(name) is None:
            problem = f"needs the package {name.replace('_', '-')}"
            raise UserError("voxseg serve", problem, "install it with: pip install 'voxseg[serve]'")


def _has_viewer(say: Any) -> bool:
    try:
        find_niivue("the viewer")
    except UserError as error:
        say(f"voxseg: {error}; results come without it", error=True)
        return False
    return True


def _check_folder(keep: Path) -> None:
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--keep {keep}", f"cannot be made ({error.strerror})", "give another folder") from error
    if not os.access(keep, os.W_OK):
        raise UserError(f"--keep {keep}", "may not be written to (no permission)", "give another folder")


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: if there cannot be one.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}", "is used by another program", "give another one, or 0") from error
        raise UserError(
            f"--host {host} --port {port}", f"cannot be used ({error.strerror or error})", "give others"
        ) from error


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _check_model(command: list[str], limits: Limits) -> None:
    """Load the model once in a job's process, so that what is wrong with it is told at the start."""
    import tempfile

    from voxseg.service.child import run_child

    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        end = run_child(command, Path(folder), limits, told.update, threading.Event(), show_errors=_debugging())
    if "error" in told:
        raise UserError(told["error"]["what"], told["error"]["problem"], told["error"]["remedy"])
    if end.reason == "memory" or "out_of_memory" in told:
        raise UserError("--max-memory", "is not even enough to load the model", "give more")
    if "result" not in told:
        raise UserError("--model", f"could not be loaded ({end.reason}, exit code {end.code})", "see with --debug")


def _run(app: Any, listening: socket.socket, started: Any) -> None:
    """Serve until a signal comes."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, lifespan="on"
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        started()
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _debugging() -> bool:
    from voxseg.cli._errors import DEBUG_VARIABLE

    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
