"""What an evaluation found: plain records, from the score of one structure up to all cases of all models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxseg.evaluation.structures import Structure

__all__ = ["CaseEvaluation", "Evaluation", "LesionScore", "MetricSettings", "Problem", "SideErrors", "StructureScore"]

Status = Literal["found", "missed", "false", "absent"]


@dataclass(frozen=True)
class MetricSettings:
    """How segmentations are scored.

    Attributes:
        tolerance_mm: of the normalised surface Dice: borders closer than this agree.
        lesions: whether regions are also scored lesion by lesion, as BraTS does.
    """

    tolerance_mm: float = 1.0
    lesions: bool = True


@dataclass(frozen=True)
class LesionScore:
    """A region scored lesion by lesion, after the BraTS 2023 metrics.

    Attributes:
        dice: mean over the lesions of the reference and the false ones; a missed or a false one counts 0.
        hd95: mm, likewise; a missed or a false one counts 374, the diagonal of a BraTS scan.
        found: lesions of the reference that the prediction touches.
        missed: those that it does not touch.
        false: lesions of the prediction that touch none of the reference.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    false: int


@dataclass(frozen=True)
class StructureScore:
    """One structure in one case.

    Attributes:
        structure: its name.
        status: "found" where it is in both; "missed" if only in the reference, "false" if only in the prediction,
            "absent" if in neither.
        dice: and `iou`, `sensitivity` (recall), `precision`: overlap of the voxels. 0 where the structure is missed or
            false, NaN where the quotient has no denominator and where it is absent.
        nsd: normalised surface Dice at the stated tolerance; 0 where the structure is missed or false, NaN if absent.
        hd95: mm, the larger of the two directed 95th percentiles of the distances between the surfaces; NaN unless
            found: a miss is counted, not averaged.
        assd: mm, average symmetric surface distance; NaN unless found.
        reference_ml: volume in the reference.
        predicted_ml: volume in the prediction.
        lesions: for regions, if asked for and the structure is not absent.
    """

    structure: str
    status: Status
    dice: float = math.nan
    iou: float = math.nan
    sensitivity: float = math.nan
    precision: float = math.nan
    nsd: float = math.nan
    hd95: float = math.nan
    assd: float = math.nan
    reference_ml: float = 0.0
    predicted_ml: float = 0.0
    lesions: LesionScore | None = None

    @property
    def volume_error(self) -> float:
        """Predicted minus true volume as a fraction of the true one; NaN where the reference has none."""
        return (self.predicted_ml - self.reference_ml) / self.reference_ml if self.reference_ml else math.nan


@dataclass(frozen=True)
class SideErrors:
    """How often left and right are mixed up.

    Attributes:
        lateral: voxels that have a lateral label in the reference and one of the same structure in the prediction.
        swapped: those of them that have the wrong side.
        structures: names of the structures (both sides as one) of which more than half is on the wrong side.
    """

    lateral: int
    swapped: int
    structures: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the lateral voxels, those on the wrong side; NaN where there are none."""
        return self.swapped / self.lateral if self.lateral else math.nan


@dataclass(frozen=True)
class CaseEvaluation:
    """One prediction against its reference.

    Attributes:
        case: its name.
        model: whose prediction it is; as the command names it.
        prediction: its file.
        reference: the file of the reference.
        scores: one for each structure, in the order of `Evaluation.structures`.
        sides: None where the labels have no sides.
        notes: what a reader has to know of this case, such as that the prediction was resampled.
    """

    case: str
    model: str
    prediction: Path
    reference: Path
    scores: tuple[StructureScore, ...]
    sides: SideErrors | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A case that could not be scored.

    Attributes:
        case: its name.
        model: whose prediction was to be scored.
        message: one line: which file, what is wrong, what to do.
    """

    case: str
    model: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """All cases of all models.

    Attributes:
        structures: what was scored.
        settings: how.
        models: their names; the first is the one that others are compared with.
        cases: in the order of their names, for one model after the other.
        problems: what could not be scored.
    """

    structures: tuple[Structure, ...]
    settings: MetricSettings
    models: tuple[str, ...]
    cases: tuple[CaseEvaluation, ...]
    problems: tuple[Problem, ...] = field(default=())
