"""From the runs of a data-efficiency benchmark to `runs.csv`, `fits.json`, learning curves and a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxseg.data.staging import write_text
from voxseg.evaluation.data_efficiency_cases import UPRIGHT
from voxseg.evaluation.data_efficiency_config import MEAN, DataEfficiencyConfig
from voxseg.evaluation.data_efficiency_run import RunResult
from voxseg.evaluation.power_law import LearningCurve, PowerLawFit, fit_power_law
from voxseg.training.scores import mean_dice

__all__ = ["PANELS", "TURNED", "learning_curves", "pose_dice", "summarise", "write_fits", "write_runs"]

TURNED = "turned"
PANELS = ((UPRIGHT, "upright"), (TURNED, "turned, mean over the poses"))
"""Of the picture: the name that the curves have, and a title."""


def learning_curves(config: DataEfficiencyConfig, results: Sequence[RunResult]) -> list[LearningCurve]:
    """The curves of each arm, upright ones first, in the order of the arms; those without a finished run are left out.

    Args:
        config: the benchmark.
        results: of its finished runs.
    """
    curves = []
    for panel in (UPRIGHT, TURNED):
        for arm in config.arms:
            errors: dict[int, list[float]] = {}
            for result in results:
                if result.arm == arm.name:
                    errors.setdefault(result.size, []).append(1 - pose_dice(result, panel, config.fit.score))
            if errors:
                fit = fit_power_law(errors, config.fit.draws, config.fit.level, config.fit.seed)
                curves.append(LearningCurve(arm.name, arm.label, panel, dict(sorted(errors.items())), fit))
    return curves


def pose_dice(result: RunResult, panel: str, score: str) -> float:
    """The Dice that a curve is about.

    Args:
        result: of a run.
        panel: "upright", or "turned" for the mean over the turned poses.
        score: a structure by name, or "mean".
    """
    poses = [UPRIGHT] if panel == UPRIGHT else [pose for pose in result.dice if pose != UPRIGHT]
    return mean_dice([_score(result, pose, score) for pose in poses])


def _score(result: RunResult, pose: str, score: str) -> float:
    structures = result.structures(pose)
    return mean_dice(structures) if score == MEAN else structures[result.outputs.index(score)]


def write_runs(path: Path, config: DataEfficiencyConfig, results: Sequence[RunResult]) -> None:
    """Writes `runs.csv`: a row for each arm, number of cases, seed and pose; complete or not at all.

    Args:
        path: of the file.
        config: the benchmark.
        results: of its finished runs.
    """
    outputs = results[0].outputs if results else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["arm", "cases", "seed", "pose", *(f"dice {name}" for name in outputs), "dice mean", "error"]
    writer.writerow([*columns, "steps", "training_seconds", "test_seconds", "parameters"])
    for r in results:
        for pose in r.dice:
            scores = [*r.structures(pose), mean_dice(r.structures(pose)), 1 - _score(r, pose, config.fit.score)]
            shown = ["" if math.isnan(value) else f"{value:.6f}" for value in scores]
            costs = [r.steps, r.training_seconds, r.test_seconds, r.parameters]
            writer.writerow([r.arm, r.size, r.seed, pose, *shown, *costs])
    write_text(path, text.getvalue())


def write_fits(path: Path, config: DataEfficiencyConfig, curves: Sequence[LearningCurve]) -> None:
    """Writes `fits.json`; complete or not at all.

    Args:
        path: of the file.
        config: the benchmark.
        curves: as `learning_curves` gives them.
    """
    entries = []
    for curve in curves:
        fit, law = curve.fit, curve.fit.law
        entries.append(
            {
                "arm": curve.arm,
                "pose": curve.panel,
                "law": None if law is None else {"a": law.a, "b": law.b, "c": law.c},
                "intervals": {name: list(ends) for name, ends in fit.intervals.items()},
                "b_identified": fit.b_identified,
                "c_identified": fit.c_identified,
                "cases": list(fit.sizes),
                "error_geometric_mean": list(fit.means),
                "errors": {str(size): [_plain(value) for value in values] for size, values in curve.errors.items()},
                "notes": list(fit.notes),
            }
        )
    head: dict[str, Any] = {
        "form": "err(n) = a n^-b + c, err = 1 - Dice",
        "score": config.fit.score,
        "level": config.fit.level,
        "draws": config.fit.draws,
        "poses": {UPRIGHT: config.upright_deg, TURNED: [pose.name for pose in config.test.poses]},
    }
    write_text(path, json.dumps({**head, "fits": entries}, indent=1) + "\n")


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def summarise(config: DataEfficiencyConfig, results: Sequence[RunResult], curves: Sequence[LearningCurve]) -> list[str]:
    """Lines for people: the Dice for each arm and number of cases, the fits, and what they leave open.

    Args:
        config: the benchmark.
        results: of its finished runs.
        curves: as `learning_curves` gives them.
    """
    what = "mean over the structures" if config.fit.score == MEAN else config.fit.score
    sizes, width = sorted(config.sizes), max(len(arm.label) for arm in config.arms)
    lines = []
    for panel, meaning in ((UPRIGHT, _upright(config)), (TURNED, f"mean over {len(config.test.poses)} poses")):
        lines.append(f"Dice, {what}, {panel} ({meaning}); mean over seeds, lowest and highest")
        lines.append(f"{'cases':{width}}  " + "  ".join(f"{size:>19}" for size in sizes))
        for curve in (curve for curve in curves if curve.panel == panel):
            cells = [_cell(curve.errors.get(size, [])) for size in sizes]
            lines.append(f"{curve.title:{width}}  " + "  ".join(f"{cell:>19}" for cell in cells))
        lines.append("")
    lines.append(f"1 - Dice = a n^-b + c, with {100 * config.fit.level:g} % intervals from the spread of the seeds")
    notes = [note for curve in curves for note in curve.fit.notes]
    shared = [note for note in dict.fromkeys(notes) if notes.count(note) == len(curves) > 1]
    for curve in curves:
        lines.append(f"{curve.title:{width}}  {curve.panel:7}  " + _law(curve.fit))
        lines += [f"{'':{width}}           {note}" for note in curve.fit.notes if note not in shared]
    lines += [f"all: {note}" for note in shared]
    lines += ["", *_costs(config, results, width)]
    return lines


def _upright(config: DataEfficiencyConfig) -> str:
    turned = config.upright_deg
    return f"turned by {turned:g} degrees, as interpolation costs Dice" if turned else "as they are"


def _cell(errors: Sequence[float]) -> str:
    """Mean, lowest and highest Dice."""
    dice = [1 - error for error in errors if math.isfinite(error)]
    if not dice:
        return "-"
    mean = sum(dice) / len(dice)
    return f"{mean:.3f}" if len(dice) == 1 else f"{mean:.3f} ({min(dice):.3f}-{max(dice):.3f})"


def _law(fit: PowerLawFit) -> str:
    """The three numbers, with their intervals."""
    if fit.law is None:
        return "no fit"
    parts = []
    for name, value in (("a", fit.law.a), ("b", fit.law.b), ("c", fit.law.c)):
        ends = fit.intervals.get(name)
        parts.append(f"{name} {value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""))
    return ", ".join(parts)


def _costs(config: DataEfficiencyConfig, results: Sequence[RunResult], width: int) -> list[str]:
    """Weights, steps and time of each arm; says so if the steps differ."""
    lines = []
    for arm in config.arms:
        runs = [result for result in results if result.arm == arm.name]
        if not runs:
            continue
        seconds = sum(run.training_seconds + run.test_seconds for run in runs) / len(runs)
        steps = sorted({run.steps for run in runs})
        told = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        work = f"{runs[0].parameters:,} weights, {told} steps a run"
        lines.append(f"{arm.label:{width}}  {work}, {seconds:.0f} s a run with testing")
    if len({run.steps for run in results}) > 1:
        lines.append("the numbers of steps differ: what the curves compare is not the number of cases alone")
    shared = sorted({result.size for result in results if result.size > result.pool / 2 > 0})
    if shared and len(config.seeds) > 1:
        drawn = f"{', '.join(map(str, shared))} of {max(result.pool for result in results)} cases"
        lines.append(f"with {drawn} the seeds share most of theirs: they spread less than other cases would")
    planned = len(config.arms) * len(config.sizes) * len(config.seeds)
    if len(results) < planned:
        lines.append(f"{len(results)} of {planned} runs are finished: the curves are those of these")
    return lines
