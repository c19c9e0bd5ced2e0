"""One list of scans shared by several processes: parts of it, what others have done or are at; imports nothing heavy.

Array jobs either take a part each (`--part 3/8`), or all go through the same list with `--skip-existing`, where each
scan is claimed by the one that begins it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from voxseg.data.locks import lock_file
from voxseg.data.staging import remove_leftovers
from voxseg.errors import UserError

__all__ = ["claimed", "is_complete", "part_of"]

Item = TypeVar("Item")


def part_of(items: Sequence[Item], part: str | None) -> list[Item]:
    """Every n-th item from the i-th on, for a part `i/n` counted from 1; all for None.

    The parts of all i hold every item once. Neighbours fall into different parts, as scans of one kind often are.

    Raises:
        UserError: if it is not `i/n` with 1 <= i <= n.
    """
    if part is None:
        return list(items)
    first, separator, count = part.partition("/")
    if not (separator and first.isascii() and first.isdigit() and count.isascii() and count.isdigit()):
        raise UserError(f"--part {part}", "is not I/N", "give for instance --part 1/4, 2/4, 3/4 and 4/4")
    i, n = int(first), int(count)
    if not 1 <= i <= n:
        raise UserError(f"--part {part}", f"there is no such part of {n}", f"give a number from 1 to {max(n, 1)}")
    return list(items[i - 1 :: n])


def is_complete(outputs: Sequence[Path]) -> bool:
    """Whether all results of a scan are there.

    Files appear under their names when they are complete (`voxseg.data.staging`), but a process may be killed between
    two of them: all have to be there, and none empty.
    """
    try:
        return all(path.stat().st_size > 0 for path in outputs)
    except OSError:
        return False


@contextmanager
def claimed(target: Path, outputs: Sequence[Path]) -> Iterator[bool]:
    """Claim a scan while it is segmented, so that of several processes one does it.

    The claim is a lock on a file beside the results, which the system lets go of when its process ends, however it
    ends: nothing has to be cleaned up and no time limit guessed. What was complete before the claim was got is not
    claimed. Where there are no such locks (Windows, some network file systems), every scan that is not complete is
    claimed by everyone: work is done twice then, and the results are the same.

    Args:
        target: what the results' paths begin with.
        outputs: the results.

    Yields:
        whether the scan is to be done: not if it is complete, and not if another process is at it.

    Raises:
        UserError: if the folder cannot be made or written to.
    """
    path = target.with_name(f".{target.name}.claim")
    if is_complete(outputs):
        with suppress(OSError):  # left by a process that was killed when all was done
            path.unlink(missing_ok=True)
        yield False
        return
    file = _lock(path)
    if file is None:
        yield False
        return
    try:
        todo = not is_complete(outputs)
        if todo:
            remove_leftovers(outputs)
        yield todo
    finally:
        # While the lock is held, so that nobody locks a file that has no name any more without noticing.
        path.unlink(missing_ok=True)
        file.close()


def _lock(path: Path) -> IO[bytes] | None:
    """The claim's file, locked; None if another process has it."""
    try:
        return lock_file(path)
    except OSError as error:
        problem = f"the results cannot be written ({error.strerror})"
        raise UserError(path.parent, problem, "choose another folder with -o") from error
