"""How much memory there is, and how much a network takes."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxseg.networks import NetworkConfig

__all__ = [
    "DEFAULT_LIMIT",
    "NETWORK_CONSTANT",
    "WORKER_LIMIT",
    "default_limit",
    "free_memory",
    "held_memory",
    "memory_left",
    "network_bytes",
    "resident_memory",
    "reusable_memory",
]

DEFAULT_LIMIT = 25 * 10**8
"""Bytes that the whole process may take if nothing else is said, for a scan of `USUAL_VOXELS` or fewer."""

LEAST_BESIDE = 2 * 10**9
"""Bytes that a scan gets by default in a process that held much before: that is no reason for smaller windows."""

USUAL_VOXELS = 256**3
LARGER = 16
"""Bytes that a larger scan may take by default for each further voxel: it has to be held, with its labels."""

WORKER_LIMIT = 4 * 10**9
"""Bytes that a worker of a cluster or a job of a service is given if nothing else is said, before its scan is known."""

FOREIGN_BYTES = 4 * 600
"""What a network that is not ours is taken to need for each voxel, where nobody has measured it."""

NETWORK_CONSTANT = 300 * 10**6
"""Bytes of a network's temporaries, which are held in slabs of fixed size."""


def default_limit(voxels: int, held: int = 0) -> int:
    """Bytes that the whole process may take for a scan of so many voxels if nothing else is said.

    Args:
        voxels: of the scan.
        held: bytes that the process held before.
    """
    return max(DEFAULT_LIMIT, held + LEAST_BESIDE) + LARGER * max(0, voxels - USUAL_VOXELS)


def held_memory() -> int:
    """Bytes that this process holds in use; 0 where that cannot be told. First called before any scan is read."""
    return max(0, resident_memory() - reusable_memory())


def memory_left(max_memory: int | None, voxels: int, held: int, since: int, reserved: int = 0) -> int:
    """Bytes that may still be taken on the CPU for a scan.

    Args:
        max_memory: bytes that the whole process may take; None for `default_limit`, or what is free if that is less.
        voxels: of the scan.
        held: `held_memory` before the first scan.
        since: bytes of the arrays that were made for the scan since. They are what counts if nothing else was said: as
            the size of a process is never quite the same, a scan would get other windows from time to time, and in
            them labels that differ in a few voxels.
        reserved: bytes of it that are left to others.
    """
    reusable, free = reusable_memory(), free_memory()
    if max_memory is None:
        left = default_limit(voxels, held) - held - since
    else:
        left = max_memory - resident_memory() + reusable
    left -= reserved
    return left if free is None else min(left, int(free * 0.9) + reusable)


def network_bytes(config: NetworkConfig) -> int:
    """Bytes that a folded network needs at its peak for each voxel of its input, besides `NETWORK_CONSTANT`.

    The peak is on the finest level, where the skip connection, the logits and slabs on the way are alive together; in
    networks that are not separable the output of the convolution, the upsampled features and both in one tensor too. An
    upper bound for the networks that were measured (steerable with 5, 27 and 40 channels there and 3 to 40 classes, and
    plain); a test measures again. For a network that is not ours it is a guess on the safe side (MONAI's UNet and its
    like need 200 to 1000), before which comes what `ForeignNetwork` measures.
    """
    from voxseg.steerable import FieldType  # with torch, which who asks for free memory has no need of

    if config.import_path is not None:
        return FOREIGN_BYTES
    channels = FieldType(config.levels[0]).channels
    return 4 * ((3 if config.separable else 7) * channels + 2 * config.out_channels + config.in_channels)


def resident_memory() -> int:
    """Bytes of memory that this process holds now; 0 where that cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def reusable_memory() -> int:
    """Bytes of `resident_memory` that are free for new arrays: what earlier scans have left in the heap.

    0 where that cannot be told. Without it a scan would get the less memory the larger the one before was. Of the free
    bytes that the allocator knows of, those at the end of the heap may never have been touched and not be resident. So
    they are not counted: what is resident, less what is in use, less what lay outside the heap at the first call.
    """
    info = _heap_info()
    if info is None:
        return 0
    return max(0, _anonymous_memory() - _outside_heap() - int(info().uordblks))


def _anonymous_memory() -> int:
    """Bytes that are held and belong to no file; 0 where that cannot be told."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


@cache
def _outside_heap() -> int:
    """Anonymous bytes outside the heap when this was first called: stacks, and what libraries have mapped.

    Asked for before the first scan: when the heap cannot grow where it is, it goes on elsewhere, and only its first
    part bears its name.
    """
    heap = 0
    try:
        with open("/proc/self/smaps", encoding="ascii", errors="replace") as maps:
            for line in maps:
                if line.endswith("[heap]\n"):
                    heap += next(int(entry.split()[1]) * 1024 for entry in maps if entry.startswith("Rss:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    return max(0, _anonymous_memory() - heap)


class _HeapInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


@cache
def _heap_info() -> Any:
    """The function that tells of the heap; None where there is none (glibc before 2.33, other libraries)."""
    if platform.libc_ver()[0] != "glibc":
        return None
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _HeapInfo
    return function


def free_memory() -> int | None:
    """Bytes that this process could still take, within the machine and its control group; None if unknown."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        limits.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass  # no control group, or no limit ("max")
    if not limits and sys.platform == "darwin":
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(limits) if limits else None
