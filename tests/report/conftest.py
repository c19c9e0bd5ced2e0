"""A small head with sides, as arrays and as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.overlap import joint_counts
from voxseg.evaluation.labelling import of_table
from voxseg.evaluation.overlap_scores import overlap_score
from voxseg.evaluation.result import CaseEvaluation, Evaluation, MetricSettings, Problem, SideErrors
from voxseg.evaluation.structures import structures_of

IDS = [2, 17, 41, 53, 16]  # white matter and hippocampus of both sides, brain stem
SHAPE, SPACING = (44, 52, 40), 3.5


@dataclass(frozen=True, eq=False)
class Head:
    """A scan and its segmentation, in axes that run left, posterior, superior."""

    scan: np.ndarray
    classes: np.ndarray
    geometry: Geometry
    table: LabelTable

    @property
    def counts(self) -> list[int]:
        return [int((self.classes == k).sum()) for k in range(1, len(self.table) + 1)]


def make_head(shift: float = 0.0) -> Head:
    """An ellipsoid of two halves; in front and at the left a larger ball than at the right, one in the middle below.

    Args:
        shift: mm by which the balls lie further to the front.
    """
    affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    affine[:3, 3] = [SPACING * 21.5, SPACING * 25.5, -SPACING * 19.5]
    geometry = Geometry(SHAPE, affine)
    x, y, z = np.moveaxis(geometry.to_world(np.stack(np.indices(SHAPE), -1)), -1, 0)
    brain = (x / 60) ** 2 + (y / 75) ** 2 + (z / 55) ** 2 < 1
    classes = np.zeros(SHAPE, dtype=np.uint8)
    classes[brain & (x < 0)] = 1
    classes[brain & (x >= 0)] = 3
    classes[(x + 28) ** 2 + (y - 20 - shift) ** 2 + z**2 < 17**2] = 2
    classes[(x - 28) ** 2 + (y - 20 - shift) ** 2 + z**2 < 12**2] = 4
    classes[x**2 + (y + 20 - shift) ** 2 + (z + 30) ** 2 < 11**2] = 5
    noise = np.random.default_rng(0).normal(0, 25, SHAPE)
    scan = np.where(brain, 500 + 4 * y + 120 * (classes == 2) - 150 * (classes == 5) + noise, 0).clip(0)
    return Head(scan.astype(np.int16), classes, geometry, LabelTable.freesurfer().select(IDS))


@dataclass(frozen=True, eq=False)
class Evaluated:
    """An evaluation with the files that it is of."""

    evaluation: Evaluation
    scheme: LabelScheme
    scans: dict[str, Path]


def make_evaluation(
    folder: Path, shifts: Sequence[float], models: Sequence[str] = ("first",), names: Sequence[str] | None = None
) -> Evaluated:
    """Cases whose predictions lie a little too far in front, scored by overlap alone.

    Args:
        folder: for the files.
        shifts: mm, of each case; every further model adds 3 mm.
        models: their names.
        names: of the cases.
    """
    truth = make_head()
    scheme = of_table(truth.table)
    structures = structures_of(scheme)
    names = names or [f"case-{k}" for k in range(len(shifts))]
    cases, scans = [], {}
    for number, model in enumerate(models):
        for k, (name, shift) in enumerate(zip(names, shifts, strict=True)):
            found = make_head(shift + 3 * number)
            files = {"scan": truth.scan, "reference": truth.table.to_ids(truth.classes)}
            files[f"prediction{number}"] = truth.table.to_ids(found.classes)
            for what, array in files.items():
                path = folder / f"{k}_{what}.nii.gz"
                nib.save(nib.Nifti1Image(array, truth.geometry.affine), path)
            scans[name] = folder / f"{k}_scan.nii.gz"
            size = len(truth.table) + 1
            joint = joint_counts(truth.classes, found.classes, size)
            scores = tuple(overlap_score(joint, s, truth.geometry.voxel_volume) for s in structures)
            swapped = ("Hippocampus",) if k == 0 else ()
            reference, prediction = folder / f"{k}_reference.nii.gz", folder / f"{k}_prediction{number}.nii.gz"
            sides = SideErrors(1000, 30 + k, swapped)
            cases.append(CaseEvaluation(name, model, prediction, reference, scores, sides, ("a note",)))
    problems = (Problem("lost", models[0], "/home/somebody/data/lost.nii.gz: is cut short; copy it again"),)
    settings = MetricSettings()
    return Evaluated(Evaluation(tuple(structures), settings, tuple(models), tuple(cases), problems), scheme, scans)


@pytest.fixture(scope="session")
def head() -> Head:
    """See `make_head`."""
    return make_head()


@pytest.fixture(scope="session")
def evaluated() -> Callable[..., Evaluated]:
    """See `make_evaluation`."""
    return make_evaluation
