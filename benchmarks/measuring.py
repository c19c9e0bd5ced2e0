"""What the programs beside this one measure with: runs that take turns, and the memory of a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def alternating(
    runs: Mapping[str, Callable[[], object]], rounds: int, cpu_time: bool = False
) -> dict[str, list[float]]:
    """Seconds of runs that take turns, so that a machine that others use is equally slow for all.

    Args:
        runs: by name; each has run once before, if the first time is not to count.
        rounds: how often each of them runs.
        cpu_time: seconds of this process on all cores instead of those on the wall.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return seconds


def resident(key: str) -> int:
    """Bytes of this process in memory as Linux counts them, `VmRSS` now or `VmHWM` at the peak; 0 elsewhere."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """From now on `VmHWM` is the peak of what follows, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_above(run: Callable[[], object]) -> int:
    """Bytes at the peak of a run above those held before it."""
    before = resident("VmRSS")
    forget_peak()
    run()
    return resident("VmHWM") - before


def in_child(program: str, *arguments: str) -> str:
    """What a program prints in a process of its own, where freed memory goes back to the system.

    It runs on one thread unless it sets another number itself.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout
