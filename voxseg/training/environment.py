"""The process that trains: its device, its random numbers, and being told to stop."""

from __future__ import annotations

import random
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch

from voxseg.errors import UserError


def select_device(name: str) -> torch.device:
    """The device by name; "auto" takes a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if name not in there:
        raise UserError(f"--device {name}", "is not known", "use auto, cpu, cuda or mps")
    if not there[name]:
        raise UserError(f"--device {name}", "there is none on this machine", "use --device auto or cpu")
    return torch.device(name)


def bfloat16_in_software(device: torch.device) -> bool:
    """Whether bfloat16 is computed number by number there: a processor of a kind that oneDNN has no kernels for.

    So on x86 without AVX-512, most laptops among them: a training step takes some 20 times as long as in float32
    (benchmarks/speed_log.md).
    """
    if device.type != "cpu":
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # as PyTorch's compiler asks; nothing public tells
    return not supported


def seed_everything(seed: int) -> None:
    """Seeds the global random states of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class StopSignals:
    """Catches the first SIGTERM or Ctrl-C inside a `with` block, so that the work at hand can be finished and saved.

    The second one acts as it did before the block. Outside the main thread, where Python allows no handlers, nothing
    is caught.

    Attributes:
        received: the signal caught, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
