"""The whole way from the scans of a case to a segmentation in the grid of the first."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.preparation import covering_grid, prepare
from voxseg.data.resample import memory_order
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
        model: as `load_model` gives it, or built in memory. Its network is used as it is where it already is on the
            device, otherwise copied there: it is never moved.
        device: `auto` (CUDA if there is a GPU, otherwise the CPU), `cpu`, `cuda`, `mps`, or any name torch knows.
        max_memory: bytes that the whole process may take on the CPU; by default 4 GB, or what is free if that is less.

    Raises:
        UserError: if the device is not there.
    """

    def __init__(self, model: Model, device: str = "auto", max_memory: int | None = None) -> None:
        self.model = model
        self.device = choose_device(device)
        self.max_memory = max_memory
        self.network = _on(model.network, self.device)

    @torch.no_grad()  # not inference_mode: what layers keep for later must serve training too
    def segment(
        self, images: Volume | Sequence[Volume], progress: Progress = lambda stage, fraction: None
    ) -> Segmentation:
        """Segment a case, in the grid of its first image.

        Args:
            images: the scan; or the images of the case in the order of the model's `preparation.images`. They may have
                grids of their own, but have to show the same space.
            progress: called with the name of a stage and the fraction of it that is done.

        Raises:
            UserError: if the images are not those that the model takes, do not fit together, or cannot be segmented
                within the memory allowed.
        """
        seconds: dict[str, float] = {}
        config = self.model.config
        volumes = [images] if isinstance(images, Volume) else list(images)
        first = volumes[0].geometry
        _check_images(volumes, list(config.preparation.images))
        self._check_memory(volumes)
        with _stage("preparing", seconds, progress):
            prepared = prepare([(volume.data, volume.geometry) for volume in volumes], config.preparation)
        with _stage("network", seconds, progress):
            probabilities, windows = self._probabilities(prepared.image, lambda done: progress("network", done))
            if config.postprocessing.largest_component:
                keep_largest(probabilities, bool(config.output.regions))
        with _stage("restoring", seconds, progress):
            layout = memory_order(volumes[0].data)
            report = _report(progress, "restoring")
            classes = restore(probabilities, prepared.grid, first, layout, report, self._painted())
        return Segmentation(classes, self.model.table, windows, seconds)

    def _painted(self) -> list[int] | None:
        """The class index of each region; None if the outputs are exclusive classes."""
        ids = self.model.table.ids
        return [1 + ids.index(region.label) for region in self.model.config.output.regions] or None

    def _check_memory(self, volumes: Sequence[Volume]) -> None:
        """Refuse a case whose working grid and result alone are too large."""
        first = volumes[0]
        grid = covering_grid(first.geometry, self.model.config.preparation.spacing)
        # Intensities, normalised intensities, foreground and its pieces; of each further image its intensities on a
        # grid of its own and on this one; the scaled copy of one image; the result.
        needed = math.prod(grid.shape) * (20 + 9 * (len(volumes) - 1)) + math.prod(first.geometry.shape)
        if any(image.scale == "zscore" for image in self.model.config.preparation.images.values()):
            needed += max(8 * volume.data.size for volume in volumes)
        allowed = self._allowed()
        if needed > allowed:
            voxels = " x ".join(map(str, grid.shape))
            problem = f"needs {needed / 1e9:.1f} GB for a grid of {voxels} voxels, {allowed / 1e9:.1f} GB are allowed"
            raise UserError(first.path, problem, "allow more with --max-memory, or give a smaller scan")

    def _allowed(self) -> int:
        """Bytes that may still be taken on the CPU."""
        free = free_memory()
        limit = self.max_memory if self.max_memory is not None else DEFAULT_LIMIT
        left = limit - resident_memory()
        return left if free is None else min(left, int(free * 0.9))

    def _probabilities(self, image: Tensor, progress: Callable[[float], None]) -> tuple[Tensor, int]:
        """Probabilities `[K, X, Y, Z]` of an image `[C, X, Y, Z]`, whole if it fits, otherwise in windows."""
        classes = self.model.config.network.out_channels
        measured: int | None = getattr(self.network, "bytes_per_voxel", None)
        per_voxel = measured or network_bytes(self.model.config.network)
        if self.device.type == "cuda":
            allowed = int(torch.cuda.mem_get_info(self.device)[0] * 0.8)
        else:
            allowed = self._allowed() - image[0].numel() * 4 * (classes + 1)
        allowed -= NETWORK_CONSTANT
        batch = image[None]
        if image[0].numel() * per_voxel <= allowed:
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
        return result[0], window_count(image.shape[1:], size)

    def _run(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch.to(self.device))
        return logits.float().sigmoid() if self.model.config.output.regions else logits.float().softmax(1)


def _on(network: nn.Module, device: torch.device) -> nn.Module:
    """The network if it is on the device, otherwise a copy there, so that the caller's stays where it is."""
    place = torch.empty(0, device=device).device  # with its number: cuda is cuda:0
    tensors = itertools.chain(network.parameters(), network.buffers())
    return network if all(t.device == place for t in tensors) else copy.deepcopy(network).to(device)


def _check_images(volumes: Sequence[Volume], names: Sequence[str]) -> None:
    """Refuse images that are not those of a model, or do not show the same space as the first.

    Raises:
        UserError: which one.
    """
    if len(volumes) != len(names):
        wanted = ", ".join(names) if len(names) > 1 else "one image"
        given = ", ".join(volume.path.name for volume in volumes)
        raise UserError(given, f"the model takes {wanted}, but {len(volumes)} are given", "give one file for each")
    first = volumes[0]
    for volume in volumes[1:]:
        one, other = first.geometry.canonical, volume.geometry.canonical
        moved = one.displacement(other)
        remedy = "give images of one session that are registered to each other"
        if max(one.spacing) < moved < math.inf:
            problem = f"lies up to {moved:.1f} mm elsewhere than {first.path.name}, which has as many voxels"
            raise UserError(volume.path, problem, remedy)
        if not _overlap(one, other):
            raise UserError(volume.path, f"shows another place than {first.path.name}: they do not overlap", remedy)


def _overlap(one: Geometry, other: Geometry) -> bool:
    """Whether any of a lattice of points in one field of view lies in the other."""
    lattice = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 9) for n in one.shape), indexing="ij"), -1)
    index = (one.to_world(lattice) - other.affine[:3, 3]) @ np.linalg.inv(other.affine[:3, :3]).T
    return bool(((index >= -0.5) & (index <= np.array(other.shape) - 0.5)).all(-1).any())


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
