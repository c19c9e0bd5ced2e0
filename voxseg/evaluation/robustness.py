"""Whether a turned or disturbed scan changes the segmentation: the conditions of a plan, predicted and scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from voxseg.data.label_scheme import LabelEntry, LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.overlap import joint_counts
from voxseg.data.preparation import prepare
from voxseg.errors import UserError
from voxseg.evaluation.robustness_plan import ODD_AXIS, Condition
from voxseg.evaluation.robustness_tests import RobustnessSettings
from voxseg.evaluation.stability import deform, middle_cube, relative_stability, turn
from voxseg.evaluation.structures import Structure, structures_of
from voxseg.evaluation.subject import Shown, Subject
from voxseg.inference.predictor import Predictor

__all__ = [
    "UPRIGHT",
    "ConditionScore",
    "Robustness",
    "Skipped",
    "StabilityScore",
    "dice_scores",
    "mean_over_structures",
    "measure_stability",
    "model_scheme",
    "run_conditions",
    "stability_draws",
    "structures_of_model",
]

UPRIGHT = "as scanned"
STABILITY_MM, STABILITY_DEGREES = 2.0, 45.0
"""Of the deformations and of the rotation: the same for all models, whatever their grids."""
STABILITY_DRAWS, QUICK_DRAWS = 4, 2
REMEMBERED_BYTES = 256 * 10**6
"""Of a network's output, that is kept at most."""

Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class ConditionScore:
    """How well one scan was segmented under one condition.

    Attributes:
        model: its name.
        scan: its name.
        test: one of `TESTS`, or "upright" for the scan as it is.
        series: which curve of the test.
        level: how much; NaN where there is no more and less.
        unit: of the level.
        condition: for people.
        against: what Dice is measured against: "labels", or "upright prediction".
        compared_with: the condition that `baseline` is of.
        dice: of each structure; NaN where it is in neither segmentation, 0 where it is in one only.
        baseline: the same under `compared_with`: of the upright prediction, moved with the scan and cut like it; or of
            a scan that was interpolated too.
        changed_voxels: where the condition moves voxels without changing any, those whose class is another one than in
            the upright prediction; otherwise None.
        voxels: of the disturbed scan.
    """

    model: str
    scan: str
    test: str
    series: str
    level: float
    unit: str
    condition: str
    against: str
    compared_with: str
    dice: tuple[float, ...]
    baseline: tuple[float, ...]
    changed_voxels: int | None = None
    voxels: int = 0


@dataclass(frozen=True)
class StabilityScore:
    """One draw of the relative stability.

    Attributes:
        model: its name.
        scan: its name.
        kind: "deformation" or "rotation".
        size: root mean square displacement in mm, or degrees.
        deformation: D, relative to the variance of the logits.
        noise: G, likewise.
    """

    model: str
    scan: str
    kind: str
    size: float
    deformation: float
    noise: float


@dataclass(frozen=True)
class Skipped:
    """A condition that could not be tried.

    Attributes:
        model: its name.
        scan: its name.
        condition: for people.
        reason: one line.
    """

    model: str
    scan: str
    condition: str
    reason: str


@dataclass
class Robustness:
    """All that was found, so far.

    Attributes:
        settings: what was tried.
        models: their names, in order.
        scans: names of the scans, in order.
        structures: what is scored, for each model.
        scores: of the conditions, in the order in which they ran.
        stability: draws of R_f.
        skipped: what could not be tried.
        complete: whether everything planned was tried.
    """

    settings: RobustnessSettings
    models: tuple[str, ...]
    scans: tuple[str, ...]
    structures: dict[str, tuple[Structure, ...]] = field(default_factory=dict)
    scores: list[ConditionScore] = field(default_factory=list)
    stability: list[StabilityScore] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    complete: bool = False


