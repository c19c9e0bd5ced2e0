"""Samples from the prepared cases of a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from voxseg.data.cache import CachedCase
from voxseg.data.preparation import MULTIPLE
from voxseg.data.transforms import field_transforms, window_transforms
from voxseg.errors import UserError
from voxseg.training.balance import epoch_plan
from voxseg.training.config import TrainingConfig
from voxseg.training.samples import Batch
from voxseg.training.workers import in_workers

__all__ = ["DatasetSource", "window_bytes"]

ORDER = 1
"""Key of the random numbers that order an epoch, apart from those of the samples."""
READY = 3
"""Results that a worker keeps ready."""

Sample = tuple[int, int]
"""Number of the case, and position of the sample within its step over all processes."""


class DatasetSource:
    """Windows of cases, or whole cases, as `voxseg.training.samples.SampleSource`.

    Each case comes once an epoch, in an order drawn anew for each. With windows, sample k of a process is at position
    ``rank * batch + k`` of its step, and what it is follows from the seed, the step and the position alone: the samples
    of several processes are those of one with the batch of all of them, and the number of workers changes nothing.
    Whole cases are parts of their own, spread so that each process has about the same number of voxels
    (`voxseg.training.balance`).

    Args:
        cases: prepared, in the same order in every process.
        config: of the run.
        device: where the batches go.
        rank: number of this process.
        world: how many processes there are.

    Attributes:
        waited: seconds spent waiting for samples.

    Raises:
        UserError: there are too few cases, sides cannot be mirrored, or a transform of the user's own is wrong.
    """

    def __init__(
        self, cases: Sequence[CachedCase], config: TrainingConfig, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self.samples = _Samples(cases, config, rank, world)
        self.workers = config.dataset.workers if config.dataset is not None else 0
        self.device = device
        self.waited = 0.0

    def batches(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The parts of each step, made ahead by the workers.

        Raises:
            UserError: a worker was killed, a prepared case is gone, or a transform of the user's own fails.
        """
        loading = in_workers(self.samples.load, partial(self.samples.parts, first, last), self.workers)
        with closing(loading) as loaded:  # type: ignore[type-var]
            for step in range(first, last):
                parts = []
                for _ in self.samples.plan(step):
                    started = time.perf_counter()
                    part = next(loaded)
                    self.waited += time.perf_counter() - started
                    parts.append(self._batch(part))
                yield parts

    def _batch(self, part: _Part) -> Batch:
        image = torch.from_numpy(part.image).to(self.device).float()
        field = None if part.field is None else torch.from_numpy(part.field).to(self.device)
        return Batch(image, torch.from_numpy(part.target).to(self.device).long(), part.names, field)


