"""What a command has done and what was wrong, as one JSON document for machines (`--json`); imports nothing heavy.

Commands add to it as they go, whether or not anybody asked for it; `run` prints it in the end, with everything else
that is printed sent to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any

from voxseg import __version__
from voxseg.cli._errors import REPORT_IT, bug_in_a_line
from voxseg.errors import UserError
from voxseg.provenance import to_json

__all__ = ["OPTION", "add_bug", "add_error", "add_result", "add_user_error", "add_warning", "begin", "tell", "wanted"]

OPTION = "--json"
FAILED, USAGE = 1, 2


@dataclass
class _Document:
    """What is told: facts of each result; of each error what, problem, remedy and exit_code; what, text of warnings."""

    results: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)


_document = _Document()


def begin() -> None:
    """Forget what an earlier command of this process has done."""
    global _document
    _document = _Document()


def add_result(**facts: Any) -> None:
    """Something is done."""
    _document.results.append(facts)


def add_warning(what: object, text: str) -> None:
    """Something should be looked at."""
    _document.warnings.append({"what": str(what), "text": text})


def add_error(what: object, problem: str, remedy: str = "", exit_code: int = FAILED, **more: object) -> None:
    """Something could not be done.

    Args:
        what: the file, option or case.
        problem: what is wrong with it.
        remedy: what to do.
        exit_code: that of a command in which nothing else happens.
        more: facts.
    """
    told = {"what": str(what), "problem": problem, "remedy": remedy, "exit_code": exit_code}
    _document.errors.append(told | more)


def add_user_error(error: UserError) -> None:
    """A mistake that the user can mend."""
    add_error(error.subject, error.problem, error.remedy, USAGE)


def add_bug(what: object, error: BaseException) -> None:
    """An error that is not the user's."""
    add_error(what, bug_in_a_line(error), REPORT_IT)


def wanted(arguments: Sequence[str]) -> bool:
    """Whether the document is asked for."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return OPTION in options


def tell(arguments: Sequence[str], do: Callable[[Sequence[str]], int]) -> int:
    """Run a command, and print what came of it as JSON.

    Args:
        arguments: of the command line.
        do: runs it; returns the exit code, or raises SystemExit.
    """
    with _messages_on_standard_error():
        try:
            code = do(arguments)
        except SystemExit as end:  # by a signal
            code = end.code if isinstance(end.code, int) else FAILED if end.code else 0
    named = [argument for argument in arguments if not argument.startswith("-")]
    document = {"voxseg": __version__, "command": named[0] if named else "", "exit_code": code}
    print(to_json(document | vars(_document)), end="", flush=True)
    return code


@contextmanager
def _messages_on_standard_error() -> Iterator[None]:
    """Whatever is printed goes there, by libraries in other languages and by child processes too."""
    sys.stdout.flush()
    kept = None
    with suppress(OSError):  # no standard output, or no standard error: nothing to mix up
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
