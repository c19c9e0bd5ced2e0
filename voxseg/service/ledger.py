"""What a watched folder's cases have come to, in files that outlive the process; imports nothing heavy.

Each case has a record in `OUT/.watch`, which appears complete or not at all: begun, done or failed, and of which state
of which arrival. A begun record of a process that is no more tells the next one to look whether the results are
complete. A case that failed has `NAME_failed.json` among the results too; whoever removes that wants it tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from voxseg.data.locks import lock_file
from voxseg.data.staging import TEMPORARY, write_text
from voxseg.errors import UserError

__all__ = ["FAILED", "Ledger", "Record"]

FOLDER = ".watch"
FAILED = "_failed.json"


@dataclass(frozen=True)
class Record:
    """What a case has come to.

    Attributes:
        arrival: name of the file or folder that it came with.
        state: of that at the time.
        status: begun, done or failed.
        attempts: how often it was begun in this state, without an end.
    """

    arrival: str
    state: str
    status: Literal["begun", "done", "failed"]
    attempts: int = 0


class Ledger:
    """The records of one folder of results.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.results, self.folder = folder, folder / FOLDER

    def read(self, case: str) -> Record | None:
        """The record of a case; None if there is none, or it was damaged by other means than this class."""
        try:
            return Record(**json.loads(self._record(case).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, case: str, record: Record) -> None:
        """Replace the record of a case.

        Raises:
            UserError: if that cannot be done.
        """
        write_text(self._record(case), json.dumps(asdict(record)) + "\n")

    def forget(self, case: str) -> None:
        """Remove the record of a case, as if it had never been begun."""
        self._record(case).unlink(missing_ok=True)

    def fail(self, case: str, record: Record, message: str) -> None:
        """Record that a case failed, and set it aside with the reason.

        Raises:
            UserError: if that cannot be written.
        """
        text = json.dumps({"scan": record.arrival, "problem": message}, indent=2, ensure_ascii=False)
        write_text(self._failed(case), text + "\n")
        self.write(case, record)

    def finish(self, case: str, record: Record) -> None:
        """Record that a case is done.

        Raises:
            UserError: if that cannot be written.
        """
        self._failed(case).unlink(missing_ok=True)
        self.write(case, record)

    def is_set_aside(self, case: str) -> bool:
        """Whether a case that failed is still to be left alone."""
        return self._failed(case).exists()

    def has_results(self, case: str, outputs: Sequence[Path]) -> bool:
        """Whether all results of a begun case are there, and none is older than its record."""
        try:
            begun = self._record(case).stat().st_mtime_ns
            found = [path.stat() for path in outputs]
        except OSError:
            return False
        return all(one.st_size > 0 and one.st_mtime_ns >= begun for one in found)

    def clear(self, case: str, outputs: Sequence[Path]) -> None:
        """Remove what a process that was killed has left half-written of a case; the caller holds the claim on it."""
        names = {path.name for path in (*outputs, self._failed(case), self._record(case))}
        for folder in (self.results, self.folder):
            for path in folder.iterdir():
                staged = TEMPORARY.fullmatch(path.name)
                if staged and staged[2] in names:
                    path.unlink(missing_ok=True)

    @contextmanager
    def claim(self, case: str) -> Iterator[bool]:
        """Hold a case, so that of several processes one works on it; free again when the process ends, however.

        Yields:
            whether this process has it.

        Raises:
            UserError: if the folder of the results cannot be written to.
        """
        path = self.folder / f"{case}.lock"
        try:
            file = lock_file(path)
        except OSError as error:
            problem = f"the results cannot be written ({error.strerror})"
            raise UserError(self.results, problem, "choose another folder for them") from error
        if file is None:
            yield False
            return
        with file:
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)

    def _record(self, case: str) -> Path:
        return self.folder / f"{case}.json"

    def _failed(self, case: str) -> Path:
        return self.results / f"{case}{FAILED}"
