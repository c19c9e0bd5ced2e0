"""Servers of the service in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from small_server import COMMAND, PATIENCE, Served


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server's files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def served(temporary: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers, which end with the test."""
    for package in ("fastapi", "uvicorn", "python_multipart", "psutil", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import httpx
    import uvicorn

    from voxseg.service.access import Access
    from voxseg.service.app import About, make_app
    from voxseg.service.child import Limits
    from voxseg.service.jobs import Jobs

    running = []

    def start(
        token: str | None = None,
        largest: int = 10**6,
        memory: int = 10**9,
        seconds: float = 1000.0,
        images: tuple[str, ...] = ("image",),
        command: list[str] = COMMAND,
        viewer: bool = False,
        **options: Any,
    ) -> Served:
        said: list[str] = []
        jobs = Jobs(command, Limits(memory, seconds), say=said.append, **options)
        app = make_app(jobs, Access(token, ["voxseg.example"]), About("tiny", images, largest, viewer, False, 3600.0))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=PATIENCE)
        running.append((server, thread, client, listening, jobs))
        return Served(jobs, client, said)

    yield start
    for server, thread, client, listening, jobs in running:
        client.close()
        server.should_exit = True
        thread.join()
        jobs.close()
        listening.close()
    assert list(temporary.iterdir()) == []  # nothing is ever left
