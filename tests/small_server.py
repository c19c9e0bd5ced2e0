"""A server of the service for tests: what asks it, and a small program for its jobs, which does as its upload says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path

def say(**message):
    print(json.dumps(message), flush=True)

order = json.loads(Path(sys.argv[-1]).read_text())
results = Path(order["results"])
results.mkdir()
(path,) = order["images"].values()
what, _, more = Path(path).read_text().partition(" ")
if what == "wait":  # until somebody opens the other end
    say(stage=str(os.getpid()), progress=0.5)
    open(more).read()
elif what == "sleep":
    child = subprocess.Popen(["sleep", "1000"])
    say(stage=f"{os.getpid()} {child.pid}", progress=0.25)
    child.wait()
elif what == "eat":
    food = []
    while True:
        food.append(bytearray(b"x" * 10**7))
elif what == "gulp":
    try:
        bytearray(int(more))
    except MemoryError:
        say(out_of_memory=True)
        raise SystemExit
elif what == "kill":
    os.kill(os.getpid(), 9)
elif what == "leave":
    raise SystemExit(3)
elif what == "chat":
    print("no JSON", [1, 2])
    print("[1, 2]")
    raise SystemExit
elif what == "fail":
    say(error={"what": "scan", "problem": "is damaged", "remedy": "copy it again"})
    raise SystemExit
elif what == "lie":  # there is nothing where it says
    results.rmdir()
    say(result={})
    raise SystemExit
elif what == "large":
    (results / "scan_seg.nii.gz").write_bytes(os.urandom(int(more)))
about = {"series": order["series"], "secret": os.environ.get("VOXSEG_TOKEN")}
(results / "scan_seg.json").write_text(json.dumps(about))
(results / "scan_qc.png").write_bytes(b"PNG")
say(result={"cases": [{"name": "scan", "files": ["scan_seg.json", "scan_qc.png"], "quality": 0.9, "warnings": []}]})
"""
COMMAND = [sys.executable, "-c", PROGRAM]
PATIENCE = 60.0  # seconds until a test gives up


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives once that is true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return value


@dataclass
class Served:
    """A running server.

    Attributes:
        jobs: of it.
        client: httpx's, with the server's address.
        said: what it has told whoever runs it.
    """

    jobs: Any
    client: Any
    said: list[str] = field(default_factory=list)

    def send(self, content: str | bytes, name: str = "a.nii", **options: Any) -> Any:
        """The answer to an upload of a file."""
        return self.client.post("/api/jobs", files={"image": (name, content)}, **options)

    def start(self, content: str | bytes) -> str:
        """The path of a new job."""
        answer = self.send(content)
        assert answer.status_code == 202, answer.text
        return f"/api/jobs/{answer.json()['id']}"

    def end(self, job: str) -> dict[str, Any]:
        """The status of a job when it has ended."""

        def ended() -> Any:
            told = self.client.get(job).json()
            return told if told["state"] in ("done", "failed") else None

        found: dict[str, Any] = until(ended)
        return found

    def stage(self, job: str) -> str:
        """What a job says of itself once it runs."""
        told = until(lambda: (now := self.client.get(job).json())["progress"] and now)
        return str(told["stage"])

    @property
    def left(self) -> list[str]:
        """Everything on the disk."""
        return sorted(path.name for path in self.jobs.root.iterdir() if path.name != "lock")
