"""What has arrived in a watched folder, taken when it has stopped changing; imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Arrival", "Arrivals", "state_of"]

UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", "~")
"""How programs that copy call a file until it is complete."""


@dataclass(frozen=True)
class Arrival:
    """A file or folder at the top of a watched folder.

    Attributes:
        path: of it.
        state: what changes when it changes.
    """

    path: Path
    state: str


class Arrivals:
    """Looks into a folder and tells what has not changed for a while. Files are looked at, never opened.

    Times of modification are compared with each other alone, never with a clock: copies keep those of the original,
    and those of a file server are of its own clock.

    Args:
        folder: the watched one.
        settle: seconds that a file or folder has to stay as it is; 0 for two looks in a row.
        clock: seconds, from any beginning.
    """

    def __init__(self, folder: Path, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.settle, self.clock = folder, settle, clock
        self.arriving = 0
        self.seen: dict[str, tuple[str, float]] = {}

    def look(self) -> list[Arrival]:
        """What has arrived, by name; `arriving` counts what has been seen to change, or not been seen long enough.

        Raises:
            OSError: if the folder cannot be read.
        """
        now, seen, settled = self.clock(), dict[str, tuple[str, float]](), []
        for name in sorted(os.listdir(self.folder)):
            if name.startswith(".") or name.lower().endswith(UNFINISHED):
                continue
            path = self.folder / name
            state = state_of(path)
            if state is None:
                continue
            before = self.seen.get(name)
            same = before is not None and before[0] == state
            since = before[1] if before is not None and same else now
            seen[name] = (state, since)
            if same and now - since >= self.settle:
                settled.append(Arrival(path, state))
        self.seen, self.arriving = seen, len(seen) - len(settled)
        return settled


def state_of(path: Path) -> str | None:
    """Sizes and times of a file, or of all files below a folder, as a hash.

    Returns:
        None if there is no such file, or there are no files in the folder.
    """
    digest, count = hashlib.sha256(), 0
    for file in _files(path):
        try:
            found = file.stat()
        except OSError:  # removed since, or a link to nothing
            continue
        name = file.relative_to(path).as_posix()
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        count += 1
    return digest.hexdigest() if count else None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(Path(parent, name) for parent, _, names in os.walk(path) for name in names)
