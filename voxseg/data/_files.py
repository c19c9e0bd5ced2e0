"""Files that are complete or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_complete(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then give it its name.

    Args:
        path: the final name; an existing file is replaced in one step.
        write: called with a temporary name in the same folder and with the same suffixes.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; complete or not at all."""
    write_complete(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
