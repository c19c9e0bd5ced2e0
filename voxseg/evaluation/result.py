"""What an evaluation found: plain records, from the score of one structure up to all cases of all models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from voxseg.evaluation.structures import Structure

__all__ = [
    "CONVENTIONS",
    "CaseEvaluation",
    "Evaluation",
    "LesionScore",
    "MetricSettings",
    "Problem",
    "SideErrors",
    "StructureScore",
]

Status = Literal["found", "missed", "false", "absent"]

CONVENTIONS = """\
Found: in both. Missed: only in the reference. False: only in the prediction. Absent: in neither.
Dice, IoU, sensitivity, precision: of voxels. Missed and false structures have Dice, IoU and NSD 0, absent ones none.
HD95, ASSD (mm): only of found structures; missed and false ones are counted beside the mean, not averaged into it.
HD95: the larger of the two directed 95th percentiles of distances between surface voxels (those that share a face with
  the outside), as in MONAI. One percentile of both directions together (MedPy, nnU-Net) is the same or less.
ASSD: mean distance of all surface voxels of both to the other's surface.
NSD: share of both surfaces, by area, that lies within the tolerance of the other (Nikolov et al. 2018).
What the edge of the scan cuts off has its surface there. Spacing is honoured in all distances, areas and volumes.
Lesions, as in the BraTS 2023 metrics: what joins when the reference is dilated is one lesion; it is found by whatever
  predicted component touches the dilated lesion. Mean over lesions and false components; missed and false ones have
  Dice 0 and HD95 374 mm. Small lesions are left out. HD95 is by area there. Nothing to find, nothing found: 1 and 0 mm.
"""
"""What the figures mean, for people: lines of at most 120 characters."""


@dataclass(frozen=True)
class MetricSettings:
    """How segmentations are scored.

    The two values for lesions are those of the BraTS 2023 challenges on gliomas, in Sub-Saharan Africa and in children;
    on meningiomas the dilation is 1, on metastases it is 1 and the volume 2 mm³.

    Attributes:
        tolerance_mm: of the normalised surface Dice: borders closer than this agree.
        lesions: whether regions are also scored lesion by lesion, as BraTS does.
        lesion_dilation: voxels by which lesions of the reference are dilated to see what is one lesion.
        lesion_mm3: lesions of the reference up to this volume are left out.
    """

    tolerance_mm: float = 1.0
    lesions: bool = True
    lesion_dilation: int = 3
    lesion_mm3: float = 50.0


@dataclass(frozen=True)
class LesionScore:
    """A region scored lesion by lesion, after the BraTS 2023 metrics (`lesions.lesion_score`).

    Attributes:
        dice: mean over the lesions of the reference and the false ones; a missed or a false one counts 0. 1 if there
            are neither.
        hd95: mm, likewise; a missed or a false one counts 374, the diagonal of a BraTS scan. 0 if there are neither.
        found: lesions of the reference that the prediction touches, once they are dilated.
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
        lesions: for regions, if asked for; also where the region is absent, which BraTS scores as 1 and 0 mm.
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
        structures: names of the structures (both sides as one) with more than half of their `lateral` voxels swapped.
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
