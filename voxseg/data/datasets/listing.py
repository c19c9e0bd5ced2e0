"""What the layouts share: files and folders as they lie on the disk, in a fixed order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxseg.errors import UserError

__all__ = ["scan_files", "walk"]

DEPTH = 4
"""Folders below the one given in which cases are looked for."""


def walk(folder: Path, depth: int = DEPTH) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files, sorted; hidden ones are left out.

    Raises:
        UserError: if the folder itself may not be read. Folders below it that may not be are left out.
    """
    try:
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except PermissionError:
        raise UserError(folder, "may not be read (no permission)", "ask for read access") from None
    yield folder, [e.name for e in visible if e.is_file()]
    if depth:
        for entry in visible:
            if entry.is_dir() and os.access(entry.path, os.R_OK | os.X_OK):
                yield from walk(folder / entry.name, depth - 1)


def scan_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Names of the files of a folder that end in one of the suffixes; none if there is no such folder."""
    if not folder.is_dir():
        return []
    _, names = next(walk(folder, 0))
    return [name for name in names if name.lower().endswith(suffixes)]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: if it cannot be read or is no JSON; names the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError:
        raise UserError(path, "is not a text file", "give a JSON file") from None
    except json.JSONDecodeError as error:
        problem = f"is no valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        raise UserError(path, problem, "mend that line") from None
