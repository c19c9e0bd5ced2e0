"""Standard error while C++ libraries print on it; imports nothing heavy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["STANDARD_ERROR", "quiet_libraries"]

STANDARD_ERROR = threading.RLock()
"""Held while standard error leads nowhere, which it does for all threads: messages wait for it."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what C++ code prints on standard error besides raising an exception."""
    with STANDARD_ERROR:
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
