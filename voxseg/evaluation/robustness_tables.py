"""What a test of robustness found, as CSV, as JSON and as text for the screen."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from voxseg.evaluation.robustness import (
    ConditionScore,
    Robustness,
    StabilityScore,
    mean_over_structures,
)
from voxseg.evaluation.robustness_plan import BASELINE_DEGREES
from voxseg.evaluation.robustness_tests import TESTS
from voxseg.evaluation.structures import Structure
from voxseg.provenance import now, record

__all__ = ["COLUMNS", "MEAN", "append_rows", "start_csv", "summarise", "text_lines"]

COLUMNS = (
    "model", "scan", "test", "series", "level", "unit", "condition", "structure", "kind", "dice", "baseline", "change",
    "compared_with", "against", "changed_voxels",
)  # fmt: skip
MEAN = "mean"
"""In the column `structure`: over the regions if there are any, otherwise over the labels."""

DIGITS = 6
NO_LOSS = 0.0005
"""Changes of Dice below this are not told as losses."""


def start_csv(path: Path) -> None:
    """Begin `robustness.csv`: its header alone."""
    path.write_text(_rows([COLUMNS]), encoding="utf-8")


def append_rows(path: Path, score: ConditionScore, structures: Sequence[Structure]) -> None:
    """Add the rows of one condition: the mean over the structures, and one for each."""
    level = "" if math.isnan(score.level) else f"{score.level:g}"
    mean, base = (mean_over_structures(d, structures) for d in (score.dice, score.baseline))
    values = [(MEAN, "", mean, base)]
    values += [(s.name, s.kind, d, b) for s, d, b in zip(structures, score.dice, score.baseline, strict=True)]
    voxels = "" if score.changed_voxels is None else str(score.changed_voxels)
    facts = (score.model, score.scan, score.test, score.series, level, score.unit.strip(), score.condition)
    last = (score.compared_with, score.against, voxels)
    rows = [
        (*facts, name, kind, _number(dice), _number(baseline), _number(dice - baseline), *last)
        for name, kind, dice, baseline in values
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write(_rows(rows))


def summarise(result: Robustness) -> dict[str, Any]:
    """The contents of `robustness.json`; what is not known is None."""
    return {
        "provenance": record("robustness", now()),
        "complete": result.complete,
        "settings": {
            "tests": {name: TESTS[name] for name in result.settings.tests},
            "quick": result.settings.quick,
            "angle_step": result.settings.step,
            "seed": result.settings.seed,
        },
        "scans": list(result.scans),
        "against": sorted({score.against for score in result.scores}),
        "models": {model: _of_model(result, model) for model in result.models if model in result.structures},
        "skipped": [vars(skipped) for skipped in result.skipped],
    }


def text_lines(result: Robustness) -> list[str]:
    """The tables for the screen: for each model what each test costs, and where most."""
    lines = []
    summary = summarise(result)
    against = " or ".join(("the " if "prediction" in name else "") + name for name in summary["against"])
    for model, found in summary["models"].items():
        lines += ["", f"{model}: Dice against {against}, mean over structures"]
        rows: list[tuple[str, ...]] = [
            ("test", "runs", "baseline", "mean", "worst", "change", "most lost by", "worst case")
        ]
        for test, entry in found["tests"].items():
            rows.append(_text_row(test, entry))
        lines += _aligned(rows)
        cost = found["interpolation_costs"]
        if cost is not None:
            turned = f"a turn by {BASELINE_DEGREES:g}°, which angles and deformations are compared with"
            lines.append(f"  {turned}, changes it by {-cost:+.3f}")
        for kind, entry in found["stability"].items():
            lines.append("  " + _stability_line(kind, entry))
    if result.skipped:
        lines += ["", f"{len(result.skipped)} conditions were skipped:"]
        lines += [f"  {s.model}, {s.scan}, {s.condition}: {s.reason}" for s in result.skipped]
    return lines[1:] if lines else []


def _of_model(result: Robustness, model: str) -> dict[str, Any]:
    structures = result.structures[model]
    scores = [score for score in result.scores if score.model == model]
    tests = {}
    for test in ("upright", *TESTS):
        chosen = [score for score in scores if score.test == test and not _is_baseline(score)]
        if chosen:
            tests[test] = _of_test(chosen, structures)
    turned = [score for score in scores if _is_baseline(score)]
    cost = _average(_mean(s.baseline, structures) - _mean(s.dice, structures) for s in turned)
    stability = [score for score in result.stability if score.model == model]
    kinds = list(dict.fromkeys(score.kind for score in stability))
    return {
        "structures": [structure.name for structure in structures],
        "tests": tests,
        "interpolation_costs": _rounded(cost),
        "stability": {kind: _of_stability([s for s in stability if s.kind == kind]) for kind in kinds},
    }


def _is_baseline(score: ConditionScore) -> bool:
    """Whether it is one of the turns by 2° that others are compared with."""
    return score.test == "angles" and score.level == BASELINE_DEGREES


def _of_test(scores: Sequence[ConditionScore], structures: Sequence[Structure]) -> dict[str, Any]:
    """Means and the worst of one test of one model."""
    means = [(_mean(s.dice, structures), _mean(s.baseline, structures)) for s in scores]
    known = [k for k, (dice, base) in enumerate(means) if not math.isnan(dice - base)]
    entry: dict[str, Any] = {
        "runs": len(scores),
        "baseline": _rounded(_average(base for _, base in means)),
        "mean": _rounded(_average(dice for dice, _ in means)),
    }
    exact = [s for s in scores if s.changed_voxels is not None]
    if exact and scores[0].test != "upright":
        most = max(exact, key=lambda s: s.changed_voxels or 0)
        entry["most_voxels_changed"] = most.changed_voxels
        entry["largest_share_changed"] = max((s.changed_voxels or 0) / max(s.voxels, 1) for s in exact)
    if known:
        worst = min(known, key=lambda k: (means[k][0] - means[k][1], means[k][0]))
        dice, base = means[worst]
        place = {"scan": scores[worst].scan, "condition": scores[worst].condition}
        entry["worst"] = {**place, "dice": _rounded(dice), "baseline": _rounded(base), "change": _rounded(dice - base)}
    losses = [
        (d - b, s, structure)
        for s in scores
        for d, b, structure in zip(s.dice, s.baseline, structures, strict=True)
        if not math.isnan(d - b)
    ]
    if losses:
        change, score, structure = min(losses, key=lambda loss: loss[0])
        entry["worst_structure"] = {
            "structure": structure.name,
            "scan": score.scan,
            "condition": score.condition,
            "change": _rounded(change),
        }
    return entry


def _of_stability(draws: Sequence[StabilityScore]) -> dict[str, Any]:
    """Medians over the draws, as in the paper, and the quotient of each draw."""
    there = [d for d in draws if not math.isnan(d.deformation) and d.noise > 0]
    if not there:
        return {"draws": 0, "R": None, "D": None, "G": None, "size": draws[0].size, "quotients": []}
    deformation, noise = (statistics.median(getattr(d, name) for d in there) for name in ("deformation", "noise"))
    return {
        "size": draws[0].size,
        "draws": len(there),
        "D": float(f"{deformation:.6g}"),
        "G": float(f"{noise:.6g}"),
        "R": float(f"{deformation / noise:.6g}"),
        "quotients": [float(f"{d.deformation / d.noise:.6g}") for d in there],
    }


def _text_row(test: str, entry: dict[str, Any]) -> tuple[str, ...]:
    worst, structure = entry.get("worst"), entry.get("worst_structure")
    numbers = (str(entry["runs"]), _three(entry["baseline"]), _three(entry["mean"]))
    if worst is None:
        return (test, *numbers, "–", "–", "", "")
    if test == "upright":
        return (test, numbers[0], "", numbers[2], "", "", "", "")
    where = f"{worst['scan']}: {worst['condition']}"
    if entry.get("most_voxels_changed") is not None:
        where = _voxels(entry) if worst["change"] > -NO_LOSS else f"{where} ({_voxels(entry)})"
    lost = ""
    if structure is not None and structure["change"] < -NO_LOSS:
        lost = f"{structure['structure']} {structure['change']:+.3f}"
    return (test, *numbers, _three(worst["dice"]), f"{worst['change']:+.3f}", lost, where)


def _voxels(entry: dict[str, Any]) -> str:
    """How far a segmentation that was to stay the same changed."""
    count, share = entry["most_voxels_changed"], entry["largest_share_changed"]
    if count == 0:
        return "the same segmentation, voxel for voxel"
    return f"at most {count:,} voxel{'s' * (count > 1)} changed ({100 * share:.1g} %)"


def _stability_line(kind: str, entry: dict[str, Any]) -> str:
    size = f"by {entry['size']:g} mm" if kind == "deformation" else f"by {entry['size']:g}°"
    if entry["R"] is None:
        return f"relative stability to {kind} {size}: not known, the output is constant"
    return (
        f"relative stability to {kind} {size}: R = {entry['R']:.3g} (D = {entry['D']:.3g}, G = {entry['G']:.3g}; "
        f"median of {entry['draws']})"
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of text, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < k < 6 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _mean(dice: Sequence[float], structures: Sequence[Structure]) -> float:
    return mean_over_structures(dice, structures)


def _average(values: Iterable[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return statistics.fmean(there) if there else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.{DIGITS}f}"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _rows(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
