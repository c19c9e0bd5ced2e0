"""Warnings as errors, for what a user calls: nothing of a library's may be shown."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_warnings"]


@contextmanager
def no_warnings() -> Iterator[None]:
    """Every warning is an error, but that of folders which an earlier test's library left to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
        yield
