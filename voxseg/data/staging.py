"""Files that appear complete, several together, or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["TEMPORARY", "remove_leftovers", "staged", "temporary_name", "write_complete", "write_text"]

TEMPORARY = re.compile(r"\.(\d+)\.(.+)", re.DOTALL)
"""Names that `temporary_name` gives: the process and the final name."""


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


def remove_leftovers(targets: Sequence[Path], processes: Collection[int] | None = None) -> None:
    """Remove what processes have left of such files when they were killed.

    Args:
        targets: final paths.
        processes: which have ended with them; None for those of this machine that do not run, which is for whoever
            knows that no process of another machine is writing: its number may mean nothing here.
    """
    if processes is None and os.name == "nt":  # there is no looking for a process by its number
        return
    folders: dict[Path, set[str]] = {}
    for target in targets:
        folders.setdefault(target.parent, set()).add(target.name)
    for folder, names in folders.items():
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                found = TEMPORARY.fullmatch(entry.name)
                if found is None or not names & {found[2], found[2].removesuffix(".raw")}:
                    continue
                process = int(found[1])
                if process in processes if processes is not None else not _runs(process):
                    Path(entry).unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


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