def run_conditions(
    predictor: Predictor,
    structures: Sequence[Structure],
    subject: Subject,
    labels: Classes | None,
    conditions: Sequence[Condition],
    model: str,
) -> Iterator[ConditionScore | Skipped]:
    """Segment a scan under each condition; the first result is that of the scan as it is.

    Args:
        predictor: of the model.
        structures: what is scored.
        subject: the case.
        labels: dense class indices on its grid; None to compare with the upright prediction.
        conditions: as `plan_conditions` gives them.
        model: name of the model.

    Yields:
        One for each condition, and one before them; a condition that memory does not hold is skipped.

    Raises:
        UserError: if the scan as it is cannot be segmented.
    """
    with _Remembered(predictor):
        upright = predictor.segment(subject.volumes).classes
        reference = upright if labels is None else labels
        against = "upright prediction" if labels is None else "labels"
        first = dice_scores(upright, reference, structures)
        none = _Outcome(first, first, 0, upright.size)
        yield _score(model, subject, _AS_SCANNED, against, none)
        known = {UPRIGHT: first}
        for condition in conditions:
            try:
                outcome = _try(predictor, structures, subject, reference, upright, condition, known)
            except (UserError, MemoryError) as error:
                reason = error.problem if isinstance(error, UserError) else "ran out of memory"
                yield Skipped(model, subject.name, condition.name, reason)
                continue
            known[condition.name] = outcome.dice
            yield _score(model, subject, condition, against, outcome)


@dataclass(frozen=True)
class _Outcome:
    """The part of a `ConditionScore` that is measured."""

    dice: tuple[float, ...]
    baseline: tuple[float, ...]
    changed_voxels: int | None
    voxels: int


_AS_SCANNED = Condition(
    "upright", "", math.nan, "", UPRIGHT, lambda subject, reference, model: Shown(subject.volumes, reference)
)


def _score(model: str, subject: Subject, condition: Condition, against: str, outcome: _Outcome) -> ConditionScore:
    return ConditionScore(
        model=model,
        scan=subject.name,
        test=condition.test,
        series=condition.series,
        level=condition.level,
        unit=condition.unit,
        condition=condition.name,
        against=against,
        compared_with=condition.baseline or UPRIGHT,
        dice=outcome.dice,
        baseline=outcome.baseline,
        changed_voxels=outcome.changed_voxels,
        voxels=outcome.voxels,
    )


def _try(
    predictor: Predictor,
    structures: Sequence[Structure],
    subject: Subject,
    reference: Classes,
    upright: Classes,
    condition: Condition,
    known: dict[str, tuple[float, ...]],
) -> _Outcome:
    """Segment a disturbed scan and score it."""
    shown = condition.make(subject, reference, predictor.model)
    found = predictor.segment(shown.volumes).classes
    dice = dice_scores(found, shown.reference, structures)
    if condition.baseline is not None:
        unknown = (math.nan,) * len(structures)
        return _Outcome(dice, known.get(condition.baseline, unknown), None, found.size)
    if shown.carry is None:
        return _Outcome(dice, known[UPRIGHT], None, found.size)
    carried = shown.carry(upright)
    different = int((found != carried).sum()) if condition.exact else None
    return _Outcome(dice, dice_scores(carried, shown.reference, structures), different, found.size)


class _Remembered:
    """A predictor that does not run its network again on the first input it was given.

    A file that was stored in another orientation, with the right header, is prepared to the same input bit for bit, and
    a network is a function. All else is done each time.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.network = predictor, predictor.network

    def __enter__(self) -> None:
        self.predictor.network = _Memory(self.network)

    def __exit__(self, *error: object) -> None:
        self.predictor.network = self.network


class _Memory(nn.Module):
    """A network that remembers its first input and output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.bytes_per_voxel: Any = getattr(network, "bytes_per_voxel", None)
        self.first: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Any:
        if self.first is not None and torch.equal(self.first[0], x):
            return self.first[1]
        result = self.network(x)
        if self.first is None and result.numel() * result.element_size() <= REMEMBERED_BYTES:
            self.first = x.clone(), result.clone()
        return result


