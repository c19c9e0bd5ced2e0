"""One job in a process of its own, which can do no harm: its memory and time are limited, and it is killed as a group.

What it has to say comes as lines of JSON on its standard output. Its standard input stays open as long as this process
lives, so that it can tell when it is alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

__all__ = ["End", "Limits", "run_child"]

TICK = 0.1  # seconds between looks at what a process takes
ADDRESS_SLACK = 2 * 2**30
"""Bytes that a process may map beyond what it may hold. The system enforces that, between two looks too."""
LONGEST_LINE = 2**20
PATIENCE = 5.0  # seconds; only a process that has left its group can still hold our end of the pipe


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        memory: bytes that its processes may hold together.
        seconds: that it may take.
    """

    memory: int
    seconds: float


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        reason: "exit" by itself; else what it was killed for: "memory", "time" or "stopped".
        code: its exit code, negative for a signal.
        peak: bytes of memory that it was seen to hold.
        seconds: that it took.
    """

    reason: str
    code: int
    peak: int
    seconds: float


def run_child(
    command: Sequence[str],
    folder: Path,
    limits: Limits,
    said: Callable[[dict[str, Any]], None],
    stop: threading.Event,
    environment: Mapping[str, str] | None = None,
    show_errors: bool = False,
) -> End:
    """Run a program until it ends or has to be ended.

    Args:
        command: the program and its arguments.
        folder: that it runs in, and where its temporary files go.
        limits: what it may take.
        said: called, from a thread, with each JSON object that it prints; anything else that it prints is dropped.
        stop: set from elsewhere to end it.
        environment: of the process; by default that of this one.
        show_errors: whether its standard error goes where ours does; to nowhere otherwise.

    Raises:
        OSError: if it cannot be started.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**(os.environ if environment is None else environment), "TMPDIR": str(folder), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if show_errors else subprocess.DEVNULL,
        start_new_session=True,  # a group of its own
    )
    assert process.stdin is not None
    assert process.stdout is not None
    listener = threading.Thread(target=_listen, args=(process.stdout, said), daemon=True)
    listener.start()
    reason, peak = "exit", 0
    try:
        _limit(process.pid, limits.memory)
        while True:
            try:
                process.wait(TICK)
                break
            except subprocess.TimeoutExpired:
                held = _memory(process.pid)
                peak = max(peak, held)
                if stop.is_set():
                    reason = "stopped"
                elif held > limits.memory:
                    reason = "memory"
                elif time.monotonic() - start > limits.seconds:
                    reason = "time"
                if reason != "exit":
                    break
    finally:
        _kill(process)
        process.stdin.close()
        listener.join(PATIENCE)
        if not listener.is_alive():
            process.stdout.close()
    return End(reason, process.returncode, peak, time.monotonic() - start)


def _listen(stream: IO[bytes], said: Callable[[dict[str, Any]], None]) -> None:
    while line := stream.readline(LONGEST_LINE):
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                said(message)


def _limit(pid: int, memory: int) -> None:
    """Let the system refuse memory far beyond the limit, large files, and images of the memory of a crash."""
    if not sys.platform.startswith("linux"):
        return
    most = memory + ADDRESS_SLACK
    with suppress(psutil.Error, OSError, ValueError):  # it has ended already
        process = psutil.Process(pid)
        # Of the address space only what is private and writable counts: GPUs reserve hundreds of gigabytes.
        process.rlimit(psutil.RLIMIT_DATA, (most, most))
        process.rlimit(psutil.RLIMIT_CORE, (0, 0))


def _memory(pid: int) -> int:
    """Bytes that a process and those that it has started hold."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it has not ended, and whatever it has started."""
    if os.name == "nt":
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
