"""Checkpoints: one file that holds all that a run needs to go on to the bit, written so that no crash can spoil it."""

from __future__ import annotations

import os
import platform
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import voxseg
from voxseg.errors import UserError

FORMAT = 2


@dataclass
class TrainingState:
    """What changes while a network trains.

    Attributes:
        network: the network under training.
        averaged: its twin that holds the averaged weights.
        optimiser: the optimiser of `network`.
        scaler: of the loss, for float16; does nothing otherwise.
        step: optimiser steps taken.
        seconds: time spent so far, over all parts of the run.
    """

    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0

    def contents(self, config: dict[str, Any]) -> dict[str, Any]:
        """Everything for the file, in plain types and tensors, so that it loads with `weights_only=True`."""
        return {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states(),
            "config": config,
            "versions": versions(),
        }

    def restore(self, contents: dict[str, Any]) -> None:
        """Takes over what `contents` holds, the random states of the process among it."""
        self.network.load_state_dict(contents["network"])
        self.averaged.load_state_dict(contents["averaged"])
        self.optimiser.load_state_dict(contents["optimiser"])
        if self.scaler.is_enabled() and contents["scaler"]:
            self.scaler.load_state_dict(contents["scaler"])
        self.step = contents["step"]
        self.seconds = contents["seconds"]
        set_random_states(contents["random"])


class CheckpointStore:
    """`last.pt` and, behind it, `previous.pt` in one folder.

    Args:
        folder: made by the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pt"
        self.previous = folder / "previous.pt"

    def save(self, contents: dict[str, Any]) -> None:
        """Writes beside the target, flushes to the disk, then renames: a crash leaves a whole file at any moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"writing-{os.getpid()}.pt"
        try:
            with open(temporary, "wb") as file:
                torch.save(contents, file)
                file.flush()
                os.fsync(file.fileno())
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(temporary, self.last)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(self.folder)

    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return self.last.exists() or self.previous.exists()

    def load(self) -> tuple[dict[str, Any], str | None]:
        """Reads `last.pt`, or `previous.pt` where that cannot be read.

        Returns:
            The contents, and a warning if the older file had to do. The unreadable file is kept as `broken.pt`.

        Raises:
            UserError: neither file can be read, or it was written by a newer release.
        """
        problems = []
        for path in (self.last, self.previous):
            try:
                contents = torch.load(path, map_location="cpu", weights_only=True)
                step = int(contents["step"])
            except Exception as error:  # torch raises many kinds for a damaged file
                problems.append(f"{path.name}: {_reason(error)}")
                continue
            if contents.get("format") != FORMAT:
                raise UserError(
                    path, f"checkpoint format {contents.get('format')}", f"this voxseg reads format {FORMAT}"
                )
            if not problems:
                return contents, None
            if self.last.exists():
                # Out of the way, or the next save would put it in the place of the good file.
                os.replace(self.last, self.folder / "broken.pt")
            return contents, f"{self.last}: cannot be read ({problems[0]}); going on from previous.pt at step {step}"
        raise UserError(self.folder, f"no readable checkpoint ({'; '.join(problems)})", "start a new run folder")


def random_states() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's random numbers in plain types and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Puts back what `random_states` gave; CUDA states only where the number of devices is the same."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def versions() -> dict[str, str]:
    """The releases that made a checkpoint or a model."""
    return {
        "voxseg": voxseg.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _flush_folder(folder: Path) -> None:
    """Makes the renames themselves survive a power cut, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
