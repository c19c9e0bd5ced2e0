"""The tables of an evaluation's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from voxseg.evaluation.comparison import Comparison, PairedTest
from voxseg.evaluation.result import CaseEvaluation, Evaluation
from voxseg.evaluation.statistics import MEAN, METRICS, StructureSummary, case_means, mean_positions
from voxseg.report.dot_plot import DotRow, dot_plot
from voxseg.report.page import Column, Html, escape, number, table
from voxseg.report.viewer import swatch

__all__ = ["case_table", "common_notes", "comparison_tables", "dice_matrix", "dots", "side_table", "summary_table"]

TESTED = {"dice": "Dice", "nsd": "surface Dice", "hd95": "HD95, mm"}
KINDS = {"region": "regions", "label": "structures", "both sides": "both sides together"}


def summary_table(evaluation: Evaluation, rows: Sequence[StructureSummary]) -> Html:
    """A row a structure, the mean over structures last: means with intervals, misses, false findings.

    Args:
        evaluation: all cases.
        rows: summaries of one model.
    """
    lesions = any(row.lesions for row in rows)
    several = len({row.kind for row in rows} - {"mean"}) > 1
    columns = [
        Column("structure"),
        *([Column("kind")] if several else []),
        Column("cases", True, "in which the structure has a Dice"),
        Column("missed", True, "cases where only the reference has it"),
        Column("false", True, "cases where only the prediction has it"),
        Column("Dice", True, "mean over cases, with the 95 % interval of the mean"),
        Column("median", True, "median Dice"),
        Column("sd", True, "standard deviation of the Dice between cases"),
        Column(f"surface Dice, {evaluation.settings.tolerance_mm:g} mm", True, "normalised surface Dice"),
        Column("HD95, mm", True, "where it was found"),
        Column("ASSD, mm", True, "average symmetric surface distance, where it was found"),
        Column("volume error", True, "predicted minus true volume, as a share of the true one"),
        Column("sensitivity", True),
        Column("precision", True),
    ]
    if lesions:
        columns += [
            Column("lesion Dice", True, "mean over lesions, missed and false ones counting 0"),
            Column("lesion HD95, mm", True, "mean over lesions, missed and false ones counting 374"),
            Column("lesions found, missed, false", True),
        ]
    colours = {structure.name: structure.colour for structure in evaluation.structures}
    body = [_summary_cells(row, colours, several, lesions) for row in rows if row.kind != "mean"]
    foot = [_summary_cells(row, colours, several, lesions) for row in rows if row.kind == "mean"]
    return table(columns, body, sortable=True, foot=foot[0] if foot else ())


def _summary_cells(row: StructureSummary, colours: Mapping[str, str], several: bool, lesions: bool) -> list[object]:
    m = row.metrics
    of = "mean" if row.kind == "mean" else row.structure
    name = Html(
        (swatch(colours[row.structure]) if row.structure in colours and row.kind != "mean" else "") + escape(of)
    )
    error = m["volume_error"].mean
    cells: list[object] = [(name, of)]
    if several:
        cells.append("" if row.kind == "mean" else KINDS[row.kind])
    cells += [
        (str(m["dice"].count), m["dice"].count),
        _count(row.missed),
        _count(row.false),
        (_with_interval(row, "dice", 3), m["dice"].mean),
        _plain(m["dice"].median, 3),
        _plain(m["dice"].sd, 3),
        (_with_interval(row, "nsd", 3), m["nsd"].mean),
        (_with_interval(row, "hd95", 2), m["hd95"].mean),
        _plain(m["assd"].mean, 2),
        ("–" if math.isnan(error) else f"{'+' * (error > 0)}{number(100 * error, 1)} %", error),
        _plain(m["sensitivity"].mean, 3),
        _plain(m["precision"].mean, 3),
    ]
    if lesions:
        counts = row.lesions
        shown = "–" if counts is None else ", ".join(map(str, counts))
        cells += [
            (_with_interval(row, "lesion_dice", 3), m["lesion_dice"].mean),
            _plain(m["lesion_hd95"].mean, 1),
            (shown, math.nan if counts is None else counts[1] + counts[2]),
        ]
    return cells


def _with_interval(row: StructureSummary, metric: str, digits: int) -> Html:
    """A mean with the interval behind it."""
    m = row.metrics[metric]
    text = number(m.mean, digits)
    if math.isnan(m.low):
        return Html(text)
    flag = "*" if m.few else ""
    return Html(f'{text} <span class="interval">[{number(m.low, digits)}, {number(m.high, digits)}]{flag}</span>')


def _plain(value: float, digits: int) -> tuple[str, float]:
    return number(value, digits), value


def _count(value: int) -> tuple[object, int]:
    """A number of failures: nothing to look at where there are none."""
    return (Html(f'<span class="{"bad" if value else "zero"}">{value}</span>'), value)


def dots(evaluation: Evaluation, summaries: Sequence[StructureSummary]) -> Html:
    """The Dice of all cases: regions if there are any, otherwise labels, and the mean."""
    positions = mean_positions(evaluation.structures)
    by_model = {model: [case for case in evaluation.cases if case.model == model] for model in evaluation.models}
    found = {(row.model, row.structure, row.kind == "mean"): row.metrics["dice"] for row in summaries}

    def interval(name: str, mean: bool) -> dict[str, tuple[float, float, float]]:
        chosen = {model: found[model, name, mean] for model in evaluation.models}
        return {model: (one.mean, one.low, one.high) for model, one in chosen.items()}

    rows = []
    for k in positions:
        name = evaluation.structures[k].name
        values = {model: {case.case: case.scores[k].dice for case in cases} for model, cases in by_model.items()}
        rows.append(DotRow(name, values, interval(name, False)))
    means = {
        model: dict(zip([case.case for case in cases], map(float, case_means(cases, positions, "dice")), strict=True))
        for model, cases in by_model.items()
    }
    rows.append(DotRow("mean", means, interval(MEAN, True)))
    return dot_plot(rows, evaluation.models, "Dice of each case, a row a structure")


def case_table(evaluation: Evaluation) -> Html:
    """A row a case and model: means over structures, what was missed, what is on the wrong side."""
    positions = mean_positions(evaluation.structures)
    several, sided = len(evaluation.models) > 1, any(case.sides is not None for case in evaluation.cases)
    common = common_notes(evaluation.cases)
    noted = any(set(case.notes) - set(common) for case in evaluation.cases)
    columns = [
        Column("case"),
        *([Column("model")] if several else []),
        *(Column(name, True, "mean over structures") for name in ("Dice", "surface Dice", "HD95, mm", "ASSD, mm")),
        Column("worst structure"),
        Column("its Dice", True),
        Column("missed", True),
        Column("false", True),
        *([Column("wrong side", True, "share of the voxels with a side that have the wrong one")] if sided else []),
        *([Column("notes")] if noted else []),
    ]
    rows = []
    for case in evaluation.cases:
        means = {m: float(case_means([case], positions, m)[0]) for m in ("dice", "nsd", "hd95", "assd")}
        scored = [case.scores[k] for k in positions if not math.isnan(case.scores[k].dice)]
        worst = min(scored, key=lambda score: score.dice, default=None)
        cells: list[object] = [case.case, *([case.model] if several else [])]
        cells += [_plain(means["dice"], 3), _plain(means["nsd"], 3), _plain(means["hd95"], 2), _plain(means["assd"], 2)]
        cells += [worst.structure, _plain(worst.dice, 3)] if worst else ["–", ("–", math.nan)]
        cells += [_named(case, positions, "missed"), _named(case, positions, "false")]
        if sided:
            cells.append(_sides(case))
        if noted:
            cells.append("; ".join(note for note in case.notes if note not in common))
        rows.append(cells)
    return table(columns, rows, sortable=True)


def common_notes(cases: Sequence[CaseEvaluation]) -> list[str]:
    """Notes that all cases have, of several."""
    if len(cases) < 2:
        return []
    return [note for note in cases[0].notes if all(note in case.notes for case in cases)]


def _named(case: CaseEvaluation, positions: Sequence[int], status: str) -> object:
    """How many structures have a status, with their names as a hint."""
    names = [case.scores[k].structure for k in positions if case.scores[k].status == status]
    kind = "bad" if names else "zero"
    return (Html(f'<span class="{kind}" title="{escape(", ".join(names))}">{len(names)}</span>'), len(names))


def _sides(case: CaseEvaluation) -> object:
    if case.sides is None or math.isnan(case.sides.share):
        return ("–", math.nan)
    text = f"{number(100 * case.sides.share, 2)} %"
    hint = ", ".join(case.sides.structures)
    kind = ' class="bad"' if case.sides.structures else ""
    return (Html(f'<span{kind} title="{escape(hint)}">{text}</span>'), case.sides.share)


def dice_matrix(evaluation: Evaluation, model: str) -> Html:
    """Dice of every case and structure of a model; the worse, the stronger the colour."""
    cases = [case for case in evaluation.cases if case.model == model]
    columns = [Column("case"), *(Column(structure.name, True) for structure in evaluation.structures)]
    rows = []
    for case in cases:
        cells: list[object] = [case.case]
        for score in case.scores:
            value = METRICS["dice"](score)
            if math.isnan(value):
                cells.append(("–", math.nan))
                continue
            share = round(100 * min(1.0, max(0.0, (0.95 - value) / 0.6)))
            hint = "" if score.status == "found" else f' title="{score.status}"'
            cells.append((Html(f'<span class="heat"{hint} style="--share:{share}%">{value:.3f}</span>'), value))
        rows.append(cells)
    return table(columns, rows, sortable=True)


def side_table(evaluation: Evaluation) -> Html:
    """How often left and right are mixed up, by model; nothing where labels have no sides."""
    rows = []
    for model in evaluation.models:
        sided = [(case.case, case.sides) for case in evaluation.cases if case.model == model and case.sides is not None]
        if not sided:
            continue
        lateral, swapped = (sum(getattr(one, what) for _, one in sided) for what in ("lateral", "swapped"))
        wrong = [f"{name} ({', '.join(one.structures)})" for name, one in sided if one.structures]
        share = 100 * swapped / lateral if lateral else math.nan
        counts = [_count(len(wrong)), (number(swapped, 0), swapped), (number(lateral, 0), lateral)]
        rows.append([model, *counts, (f"{number(share, 3)} %", share), "; ".join(wrong) or "none"])
    if not rows:
        return Html("")
    hint = "with a structure of which more than half is on the wrong side"
    columns = [Column("model"), Column("cases", True, hint), Column("voxels on the wrong side", True)]
    columns += [Column("of voxels with a side", True), Column("share", True), Column("mostly on the wrong side in")]
    return table(columns, rows)


def comparison_tables(comparison: Comparison, models: Sequence[str]) -> list[Html]:
    """A table for each metric and each model that is compared with the first."""
    first, *others = models
    if not comparison.cases:
        return [Html("<p>No case was scored for every model: there is nothing to compare.</p>")]
    parts = []
    for other in others:
        for metric, title in TESTED.items():
            tests = [test for test in comparison.tests if test.metric == metric and test.other == other]
            if not any(test.cases for test in tests):
                continue
            caption = f"{title}: {other} against {first}, {len(comparison.cases)} cases that both have"
            columns = [Column("structure"), Column("cases", True), Column(first, True), Column(other, True)]
            columns += [Column("difference", True, "mean, with its 95 % interval"), Column("p", True)]
            columns.append(Column("p (Holm)", True, "corrected for the number of tests"))
            rows = [_test_cells(test, 2 if metric == "hd95" else 3) for test in tests]
            parts.append(table(columns, rows, caption=caption, sortable=True))
    return parts


def _test_cells(test: PairedTest, digits: int) -> list[object]:
    text = number(test.difference, digits)
    if not math.isnan(test.low):
        text += f' <span class="interval">[{number(test.low, digits)}, {number(test.high, digits)}]</span>'
    means = [_plain(test.first_mean, digits), _plain(test.other_mean, digits)]
    name = "mean" if test.structure == MEAN else test.structure
    chances = [(_chance(p), p) for p in (test.p, test.p_holm)]
    return [name, (str(test.cases), test.cases), *means, (Html(text), test.difference), *chances]


def _chance(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"
