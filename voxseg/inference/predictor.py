"""The whole way from the scans of a case to a segmentation in the grid of the first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.preparation import Prepared, covering_grid, preparation_bytes, prepare
from voxseg.data.resample import memory_order
from voxseg.data.volume import Volume
from voxseg.inference.checks import check_images, check_memory
from voxseg.inference.confidence import ExpectedDice
from voxseg.inference.device import choose_device, gpu_memory, on_device
from voxseg.inference.memory import held_memory, memory_left, network_bytes
from voxseg.inference.model import Model
from voxseg.inference.pieces import found, keep_largest, largest_and_others
from voxseg.inference.plan import Plan, Run, choose_run
from voxseg.inference.restore import ProbabilitySink, Restorer, least_probability, sweep_axis
from voxseg.inference.sides import find_mid_surface, header_mid_surface
from voxseg.inference.windows import in_planes

__all__ = ["Predictor", "Segmentation", "stage"]

Progress = Callable[[str, float], None]
FALLBACK_WINDOW = 96
SIDES = 24
"""Bytes a voxel of the working grid for telling sides apart: structures, probabilities, a blurred copy, distances."""
AFTERWARDS = 8
"""Bytes a voxel of the scan that are taken after it was segmented: classes, ids, what is compared and drawn."""


@dataclass(eq=False)
class Segmentation:
    """What was found in a scan.

    Attributes:
        classes: `[X, Y, Z]` uint8 in the scan's stored axes; 0 background, k the k-th label of the table.
        table: the labels.
        windows: in how many windows the network ran.
        seconds: time spent, by stage.
        plan: what was planned, with the run of the network as it was; None if it was not made by `Predictor`.
        sides: what left and right of paired structures are told by: "anatomy", or "header" where too little of a brain
            was found; None for a model that does not tell them apart afterwards.
        confidence: the Dice to expect of each label (`voxseg.inference.confidence`), both sides of a structure alike,
            float64 [labels] (of regions, [regions]); NaN for what is neither found nor expected. None if it was not
            made by `Predictor`.
    """

    classes: NDArray[np.uint8]
    table: LabelTable
    windows: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    sides: Literal["anatomy", "header"] | None = None
    confidence: NDArray[np.float64] | None = None

    @property
    def quality(self) -> float:
        """One number for the scan: the mean confidence of its structures, 0 where nothing was found.

        In a brain, which has all (`sides` is not None), a structure that is neither found nor expected counts as 0.
        """
        if self.confidence is None or np.isnan(self.confidence).all():
            return 0.0
        return float(np.nan_to_num(self.confidence).mean() if self.sides is not None else np.nanmean(self.confidence))

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
        max_memory: bytes that the whole process may take on the CPU; by default 2.5 GB and more for a scan of over
            256^3 voxels (`default_limit`), or what is free if that is less.
        window: voxels of the sides of the windows that the network runs in; by default the whole grid is one, or as
            large a part as fits into memory.
        reserved: bytes of `max_memory` that are left to others, such as a thread that reads the next scan.

    Raises:
        UserError: if the device is not there.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        max_memory: int | None = None,
        window: int | None = None,
        reserved: int = 0,
    ) -> None:
        self.model = model
        self.device = choose_device(device)
        self.max_memory, self.window, self.reserved = max_memory, window, reserved
        self.network, self.sides = on_device(model.network, self.device), model.sides
        self._held = held_memory()

    def plan(self, images: Volume | Sequence[Volume], probabilities: bool = False) -> Plan:
        """What segmenting a case will take of memory, and in how many windows the network will run.

        Args:
            images: as `segment` takes them.
            probabilities: whether probabilities are wanted too.
        """
        volumes = [images] if isinstance(images, Volume) else list(images)
        config, scan = self.model.config, volumes[0].geometry
        grid = covering_grid(scan, config.preparation.spacing)
        preparing = preparation_bytes([volume.data for volume in volumes], scan, config.preparation)
        # What is there while the network runs: the prepared images and the result.
        held = 4 * len(volumes) * math.prod(grid.shape) + math.prod(scan.shape)
        left = self._allowed(volumes)
        run = self._choose(grid, scan, left - held, 2 if probabilities else None)
        used = held_memory()
        # The result is counted, turned into labels, compared and drawn in the end.
        expected = used + max(preparing, held + run.bytes, AFTERWARDS * math.prod(scan.shape))
        return Plan(grid.shape, config.preparation.spacing, run, expected, used + left)

    @torch.no_grad()  # not inference_mode: what layers keep for later must serve training too
    def segment(
        self,
        images: Volume | Sequence[Volume],
        progress: Progress = lambda stage, fraction: None,
        probabilities: ProbabilitySink | None = None,
    ) -> Segmentation:
        """Segment a case, in the grid of its first image.

        Args:
            images: the scan; or the images of the case in the order of the model's `preparation.images`. They may have
                grids of their own, but have to show the same space.
            progress: called with the name of a stage and the fraction of it that is done.
            probabilities: takes the probability of each class, or of each region, in the scan's grid.

        Raises:
            UserError: if the images are not those that the model takes, do not fit together, or cannot be segmented
                within the memory allowed.
        """
        seconds: dict[str, float] = {}
        config = self.model.config
        volumes = [images] if isinstance(images, Volume) else list(images)
        check_images(volumes, list(config.preparation.images))
        plan = self.plan(volumes, probabilities is not None)
        check_memory(volumes[0], plan, f"a grid of {' x '.join(map(str, plan.grid))} voxels")
        with stage("preparing", seconds, progress):
            prepared = prepare([(volume.data, volume.geometry) for volume in volumes], config.preparation)
        layout = memory_order(volumes[0].data)
        job = _Job(prepared, volumes[0].geometry, layout, probabilities, seconds, progress, self._expected())
        stored = None if probabilities is None else 2
        left = self._allowed(volumes, prepared.image.nbytes) - math.prod(job.scan.shape)
        run = self._choose(prepared.grid, job.scan, left, stored)
        classes: NDArray[np.uint8] | None = None
        if run.window is None:
            try:
                classes = self._at_once(job)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()  # others use the GPU too: the figures were out of date
                job.expected = self._expected()
                run = self._choose(prepared.grid, job.scan, 0, stored, FALLBACK_WINDOW)
        if classes is None:
            classes = self._in_windows(job, run)
        plan = replace(plan, run=run)
        return Segmentation(classes, self.model.table, run.count, seconds, plan, job.sides, self._confidence(job))

    @torch.no_grad()
    def restore(self, probabilities: Tensor, prepared: Prepared, scan: Volume) -> Segmentation:
        """The segmentation that probabilities stand for which were made elsewhere, as by an exported network.

        Args:
            probabilities: `[K, X, Y, Z]` on the grid of the prepared image; of each class or region.
            prepared: what the network was given.
            scan: the first image of the case, in whose grid the segmentation is.
        """
        seconds: dict[str, float] = {}
        layout = memory_order(scan.data)
        job = _Job(prepared, scan.geometry, layout, None, seconds, lambda stage, fraction: None, self._expected())
        classes = self._restored(job, probabilities.float().clone())
        return Segmentation(classes, self.model.table, 1, seconds, None, job.sides, self._confidence(job))

    def _confidence(self, job: _Job) -> NDArray[np.float64]:
        """The Dice to expect of each label of the table."""
        scores = job.expected.scores()
        return scores if self.sides is None else scores[self.sides.structure[1:] - 1]

    def _painted(self) -> list[int] | None:
        """The class index of each region; None if the outputs are exclusive classes."""
        ids = self.model.table.ids
        return [1 + ids.index(region.label) for region in self.model.config.output.regions] or None

    def _expected(self) -> ExpectedDice:
        """Nothing fed yet."""
        regions = self.model.config.output.regions
        return ExpectedDice(len(regions) or len(self.model.structures), bool(regions))

    def _allowed(self, volumes: Sequence[Volume], prepared: int = 0) -> int:
        """Bytes that may still be taken on the CPU for a case, of which so many are prepared already."""
        since = sum(volume.data.nbytes for volume in volumes) + prepared
        return memory_left(self.max_memory, volumes[0].data.size, self._held, since, self.reserved)

    def _choose(self, grid: Geometry, scan: Geometry, left: int, stored: int | None, side: int | None = None) -> Run:
        """How the network runs over a grid with so many bytes left; `stored` as the scan's axis to go along."""
        config = self.model.config
        measured: int | None = getattr(self.network, "bytes_per_voxel", None)
        if self.sides is not None:
            left -= SIDES * math.prod(grid.shape)
        return choose_run(
            grid.shape,
            config.network.out_channels,
            measured or network_bytes(config.network),
            left,
            axis=None if stored is None else sweep_axis(grid, scan, stored),
            on_device=gpu_memory(self.device),
            side=side or self.window,
            pieces=config.postprocessing.largest_component,
        )

    def _at_once(self, job: _Job) -> NDArray[np.uint8]:
        """The segmentation of a case whose probabilities fit into memory."""
        with stage("network", job.seconds, job.progress):
            probabilities, _ = self._probabilities(job.prepared.image, lambda done: job.progress("network", done))
        return self._restored(job, probabilities)

    def _restored(self, job: _Job, probabilities: Tensor) -> NDArray[np.uint8]:
        """The segmentation that probabilities `[K, X, Y, Z]` on the working grid stand for; they are overwritten."""
        config = self.model.config
        job.expected.feed(probabilities)
        with stage("restoring", job.seconds, job.progress):
            if config.postprocessing.largest_component:
                keep_largest(probabilities, bool(config.output.regions))
            axis = sweep_axis(job.prepared.grid, job.scan, 2 if job.sink is not None else job.layout[0])
            restorer = job.restorer(axis, self._painted(), _report(job.progress, "restoring"))
            restorer.feed(probabilities.movedim(axis + 1, 1))
            if self.sides is not None:
                self._tell_sides(job, restorer, *self._structures(probabilities), axis)
        return restorer.result

    def _structures(self, probabilities: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The structure of each voxel, and the probability of any that has sides, of `[K, ...]`."""
        assert self.sides is not None
        paired = probabilities[torch.from_numpy(self.sides.paired).to(probabilities.device)].sum(0)
        return probabilities.argmax(0).to(torch.uint8).cpu().numpy(), paired.cpu().numpy()

    def _tell_sides(
        self, job: _Job, restorer: Restorer, structures: NDArray[np.uint8], paired: NDArray[np.float32], axis: int
    ) -> None:
        """Give structures on the right their classes, from what `_structures` tells of the whole working grid."""
        assert self.sides is not None
        spacing = self.model.config.preparation.spacing
        surface = find_mid_surface(structures, paired, self.model.structures.ids, spacing)
        job.sides = "header" if surface is None else "anatomy"
        if surface is None:
            surface = header_mid_surface(job.prepared.grid, paired)
        distance = surface.distance(structures.shape, spacing)
        possible = paired >= 0.99 * least_probability(self.sides.channels)
        restorer.tell_sides(np.moveaxis(distance, axis, 0), np.moveaxis(possible, axis, 0), self.sides.right)

    def _in_windows(self, job: _Job, run: Run) -> NDArray[np.uint8]:
        """The segmentation of a case, restored in pieces while the network runs in windows."""
        config = self.model.config
        regions, one = bool(config.output.regions), config.postprocessing.largest_component
        assert run.window is not None
        restorer = job.restorer(run.axis, self._painted())
        inside: list[NDArray[np.bool_]] = []
        parts: list[tuple[NDArray[np.uint8], NDArray[np.float32]]] = []
        restoring = 0.0
        with stage("network", job.seconds, job.progress):
            for planes in in_planes(
                lambda x: self._run(x).cpu(),
                job.prepared.image[None],
                run.window,
                config.network.out_channels,
                run.axis,
                progress=_report(job.progress, "network"),
            ):
                start = time.perf_counter()
                job.expected.feed(planes)
                if self.sides is not None:
                    parts.append(self._structures(planes))
                if one:
                    inside.append(found(planes, regions).numpy())
                restorer.feed(planes)
                restoring += time.perf_counter() - start
        job.seconds["network"] -= restoring
        with stage("restoring", job.seconds, job.progress):
            parted = largest_and_others(np.concatenate(inside)) if one else None
            if parted is not None:
                restorer.clear(small=parted[1], largest=parted[0])
            if self.sides is not None:
                structures, paired = (np.concatenate(part) for part in zip(*parts, strict=True))
                if parted is not None:
                    structures[parted[1]] = 0
                structures, paired = (np.moveaxis(part, 0, run.axis) for part in (structures, paired))
                self._tell_sides(job, restorer, structures, paired, run.axis)
        job.seconds["restoring"] += restoring
        return restorer.result

    def _probabilities(self, image: Tensor, progress: Callable[[float], None]) -> tuple[Tensor, int]:
        """Probabilities `[K, X, Y, Z]` of an image `[C, X, Y, Z]` at once, and how many windows that took."""
        result = self._run(image[None])[0]
        progress(1.0)
        return result, 1

    def _run(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch.to(self.device)).float()
        return logits.sigmoid() if self.model.config.output.regions else logits.softmax(1)


@dataclass(eq=False)
class _Job:
    """A case on its way."""

    prepared: Prepared
    scan: Geometry
    layout: tuple[int, int, int]
    sink: ProbabilitySink | None
    seconds: dict[str, float]
    progress: Progress
    expected: ExpectedDice
    sides: Literal["anatomy", "header"] | None = None

    def restorer(
        self, axis: int, painted: list[int] | None, progress: Callable[[float], None] = lambda done: None
    ) -> Restorer:
        return Restorer(self.prepared.grid, self.scan, axis, self.layout, painted, self.sink, progress)


def _report(progress: Progress, name: str) -> Callable[[float], None]:
    return lambda fraction: progress(name, fraction)


@contextmanager
def stage(name: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Announce a stage and take its time."""
    start = time.perf_counter()
    progress(name, 0.0)
    yield
    progress(name, 1.0)
    seconds[name] = time.perf_counter() - start
