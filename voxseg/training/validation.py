"""What a network is worth on what it was never trained on: generated windows, or whole cases in their own grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voxseg.data.datasets.case import Case
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import prepare, prepare_labels
from voxseg.data.synthesis import ScanGenerator
from voxseg.data.turning import turn_window, turned_case
from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.inference.memory import DEFAULT_LIMIT, resident_memory
from voxseg.inference.model import Model, ModelConfig
from voxseg.inference.predictor import Predictor
from voxseg.testing import rotation_matrix
from voxseg.training.config import TrainingConfig
from voxseg.training.equivariance import AXIS, equivariance_error
from voxseg.training.model_config import model_config
from voxseg.training.planes import Plane, cut_planes
from voxseg.training.scores import CaseScore, CaseView, ValidationResult, class_counts, mean_dice, merge, output_members

__all__ = [
    "VALIDATION_STREAM",
    "CaseValidation",
    "Validation",
    "ValidationResult",
    "WindowValidation",
    "evaluating",
    "mean_dice",
    "merge",
    "read_images",
    "spread",
]

# In the place of the process's rank in a seed, so that no training sample is ever a validation sample.
VALIDATION_STREAM = 2**32 - 1
SHOWN = 2
"""Cases that there are pictures of."""


class Validation(Protocol):
    """Something to measure a network on, the same all through a run."""

    def run(self, network: nn.Module, device: torch.device) -> Any:
        """This process's part, for `merge`.

        Args:
            network: `[1, C, X, Y, Z]` to logits `[1, K, X, Y, Z]`, on `device`; it is run in evaluation mode and
                float32, without gradients, and left in the mode that it came in.
            device: where it is.
        """
        ...

    def merge(self, results: Sequence[Any]) -> Any:
        """One result of those of all processes."""
        ...


class WindowValidation:
    """Generated windows, kept on the CPU.

    Args:
        source: where samples come from.
        config: of the run.
        rank: number of this process, which takes every `world`-th window.
        world: how many processes there are.
    """

    def __init__(self, source: ScanGenerator, config: TrainingConfig, rank: int = 0, world: int = 1) -> None:
        self.config, self.rank = config, rank
        self.windows: list[tuple[Tensor, Tensor]] = []
        for index in range(rank, config.validation.windows, world):
            scan, target = source.sample((config.validation.seed, index, VALIDATION_STREAM))
            self.windows.append((scan[0].cpu(), target[0].to("cpu", torch.uint8)))
        fullest = sorted(range(len(self.windows)), key=lambda index: -len(self.windows[index][1].unique()))
        self.shown = fullest[0] if fullest else 0

    def run(self, network: nn.Module, device: torch.device) -> ValidationResult:
        """Predicts this process's windows, upright and turned about their centres, and pools their voxels.

        A turned window has corners that came from outside it: it counts only within a ball in its middle.
        """
        scheme, degrees = self.config.labels, self.config.validation.turned_deg
        rotation = rotation_matrix(AXIS, degrees).numpy()
        members = torch.from_numpy(output_members(scheme).T.copy())  # [outputs, classes + 1]
        empty = np.zeros((len(members), 3), dtype=np.int64)
        score = CaseScore(self.rank, "generated windows", empty, empty.copy() if degrees else None)
        result = ValidationResult([score])
        with evaluating(network, device) as predict:
            for index, (scan, target) in enumerate(self.windows):
                truth, predicted = members[:, target.long()], self._outputs(predict(scan[None]))
                score.counts = score.counts + _mask_counts(truth, predicted)
                if score.turned is not None:
                    turned, turned_target, inside = turn_window(scan, target, rotation)
                    turned_truth = members[:, turned_target.long()] & inside
                    turned_predicted = self._outputs(predict(turned[None])) & inside
                    score.turned = score.turned + _mask_counts(turned_truth, turned_predicted)
                if index != self.shown:
                    continue
                x, y, z = target.shape
                grid = Geometry((x, y, z), np.diag([*[self.config.preparation.spacing] * 3, 1.0]))
                planes = cut_planes(scan[0].numpy(), truth.numpy(), predicted.numpy(), grid)
                result.views.append(CaseView(self.rank, score.name, score, planes))
                if degrees and self.rank == 0:
                    result.errors.append(equivariance_error(predict, scan, degrees))
        return result

    def merge(self, results: Sequence[ValidationResult]) -> ValidationResult:
        """One result of those of all processes."""
        return merge(results)

    def _outputs(self, logits: Tensor) -> Tensor:
        """Whether each voxel belongs to each output, `[outputs, X, Y, Z]` bool on the CPU."""
        if self.config.labels.regions:
            return (logits[0] > 0).cpu()  # where the sigmoid is above 0.5
        classes = logits[0].argmax(0).cpu()
        return torch.stack([classes == k for k in range(1, logits.shape[1])])


class CaseValidation:
    """Whole cases, segmented in their own grids as `voxseg predict` would, one at a time and read anew each time.

    Args:
        cases: all that are held out, with labels.
        config: of the run; `validation.cases` of them are taken, evenly spread.
        rank: number of this process, which takes every `world`-th of those.
        world: how many processes there are.
    """

    def __init__(self, cases: Sequence[Case], config: TrainingConfig, rank: int = 0, world: int = 1) -> None:
        self.config = config
        chosen = spread(len(cases), config.validation.cases)
        self.cases = [(number, cases[index]) for number, index in enumerate(chosen)][rank::world]

    def run(self, network: nn.Module, device: torch.device) -> ValidationResult:
        """Segments this process's cases, upright and turned.

        Turned is the patient: scan and truth are turned by `validation.turned_deg` about an odd axis (`AXIS`), in a
        field of view enlarged to hold them, with the spacing as it is; the scan linearly, the truth by nearest
        neighbours. Interpolating both once costs about 0.01 of Dice by itself, with thick slices more.

        Raises:
            UserError: a file has changed and cannot be read any more, or does not fit its case.
        """
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what training has left there counts as taken when windows are chosen
        degrees = self.config.validation.turned_deg
        result = ValidationResult([])
        with evaluating(network, device) as predict:
            settings = ModelConfig.model_validate(model_config(self.config))
            # What is learned is scored: structures without their sides, if those are told apart afterwards.
            postprocessing = settings.postprocessing.model_copy(update={"sides": False})
            settings = settings.model_copy(update={"postprocessing": postprocessing})
            model = Model(settings, self.config.labels.predicted(), network)
            # The training process has its own memory already; the limit is for what prediction adds.
            predictor = Predictor(model, str(device), max_memory=resident_memory() + DEFAULT_LIMIT)
            for number, case in self.cases:
                images, truth = self._read(case)
                if number == 0 and degrees:
                    prepared = prepare([(image.data, image.geometry) for image in images], self.config.preparation)
                    result.errors.append(equivariance_error(predict, prepared.image, degrees))
                poses = [self._segment(predictor, images, truth, number)]
                if degrees:
                    poses.append(self._segment(predictor, *self._turned(images, truth), number))
                counts, planes = zip(*poses, strict=True)
                score = CaseScore(number, case.id, *counts)
                result.cases.append(score)
                if number < SHOWN:
                    result.views.append(CaseView(number, case.id, score, *planes))
        return result

    def merge(self, results: Sequence[ValidationResult]) -> ValidationResult:
        """One result of those of all processes."""
        return merge(results)

    def _read(self, case: Case) -> tuple[list[Volume], NDArray[np.uint8]]:
        """The images of a case in the order of the network's channels, and the truth in the grid of the first."""
        images = read_images(case, self.config)
        if case.label is None:
            raise UserError(case.id, "has no labels to compare with", "leave it out of the validation cases")
        ids, geometry = read_labels(case.label)
        return images, prepare_labels(self.config.labels.to_classes(ids), geometry, images[0].geometry)

    def _turned(self, images: Sequence[Volume], truth: NDArray[np.uint8]) -> tuple[list[Volume], NDArray[np.uint8]]:
        """The case with the patient turned by the angle of the config."""
        rotation = rotation_matrix(AXIS, self.config.validation.turned_deg).numpy()
        scans, labels = turned_case([(v.data, v.geometry) for v in images], truth, self.config.preparation, rotation)
        pairs = zip(images, scans, strict=True)
        return [Volume(v.path, data, grid, None, grid.shape) for v, (data, grid) in pairs], labels

    def _segment(
        self, predictor: Predictor, images: Sequence[Volume], truth: NDArray[np.uint8], number: int
    ) -> tuple[NDArray[np.int64], list[Plane]]:
        """The counts of a case in one pose, and the planes to look at if it is shown."""
        prediction = predictor.segment(images).classes
        counts = class_counts(truth, prediction, self.config.labels)
        if number >= SHOWN:
            return counts, []
        first, members = images[0], output_members(self.config.labels)
        return counts, cut_planes(first.data, truth, prediction, first.geometry, members)


def read_images(case: Case, config: TrainingConfig) -> list[Volume]:
    """The images of a case in the order of the network's channels."""
    images = []
    for name in config.preparation.images:
        data, geometry = read_image(case.images[name])
        images.append(Volume(case.images[name].path, data, geometry, None, geometry.shape))
    return images


def spread(count: int, wanted: int | None) -> list[int]:
    """`wanted` of the numbers 0 to `count` - 1, evenly spread; all of them if that is None or too many."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


@contextmanager
def evaluating(network: nn.Module, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network in evaluation mode, without gradients, in float32 whatever the training's precision: as it is used.

    Yields:
        `[1, C, X, Y, Z]` on any device to logits.
    """

    def predict(image: Tensor) -> Tensor:
        logits: Tensor = network(image.to(device).contiguous(memory_format=torch.channels_last_3d))
        return logits

    training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield predict
    finally:
        network.train(training)


def _mask_counts(truth: Tensor, prediction: Tensor) -> NDArray[np.int64]:
    """Counts `[outputs, 3]` as in a `CaseScore` from masks `[outputs, X, Y, Z]`."""
    counted = [(mask.flatten(1).sum(1)) for mask in (truth & prediction, truth, prediction)]
    return torch.stack(counted, 1).numpy()
