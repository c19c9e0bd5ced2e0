"""Files that appear complete, several together, or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["remove_leftovers", "staged", "temporary_name", "write_complete", "write_text"]


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


def remove_leftovers(targets: Sequence[Path]) -> None:
    """Remove what processes of this machine have left of such files when they were killed.

    Only for whoever knows that no process of another machine is writing them: its number may mean nothing here.

    Args:
        targets: final paths.
    """
    if os.name == "nt":  # there is no looking for a process by its number
        return
    for folder in {target.parent for target in targets}:
        names = "|".join(re.escape(target.name) for target in targets if target.parent == folder)
        form = re.compile(rf"\.(\d+)\.(?:{names})(?:\.raw)?")
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                found = form.fullmatch(entry.name)
                if found and not _runs(int(found[1])):
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
