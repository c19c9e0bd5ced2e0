"""The routes of the service: the page, jobs and their files. What they do is in the other modules of this part."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import IO, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from voxseg import __version__
from voxseg.data.paths import SUFFIXES
from voxseg.errors import UserError
from voxseg.report.page import POLICY, asset
from voxseg.service.access import Access, Guard
from voxseg.service.jobs import BusyError, Job, Jobs, State
from voxseg.service.uploads import TooLargeError, receive

__all__ = ["About", "make_app"]

PIECE = 2**18  # bytes of an archive that are sent at a time
IDLE = 60.0  # seconds without a byte of an upload, until it is given up
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A result is shown by our page alone, and a report runs its scripts as if from a site of its own.
FILE_POLICY = "default-src 'none'; frame-ancestors 'self'; sandbox"
REPORT_POLICY = f"{POLICY}; frame-ancestors 'self'; sandbox allow-scripts"

ASSETS = {"serve.css": "text/css", "serve.js": "text/javascript", "icon.svg": "image/svg+xml"}
BASE_STYLE = "page.css"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".json": "application/json",
    ".tsv": "text/tab-separated-values; charset=utf-8",
    ".gz": "application/gzip",
    ".dcm": "application/dicom",
}
SHOWN = (".html", ".png", ".json", ".tsv")
"""Suffixes of what a browser shows; it saves all else."""


@dataclass(frozen=True)
class About:
    """What the page is told of the server.

    Attributes:
        model: its name.
        images: names of the images that it takes.
        max_upload: bytes.
        viewer: whether results have a page with the interactive viewer.
        keeps: whether the server keeps a copy of the results.
        expire: seconds that results wait to be fetched.
    """

    model: str
    images: Sequence[str]
    max_upload: int
    viewer: bool
    keeps: bool
    expire: float


def make_app(jobs: Jobs, access: Access, about: About) -> Any:
    """The application, an ASGI callable; it closes `jobs` when it is shut down.

    Args:
        jobs: where the work is done.
        access: who may use it.
        about: what the page is told.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(jobs.close)

    app = FastAPI(
        title="voxseg",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.add_exception_handler(StarletteHTTPException, _refused)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(_own("index.html"), media_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/assets/{name}", include_in_schema=False)
    async def part_of_page(name: str) -> Response:
        if name == BASE_STYLE:  # the reports' own
            return Response(asset(BASE_STYLE), media_type="text/css")
        if name not in ASSETS:
            raise _refusal(404, name, "there is no such file", "reload the page")
        return Response(_own(name), media_type=ASSETS[name])

    @app.get("/api/about")
    async def tell_about() -> dict[str, Any]:
        return {"voxseg": __version__, "suffixes": [*SUFFIXES, ".zip"], **asdict(about)}

    @app.post("/api/session", status_code=204)
    async def session(request: Request) -> Response:
        """Put the token of the Authorization header into a cookie, which pictures and frames of the page bring."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not access.is_token(token.strip()):
            raise _refusal(401, "token", "is not the one of this server", "ask whoever runs it")
        response, host = Response(status_code=204), request.headers["host"]
        secure = request.url.scheme == "https"
        response.set_cookie(access.cookie(host), token.strip(), httponly=True, samesite="strict", secure=secure)
        return response

    @app.post("/api/jobs", status_code=202)
    async def create(request: Request) -> dict[str, Any]:
        """A form with a file for each image of the model, or several of DICOM, and perhaps `series`."""
        _check_length(request, about.max_upload)
        try:
            job = await run_in_threadpool(jobs.open)
        except BusyError:
            raise _refusal(503, "server", "has as many jobs as it takes", "try again later") from None
        except OSError as error:
            raise _no_room(error) from error
        try:
            kind = request.headers.get("content-type", "")
            upload = await receive(_pieces(request), kind, job.upload, about.images, about.max_upload)
            await run_in_threadpool(jobs.submit, job, upload.images, upload.series)
        except BaseException as error:
            jobs.remove(job)  # here and now: whatever is awaited may be cancelled once more
            if isinstance(error, OSError):
                raise _no_room(error) from error
            if isinstance(error, UserError):
                status = 413 if isinstance(error, TooLargeError) else 415
                raise _refusal(status, error.subject, error.problem, error.remedy) from error
            if isinstance(error, (ClientDisconnect, asyncio.TimeoutError)):
                raise _refusal(408, "upload", "was not completed", "send it again") from error
            raise
        return _status(jobs, job)

    def find(name: str) -> Job:
        job = jobs.find(name)
        if job is None:
            raise _refusal(404, "job", "there is none of this name, or none any more", "send the scan again")
        return job

    @app.get("/api/jobs/{name}")
    def status(name: str) -> dict[str, Any]:
        return _status(jobs, find(name))

    @app.delete("/api/jobs/{name}", status_code=204)
    def remove(name: str) -> None:
        jobs.remove(find(name))

    @app.get("/api/jobs/{name}/files/{file}")
    def one_file(name: str, file: str) -> Response:
        path = next((path for path in find(name).files() if path.name == file), None)
        if path is None:
            raise _refusal(404, file, "there is no such result", "ask for the job's state")
        policy = REPORT_POLICY if path.suffix == ".html" else FILE_POLICY
        kind, way = (
            TYPES.get(path.suffix, "application/octet-stream"),
            "inline" if path.suffix in SHOWN else "attachment",
        )
        # Without a name: the page knows what the sender calls the scan.
        headers = {"Content-Security-Policy": policy, "Content-Disposition": way}
        return FileResponse(path, media_type=kind, headers=headers)

    @app.get("/api/jobs/{name}/results.zip")
    def all_files(name: str) -> Response:
        """All results; with the last byte of them the job is removed."""
        job = find(name)
        if job.state is not State.DONE:
            raise _refusal(409, "job", f"is {job.state.value}", "ask for its state until it is done")
        try:
            archive = _packed(job)
        except OSError as error:
            if job.removed:
                raise _refusal(404, "job", "was removed just now", "send the scan again") from error
            raise _no_room(error) from error
        size = archive.tell()
        archive.seek(0)
        headers = {"Content-Length": str(size), "Content-Disposition": "attachment"}
        sent = _send(archive, size, jobs, job)
        return StreamingResponse(
            sent, media_type="application/zip", headers=headers, background=BackgroundTask(archive.close)
        )

    open_paths = {"/", "/api/session", *(f"/assets/{name}" for name in (*ASSETS, BASE_STYLE))}
    return Guard(app, access, open_paths)


def _status(jobs: Jobs, job: Job) -> dict[str, Any]:
    """What is told of a job."""
    return {
        "id": job.id,
        "state": job.state.value,
        "ahead": jobs.ahead(job),
        "stage": job.stage,
        "progress": job.progress,
        "error": job.error,
        "result": job.result,
    }


def _check_length(request: Request, most: int) -> None:
    """Refuse what announces to be too large before any of it has come; what announces too little is counted."""
    try:
        length = int(request.headers.get("content-length", "0"))
    except ValueError:
        length = 0
    if length > most:
        problem = f"is larger than the {most / 1e6:.0f} MB that this server takes"
        raise _refusal(413, "upload", problem, "send a smaller file, or start voxseg with a larger --max-upload")


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes, as long as it comes."""
    stream = request.stream().__aiter__()
    while True:
        try:
            yield await asyncio.wait_for(stream.__anext__(), IDLE)
        except StopAsyncIteration:
            return


def _packed(job: Job) -> IO[bytes]:
    """An archive of all results, in a file without a name, at its end.

    Raises:
        OSError: if it cannot be written.
    """
    archive = tempfile.TemporaryFile(dir=job.folder)  # noqa: SIM115 - closed when it has been sent
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:  # nearly all of them are packed already
        for path in job.files():
            packed.write(path, path.name)
    return archive


async def _send(archive: IO[bytes], size: int, jobs: Jobs, job: Job) -> AsyncIterator[bytes]:
    """Send an archive, and remove its job once all of it has been taken."""
    left = size
    while left > 0:
        piece = await run_in_threadpool(archive.read, PIECE)
        left -= len(piece)
        yield piece
    # Whoever goes away half-way ends this before.
    await run_in_threadpool(jobs.remove, job)


def _own(name: str) -> str:
    return files("voxseg.service").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _refusal(status: int, what: str, problem: str, remedy: str) -> HTTPException:
    return HTTPException(status, {"what": what, "problem": problem, "remedy": remedy})


def _no_room(error: OSError) -> HTTPException:
    reason = error.strerror or "it cannot be written"
    return _refusal(507, "server", f"could not write what it has to ({reason})", "tell whoever runs it")


async def _refused(request: Request, error: Exception) -> Response:
    """Whatever is refused is told in the same form."""
    assert isinstance(error, StarletteHTTPException)
    told: Any = error.detail
    if not isinstance(told, dict):
        told = {"what": "request", "problem": str(told).lower(), "remedy": "see the documentation of voxseg serve"}
    return JSONResponse(told, error.status_code, headers=error.headers)
