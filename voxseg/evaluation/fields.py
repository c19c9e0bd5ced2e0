"""Predicted fields against references: errors and angles of each case, and their means."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import yaml
from pydantic import ValidationError

from voxseg.data.field_files import read_field
from voxseg.data.field_kinds import FieldTarget
from voxseg.errors import UserError
from voxseg.evaluation.pairs import Pair
from voxseg.training.field_scores import Errors, field_errors

__all__ = ["FieldScore", "field_of", "field_table", "mean_errors", "score_field"]

KINDS = tuple(kind for kind in get_args(FieldTarget.model_fields["kind"].annotation) if kind != "irreps")


@dataclass(frozen=True)
class FieldScore:
    """What was found of a case: `errors` as `voxseg.training.field_scores.field_errors` has them, over `voxels`."""

    case: str
    voxels: int
    errors: Errors


def field_of(text: str) -> FieldTarget:
    """What fields are, by the name of a kind, or as the `targets` of a config, of a run or of a model folder say.

    Raises:
        UserError: it is none of these.
    """
    if text in KINDS:
        return FieldTarget.model_validate({"kind": text})
    path = Path(text) / "config.yaml" if Path(text).is_dir() else Path(text)
    remedy = f"give {', '.join(KINDS)}, or a config or model folder with targets"
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
        return FieldTarget.model_validate(contents["targets"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, ValidationError):
        raise UserError(f"--field {text}", "is no kind of field, and no file or folder with targets", remedy) from None


def score_field(pair: Pair, target: FieldTarget) -> FieldScore:
    """Score a predicted field where its reference is not 0.

    Args:
        pair: the files. The prediction is in world axes, as `voxseg predict` writes it; the reference as `target` says.
        target: what they are.

    Raises:
        UserError: a file cannot be read as such a field, they are on different grids, or the reference is 0 everywhere.
    """
    truth, geometry = read_field(pair.reference, target)
    written = target.model_copy(update={"axes": "world", "order": "lower"})
    prediction, grid = read_field(pair.prediction, written)
    if not grid.displacement(geometry) < min(geometry.spacing) / 2:
        problem = f"is not on the grid of its reference {pair.reference.name}"
        raise UserError(pair.prediction, problem, "predict the scan whose grid the reference has, or resample that")
    known = (truth != 0).any(0)
    if not known.any():
        raise UserError(pair.reference, "is 0 everywhere", "give a reference with a field in it")
    return FieldScore(pair.case, int(known.sum()), field_errors(prediction, truth, known, target))


def mean_errors(scores: Sequence[FieldScore], target: FieldTarget) -> Errors:
    """The mean over the cases; NaN where no case has a value."""
    means = {}
    for name in target.error_names():
        values = [score.errors[name] for score in scores if not math.isnan(score.errors[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


def field_table(scores: Sequence[FieldScore], target: FieldTarget) -> str:
    """The scores as CSV, a row a case, NaN as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "voxels", *target.error_names()])
    for score in scores:
        cells = ["" if math.isnan(score.errors[name]) else score.errors[name] for name in target.error_names()]
        writer.writerow([score.case, score.voxels, *cells])
    return text.getvalue()
