"""An evaluation as CSV tables and as JSON."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voxseg.data.label_scheme import LabelScheme
from voxseg.evaluation.comparison import Comparison
from voxseg.evaluation.result import Evaluation, StructureScore
from voxseg.evaluation.statistics import METRICS, StructureSummary
from voxseg.evaluation.tables import convention_lines
from voxseg.provenance import now, plain, record

__all__ = [
    "Provenance",
    "as_json",
    "shown_paths",
    "without_folders",
    "write_cases",
    "write_comparison",
    "write_json",
    "write_summary",
]

UNITS = {"hd95": "hd95_mm", "assd": "assd_mm", "lesion_hd95": "lesion_hd95_mm"}
CASE_COLUMNS = (
    *("model", "case", "structure", "kind", "side", "status"),
    *(UNITS.get(name, name) for name in METRICS),
    *("reference_ml", "predicted_ml", "lesions_found", "lesions_missed", "lesions_false", "prediction", "reference"),
)
SUMMARY_COLUMNS = (
    *("model", "structure", "kind", "found", "missed", "false", "absent", "metric", "cases", "mean", "median", "sd"),
    *("ci_low", "ci_high"),
)


@dataclass(frozen=True)
class Provenance:
    """What else has to be known to repeat an evaluation.

    Attributes:
        labels: who said what the ids mean.
        scheme: what they mean.
        resample: whether predictions on other grids were resampled.
        full_paths: whether files are named with all of their path.
    """

    labels: str
    scheme: LabelScheme
    resample: bool = False
    full_paths: bool = False


def write_cases(path: Path, evaluation: Evaluation, full_paths: bool = False) -> None:
    """Write one row a case, model and structure; an empty cell is a value that there is none of."""
    names = shown_paths(evaluation, full_paths)
    rows = []
    for case in evaluation.cases:
        files = [names[case.prediction], names[case.reference]]
        for structure, score in zip(evaluation.structures, case.scores, strict=True):
            start = [case.model, case.case, structure.name, structure.kind, structure.side, score.status]
            lesions = score.lesions
            counts = [lesions.found, lesions.missed, lesions.false] if lesions else ["", "", ""]
            values = [*(get(score) for get in METRICS.values()), score.reference_ml, score.predicted_ml]
            rows.append([*start, *map(_text, values), *counts, *files])
    _write(path, CASE_COLUMNS, rows)


def write_summary(path: Path, summaries: Sequence[StructureSummary]) -> None:
    """Write one row a model, structure and metric."""
    rows = []
    for row in summaries:
        start = [row.model, row.structure, row.kind, row.found, row.missed, row.false, row.absent]
        for name, m in row.metrics.items():
            values = map(_text, (m.mean, m.median, m.sd, m.low, m.high))
            rows.append([*start, UNITS.get(name, name), m.count, *values])
    _write(path, SUMMARY_COLUMNS, rows)


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write one row a test."""
    rows = [asdict(test) for test in comparison.tests]
    columns = list(rows[0]) if rows else []
    _write(path, columns, [[_text(value) for value in row.values()] for row in rows])


def write_json(
    path: Path,
    evaluation: Evaluation,
    summaries: Sequence[StructureSummary],
    comparison: Comparison | None,
    provenance: Provenance,
) -> None:
    """Write what `as_json` gives."""
    everything = as_json(evaluation, summaries, comparison, provenance)
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def as_json(
    evaluation: Evaluation,
    summaries: Sequence[StructureSummary],
    comparison: Comparison | None,
    provenance: Provenance,
) -> dict[str, Any]:
    """Everything there is to know, in plain types; None is a value that there is none of."""
    names = shown_paths(evaluation, provenance.full_paths)
    content: dict[str, Any] = {
        "provenance": record("evaluation", now()),
        "settings": asdict(evaluation.settings) | {"resample": provenance.resample},
        "labels": {"source": provenance.labels, **provenance.scheme.model_dump(mode="json")},
        "conventions": convention_lines(evaluation),
        "models": list(evaluation.models),
        "structures": [asdict(structure) for structure in evaluation.structures],
        "cases": [
            {
                "case": case.case,
                "model": case.model,
                "prediction": names[case.prediction],
                "reference": names[case.reference],
                "notes": list(case.notes),
                "sides": asdict(case.sides) if case.sides else None,
                "scores": [_score(score) for score in case.scores],
            }
            for case in evaluation.cases
        ],
        "summary": [asdict(row) for row in summaries],
        "comparison": asdict(comparison) if comparison else None,
        "problems": [
            asdict(problem) | {"message": without_folders(problem.message, provenance.full_paths)}
            for problem in evaluation.problems
        ],
    }
    finite: dict[str, Any] = plain(content)
    return finite


def shown_paths(evaluation: Evaluation, full: bool = False) -> dict[Path, str]:
    """How files are named in what is passed on: below the folder that all of their kind share.

    Paths of a machine say more of the people on it than a reader has to know.

    Args:
        evaluation: whose files.
        full: whether all of the path is wanted nevertheless.
    """
    groups = [[case.reference for case in evaluation.cases]]
    groups += [[case.prediction for case in evaluation.cases if case.model == model] for model in evaluation.models]
    shown: dict[Path, str] = {}
    for paths in groups:
        absolute = [path.absolute() for path in paths]
        common = absolute[0].parent if absolute else Path()
        while not all(path.is_relative_to(common) for path in absolute):
            common = common.parent
        for path, whole in zip(paths, absolute, strict=True):
            shown[path] = str(whole) if full else whole.relative_to(common).as_posix()
    return shown


def _score(score: StructureScore) -> dict[str, Any]:
    return asdict(score) | {"volume_error": score.volume_error}


def without_folders(message: str, full: bool) -> str:
    """A message with files named without the folders above them."""
    return message if full else re.sub(r"(?<![\w.])/(?:[^/:;,()]+/)+", "", message)


def _text(value: Any) -> Any:
    """A cell; nine digits, which is more than the figures are worth and enough to compare files by."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return value


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
