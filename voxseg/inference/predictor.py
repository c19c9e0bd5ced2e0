"""The whole way from a scan to a segmentation in its own grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.labels import LabelTable
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.inference.memory import (
    DEFAULT_LIMIT,
    NETWORK_CONSTANT,
    free_memory,
    network_bytes,
    resident_memory,
    window_size,
)
from voxseg.inference.model import Model
from voxseg.inference.prepare import covering_grid, prepare
from voxseg.inference.resample import memory_order
from voxseg.inference.restore import keep_largest, restore
from voxseg.inference.windows import in_windows, window_count

__all__ = ["Predictor", "Segmentation", "choose_device"]

Progress = Callable[[str, float], None]
FALLBACK_WINDOW = 96


@dataclass(eq=False)
class Segmentation:
    """What was found in a scan.

    Attributes:
        classes: `[X, Y, Z]` uint8 in the scan's stored axes; 0 background, k the k-th label of the table.
        table: the labels.
        windows: in how many windows the network ran.
        seconds: time spent, by stage.
    """

    classes: NDArray[np.uint8]
    table: LabelTable
    windows: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[Any]:
        """Label ids `[X, Y, Z]` in the smallest integer type that holds them."""
        return self.table.to_ids(self.classes)

    def voxel_counts(self) -> list[int]:
        """Voxels of each label, in the order of the table."""
        counts = np.zeros(len(self.table) + 1, dtype=np.int64)
        slow = memory_order(self.classes)[0]
        for plane in np.moveaxis(self.classes, slow, 0):  # counting all at once would make a copy of 8 bytes a voxel
            counts += np.bincount(plane.ravel(order="K"), minlength=len(counts))
        return [int(n) for n in counts[1:]]


class Predictor:
    """A model on a device, ready for any number of scans.

    Args:
        model: as `load_model` gives it.
        device: `auto` (CUDA if there is a GPU, otherwise the CPU), `cpu`, `cuda`, `mps`, or any name torch knows.
        max_memory: bytes that the whole process may take on the CPU; by default 4 GB, or what is free if that is less.

    Raises:
        UserError: if the device is not there.
    """

    def __init__(self, model: Model, device: str = "auto", max_memory: int | None = None) -> None:
        self.model = model
        self.device = choose_device(device)
        self.max_memory = max_memory
        self.network = model.network.to(self.device)

    @torch.inference_mode()
    def segment(self, volume: Volume, progress: Progress = lambda stage, fraction: None) -> Segmentation:
        """Segment a scan.

        Args:
            volume: the scan.
            progress: called with the name of a stage and the fraction of it that is done.

        Raises:
            UserError: if the scan cannot be segmented within the memory allowed.
        """
        seconds: dict[str, float] = {}
        config = self.model.config
        self._check_memory(volume)
        with _stage("preparing", seconds, progress):
            prepared = prepare(volume.data, volume.geometry, config.preparation)
        with _stage("network", seconds, progress):
            probabilities, windows = self._probabilities(prepared.image, lambda done: progress("network", done))
            if config.postprocessing.largest_component:
                keep_largest(probabilities)
        with _stage("restoring", seconds, progress):
            layout = memory_order(volume.data)
            report = _report(progress, "restoring")
            classes = restore(probabilities, prepared.grid, volume.geometry, layout, report)
        return Segmentation(classes, self.model.table, windows, seconds)

    def _check_memory(self, volume: Volume) -> None:
        """Refuse a scan whose working grid and result alone are too large."""
        grid = covering_grid(volume.geometry, self.model.config.preparation.spacing)
        # Intensities, normalised intensities, foreground and its pieces; the result.
        needed = math.prod(grid.shape) * 20 + math.prod(volume.geometry.shape)
        allowed = self._allowed()
        if needed > allowed:
            voxels = " x ".join(map(str, grid.shape))
            problem = f"needs {needed / 1e9:.1f} GB for a grid of {voxels} voxels, {allowed / 1e9:.1f} GB are allowed"
            raise UserError(volume.path, problem, "allow more with --max-memory, or give a smaller scan")

    def _allowed(self) -> int:
        """Bytes that may still be taken on the CPU."""
        free = free_memory()
        limit = self.max_memory if self.max_memory is not None else DEFAULT_LIMIT
        left = limit - resident_memory()
        return left if free is None else min(left, int(free * 0.9))

    def _probabilities(self, image: Tensor, progress: Callable[[float], None]) -> tuple[Tensor, int]:
        """Class probabilities `[K, X, Y, Z]` of an image `[X, Y, Z]`, whole if it fits, otherwise in windows."""
        classes = len(self.model.table) + 1
        per_voxel = network_bytes(self.model.config.network)
        if self.device.type == "cuda":
            allowed = int(torch.cuda.mem_get_info(self.device)[0] * 0.8)
        else:
            allowed = self._allowed() - image.numel() * 4 * (classes + 1)
        allowed -= NETWORK_CONSTANT
        batch = image[None, None]
        if image.numel() * per_voxel <= allowed:
            try:
                result = self._run(batch)
                progress(1.0)
                return result[0], 1
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()  # others use the GPU too: the figures were out of date
                allowed = FALLBACK_WINDOW**3 * per_voxel
        side = window_size(per_voxel, allowed)
        size = (side, side, side)
        result = in_windows(lambda x: self._run(x).cpu(), batch, size, classes, progress=progress)
        return result[0], window_count(image.shape, size)

    def _run(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch.to(self.device))
        return logits.float().softmax(1)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is a GPU, otherwise the CPU.

    Raises:
        UserError: if torch does not know it, or the machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}", "there is no such device", "give auto, cpu, cuda or mps") from None
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"--device {name}", "this machine (or this torch) has none", "give --device cpu")
    return device


def _report(progress: Progress, stage: str) -> Callable[[float], None]:
    return lambda fraction: progress(stage, fraction)


@contextmanager
def _stage(name: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Announce a stage and take its time."""
    start = time.perf_counter()
    progress(name, 0.0)
    yield
    progress(name, 1.0)
    seconds[name] = time.perf_counter() - start
