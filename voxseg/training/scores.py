"""Scores of a validation: counts of voxels for each case, and Dice from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.overlap import joint_counts
from voxseg.training.planes import Plane

__all__ = [
    "CaseScore",
    "CaseView",
    "ValidationResult",
    "class_counts",
    "mean_dice",
    "merge",
    "output_colours",
    "output_members",
]

Counts = NDArray[np.int64]


@dataclass
class CaseScore:
    """What was counted in one case, or in several whose voxels are pooled.

    Attributes:
        number: of the case among those that are validated.
        name: of the case.
        counts: voxels of each output (`LabelScheme.outputs`) in truth and prediction at once, in the truth, and in the
            prediction, `[outputs, 3]` int64.
        turned: the same in the turned pose; None if that was left out.
    """

    number: int
    name: str
    counts: Counts
    turned: Counts | None = None

    @property
    def dice(self) -> list[float]:
        """Of each output; NaN for one that is neither there nor predicted."""
        return _dice(self.counts)

    @property
    def turned_dice(self) -> list[float] | None:
        """The same in the turned pose."""
        return None if self.turned is None else _dice(self.turned)


@dataclass
class CaseView:
    """What a picture shows of one case.

    Attributes:
        number: of the case among those that are validated.
        name: of the case.
        score: what was counted in it.
        upright: an axial, a coronal and a sagittal plane.
        turned: the same in the turned pose; empty if that was left out.
    """

    number: int
    name: str
    score: CaseScore
    upright: list[Plane]
    turned: list[Plane] = field(default_factory=list)


@dataclass
class ValidationResult:
    """What a validation found, in one process or merged from all of them.

    The Dice of an output is the mean over the cases in which it is there or predicted, as challenges and nnU-Net report
    it; a case in which it is only in one of the two counts with 0. Generated windows, which cut structures off at their
    border, are pooled into a single case.

    Attributes:
        cases: one for each case.
        views: of the cases to look at.
        errors: equivariance error of each window that it was measured on.
    """

    cases: list[CaseScore]
    views: list[CaseView] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    @property
    def dice(self) -> list[float]:
        """Of each output (`LabelScheme.outputs`); NaN for one that is in no case there or predicted."""
        return _columns([case.dice for case in self.cases])

    @property
    def turned(self) -> list[float] | None:
        """The same with the patient turned; None if that was left out.

        Scan and truth were interpolated once to turn them, which by itself costs about 0.01 of Dice: compare a drop
        with that, not with nothing.
        """
        turned = [case.turned_dice for case in self.cases if case.turned_dice is not None]
        return _columns([row for row in turned if row is not None]) if turned else None

    @property
    def equivariance_error(self) -> float:
        """As `voxseg.training.equivariance` defines it; NaN if it was not measured."""
        return sum(self.errors) / len(self.errors) if self.errors else math.nan


def merge(results: Sequence[ValidationResult]) -> ValidationResult:
    """The result over several processes: cases in their order, those of the same name pooled."""
    pooled: dict[str, CaseScore] = {}
    for case in sorted((case for result in results for case in result.cases), key=lambda case: case.number):
        if case.name in pooled:
            before = pooled[case.name]
            turned = None if before.turned is None or case.turned is None else before.turned + case.turned
            case = CaseScore(before.number, case.name, before.counts + case.counts, turned)
        pooled[case.name] = case
    views = sorted((view for result in results for view in result.views), key=lambda view: view.number)
    return ValidationResult(list(pooled.values()), views, [error for result in results for error in result.errors])


def mean_dice(dice: Sequence[float]) -> float:
    """Over the structures that have a score; NaN if none has."""
    scores = [score for score in dice if not math.isnan(score)]
    return sum(scores) / len(scores) if scores else math.nan


def output_members(scheme: LabelScheme) -> NDArray[np.bool_]:
    """Whether a class, in rows 0 (background) to len(classes), belongs to each output, `[classes + 1, outputs]`."""
    return scheme.membership() if scheme.regions else np.eye(len(scheme.classes) + 1, dtype=bool)[:, 1:]


def output_colours(scheme: LabelScheme) -> list[str]:
    """A colour "#rrggbb" for each output; a region has that of the label that it is painted with."""
    table = scheme.predicted()
    return [table.by_id(region.label).colour for region in scheme.regions] or table.colours


def class_counts(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], scheme: LabelScheme) -> Counts:
    """The counts of a `CaseScore` from dense class indices.

    Args:
        truth: `[X, Y, Z]`.
        prediction: of the same shape.
        scheme: what the classes are.

    Returns:
        `[outputs, 3]` int64.
    """
    table = joint_counts(truth, prediction, len(scheme.classes) + 1)
    members = output_members(scheme).astype(np.int64)
    both = np.einsum("io,ij,jo->o", members, table, members)
    return np.stack([both, members.T @ table.sum(1), members.T @ table.sum(0)], axis=1)


def _dice(counts: Counts) -> list[float]:
    return [2 * int(b) / int(t + p) if t + p else math.nan for b, t, p in counts]


def _columns(rows: Sequence[Sequence[float]]) -> list[float]:
    return [mean_dice(column) for column in zip(*rows, strict=True)]
