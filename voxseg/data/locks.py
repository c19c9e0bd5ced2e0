"""Files that one process holds: the system lets go of them when the process ends, however it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock_file"]


def lock_file(path: Path) -> IO[bytes] | None:
    """Make a file if need be, with its folder, and lock it.

    Whoever holds the lock may remove the file, and has to do so before it is closed. Where there are no such locks
    (Windows, some network file systems) everyone gets the file.

    Returns:
        The file, locked until it is closed; None if another process has it.

    Raises:
        OSError: if the file cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 - it stays open as long as the lock
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # this file system has no locks
            return file
        if _is_at(file, path):
            return file
        file.close()  # the one that had it has removed it since: take the file that is there now


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one under its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