def window_bytes(config: TrainingConfig) -> int:
    """Bytes of the windows that a process and its workers keep ready; 0 for whole cases, which differ."""
    if config.windows.size == "whole":
        return 0
    voxels, channels = math.prod(config.windows.size), len(config.preparation.images)
    workers = config.dataset.workers if config.dataset is not None else 0
    field = 4 * config.targets.field.channels if config.targets is not None else 0
    ready = workers * READY * (config.batch // config.accumulate) * voxels * (2 * channels + 1 + field)
    return ready + config.batch * voxels * (4 * channels + 8 + field)


@dataclass
class _Part:
    """A batch on its way between processes: image `[B, C, X, Y, Z]` float16, target `[B, X, Y, Z]` uint8, field."""

    image: NDArray[np.float16]
    target: NDArray[np.uint8]
    names: list[str]
    field: NDArray[np.float32] | None = None


class _Samples:
    """What the workers know: which samples belong to a step, and how one is made."""

    def __init__(self, cases: Sequence[CachedCase], config: TrainingConfig, rank: int, world: int) -> None:
        whole = config.windows.size == "whole"
        if len(cases) < (world if whole else 1):
            problem = f"has {len(cases)} cases to train on, {world} processes share them"
            raise UserError("data set", problem, "give more cases, or train with fewer processes")
        self.cases, self.seed = list(cases), config.seed
        self.batch, self.accumulate, self.rank, self.world = config.batch, config.accumulate, rank, world
        # What is computed of a case, which is filled up to what a network halves evenly.
        filled = [[-(-n // MULTIPLE) * MULTIPLE for n in case.grid.shape] for case in cases]
        self.sizes = [math.prod(shape) for shape in filled] if whole else None
        self.fields = config.targets is not None
        spacing = config.preparation.spacing
        if config.targets is not None:
            self.transform = field_transforms(config.windows, config.augmentation, config.targets, spacing)
        else:
            self.transform = window_transforms(config.windows, config.augmentation, config.labels, spacing)
        self._epoch: tuple[int, Any] | None = None

    def parts(self, first: int, last: int) -> Iterator[tuple[int, list[Sample]]]:
        """The parts of the steps with their step, for the workers to go through."""
        for step in range(first, last):
            for part in self.plan(step):
                yield step, part

    def plan(self, step: int) -> list[list[Sample]]:
        """The samples of this process's parts of a step."""
        if self.sizes is not None:
            bins = self._balanced(step)
            before = sum(map(len, bins[: self.rank]))
            return [[(case, before + k)] for k, case in enumerate(bins[self.rank])]
        size = self.batch // self.accumulate
        positions = [self.rank * self.batch + k for k in range(self.batch)]
        samples = [(self._case(step * self.world * self.batch + position), position) for position in positions]
        return [samples[k : k + size] for k in range(0, self.batch, size)]

    def load(self, part: tuple[int, list[Sample]]) -> _Part:
        """Makes the samples of a part.

        Raises:
            UserError: a prepared case is gone, or a transform of the user's own fails.
        """
        step, samples = part
        images, targets, fields, names = [], [], [], []
        for case, position in samples:
            sample = self.cases[case]
            self.transform.set_random_state(self._seed(step, position))
            try:
                # Mapped, so that no more is read than the window.
                data = {
                    "image": MetaTensor(torch.from_numpy(sample.image)),
                    "label": MetaTensor(torch.from_numpy(sample.label)[None]),
                    "points": sample.points,
                }
                if self.fields:
                    data["target"] = MetaTensor(torch.from_numpy(sample.target))
            except (OSError, ValueError) as error:
                problem = f"cannot be read any more ({getattr(error, 'strerror', None) or error})"
                raise UserError(sample.folder, problem, "go on with --resume: it is then prepared again") from None
            result = self._transformed(data)
            images.append(np.asarray(result["image"], dtype=np.float16))
            targets.append(np.asarray(result["label"], dtype=np.uint8)[0])
            if self.fields:
                fields.append(np.asarray(result["target"], dtype=np.float32))
            names.append(f"{sample.id} (seed {self.seed}, step {step}, position {position})")
        return _Part(np.stack(images), np.stack(targets), names, np.stack(fields) if fields else None)

    def _transformed(self, data: dict[str, Any]) -> Any:
        """The transform's result; MONAI wraps what a transform raises into an error of its own."""
        try:
            return self.transform(data)
        except RuntimeError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise

    def _seed(self, step: int, position: int) -> int:
        return int(np.random.SeedSequence((self.seed, step, position)).generate_state(1)[0])

    def _case(self, sample: int) -> int:
        """The case of a sample, counted over all steps and processes."""
        epoch, place = divmod(sample, len(self.cases))
        return int(self._planned(epoch)[place])

    def _balanced(self, step: int) -> list[list[int]]:
        """The cases of each process in a step."""
        steps = max(1, len(self.cases) // (self.world * self.batch))
        plan: list[list[list[int]]] = self._planned(step // steps)
        return plan[step % steps]

    def _planned(self, epoch: int) -> Any:
        """The order of the cases in an epoch, [N]; with whole cases those of each step and process."""
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng(np.random.SeedSequence((self.seed, epoch), spawn_key=(ORDER,)))
            if self.sizes is None:
                self._epoch = epoch, random.permutation(len(self.cases))
            else:
                self._epoch = epoch, epoch_plan(self.sizes, self.world, self.batch, random)
        return self._epoch[1]