def stability_draws(settings: RobustnessSettings) -> int:
    """Draws of the deformation for each scan; there is one more, of a rotation."""
    return QUICK_DRAWS if settings.quick else STABILITY_DRAWS


def measure_stability(
    predictor: Predictor, subject: Subject, settings: RobustnessSettings, model: str
) -> Iterator[StabilityScore]:
    """R_f of a model on one scan: draws for deformations by `STABILITY_MM`, and one for a rotation.

    Args:
        predictor: of the model.
        subject: the case.
        settings: seed and number of draws.
        model: name of the model.

    Raises:
        UserError: if the scan is so small that such a deformation would fold over itself.
    """
    config = predictor.model.config
    prepared = prepare([(volume.data, volume.geometry) for volume in subject.volumes], config.preparation)
    scales = [image.scale for image in config.preparation.images.values()]
    shown = middle_cube(prepared.image, scales, config.preparation.spacing)
    exclusive = not config.output.regions
    remembered = _Memory(predictor.network)  # the undisturbed input comes again with each draw

    def network(batch: Tensor) -> Tensor:
        result: Tensor = remembered(batch.to(predictor.device))
        return result

    for draw in range(stability_draws(settings)):
        random = np.random.default_rng([settings.seed, 7, draw])
        warp = deform(shown, STABILITY_MM, random)
        measured = relative_stability(network, shown, warp, random, exclusive)
        yield StabilityScore(model, subject.name, "deformation", STABILITY_MM, measured.deformation, measured.noise)
    faded, warp = turn(shown, ODD_AXIS, STABILITY_DEGREES)
    measured = relative_stability(network, faded, warp, np.random.default_rng([settings.seed, 8]), exclusive)
    yield StabilityScore(model, subject.name, "rotation", STABILITY_DEGREES, measured.deformation, measured.noise)


def dice_scores(found: Classes, truth: Classes, structures: Sequence[Structure]) -> tuple[float, ...]:
    """Dice of each structure; NaN where it is in neither, 0 where it is in one only.

    Args:
        found: dense class indices `[X, Y, Z]`.
        truth: of the same shape.
        structures: unions of classes.
    """
    size = 1 + max(int(found.max()), int(truth.max()), *(c for s in structures for c in s.classes))
    joint = joint_counts(found, truth, size)
    scores = []
    for structure in structures:
        members = list(structure.classes)
        total = int(joint[members].sum() + joint[:, members].sum())
        scores.append(2 * int(joint[np.ix_(members, members)].sum()) / total if total else math.nan)
    return tuple(scores)


def mean_over_structures(dice: Sequence[float], structures: Sequence[Structure]) -> float:
    """The mean over the regions if there are any, otherwise over the labels; NaN without any."""
    kinds = {structure.kind for structure in structures}
    kind = "region" if "region" in kinds else "label"
    chosen = [d for d, s in zip(dice, structures, strict=True) if s.kind == kind and not math.isnan(d)]
    return sum(chosen) / len(chosen) if chosen else math.nan


def model_scheme(folder: Path, table: LabelTable) -> LabelScheme:
    """What the classes of a model mean: the block `labels` of its config, or its label table where that has none.

    Args:
        folder: of the model.
        table: its label table.
    """
    contents = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    try:
        scheme = LabelScheme.model_validate(contents["labels"])
        if scheme.predicted().ids == table.ids:
            return scheme
    except (KeyError, TypeError, ValidationError, UserError):
        pass  # a model that was not trained by voxseg
    rows = tuple(
        LabelEntry(
            id=label.id,
            name=label.name,
            colour=label.colour,
            side=label.side,
            partner=label.partner if label.partner in table else None,
        )
        for label in table
    )
    return LabelScheme(classes=table.ids, table=rows, merge_sides=False)


def structures_of_model(folder: Path, table: LabelTable) -> tuple[LabelScheme, tuple[Structure, ...]]:
    """The scheme of a model, and what is scored of it."""
    scheme = model_scheme(folder, table)
    return scheme, tuple(structures_of(scheme))
