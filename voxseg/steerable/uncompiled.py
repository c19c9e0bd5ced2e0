"""Functions that `torch.compile` is to leave alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """`torch.compiler.disable`, which imports the compiler where it is written: 1.5 s for those who compile alone.

    Args:
        function: runs as it is written, in a compiled network too.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        if "torch._dynamo" in sys.modules:  # always so within a network that is being compiled
            result: T = torch.compiler.disable(function)(*arguments, **named)
            return result
        return function(*arguments, **named)

    return call
