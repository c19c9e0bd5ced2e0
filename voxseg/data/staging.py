"""Files that appear complete, several together, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["staged", "temporary_name", "write_complete", "write_text"]


@contextmanager
def staged(*targets: Path) -> Iterator[list[Path]]:
    """Temporary names beside the targets, which take the targets' names when the block ends well.

    Whatever ends the block otherwise (an error, Ctrl-C, a signal raised as an exception) leaves no file behind and
    files of earlier runs untouched. The data are on the disk before the names change, so that not even a power cut
    leaves an empty file under a good name.

    Args:
        targets: final paths; existing files are replaced.

    Yields:
        one path per target in the same folder and with the same suffixes; all of them have to be written.

    Raises:
        UserError: if the folder cannot be written to, or the disk is full.
    """
    temporaries = [temporary_name(target, os.getpid()) for target in targets]
    try:
        yield temporaries
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, target in zip(temporaries, targets, strict=True):
            os.replace(temporary, target)
    except OSError as error:
        folder = targets[0].parent
        reason = error.strerror or str(error)
        raise UserError(folder, f"the results cannot be written ({reason})", "choose another folder with -o") from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def temporary_name(target: Path, process: int) -> Path:
    """The name that a process gives a file until it is complete: what is left of it if the process is killed."""
    return target.with_name(f".{process}.{target.name}")


def write_complete(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name (same folder, same suffixes), then give it its own.

    Raises:
        UserError: as `staged` does.
    """
    with staged(path) as (temporary,):
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; complete or not at all."""
    write_complete(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
