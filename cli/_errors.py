"""How errors are told: one line, and a traceback only on request."""

from __future__ import annotations

import os
import traceback

DEBUG_VARIABLE = "VOXSEG_DEBUG"
REPORT_IT = f"this is a bug in voxseg, please report it with what {DEBUG_VARIABLE}=1 shows"


def describe_bug(error: Exception) -> str:
    """One line for an error that is not the user's; its traceback is shown first if that was asked for."""
    show_traceback(error)
    return f"{bug_in_a_line(error)}; {REPORT_IT}"


def bug_in_a_line(error: BaseException) -> str:
    """What kind of error it is and what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def show_traceback(error: BaseException) -> None:
    """Print the traceback if it was asked for by `--debug` or the environment."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
