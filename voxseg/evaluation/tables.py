"""An evaluation as text for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from voxseg.data.datasets.case import some
from voxseg.evaluation.comparison import CONVENTIONS as COMPARED
from voxseg.evaluation.comparison import Comparison, PairedTest
from voxseg.evaluation.result import CONVENTIONS, CaseEvaluation, Evaluation
from voxseg.evaluation.statistics import FEW, MEAN, STATISTICS, MetricSummary, StructureSummary

__all__ = ["convention_lines", "problem_lines", "table_lines"]

NAME_WIDTH = 24
SHOWN_NOTES, SHOWN_PROBLEMS = 6, 12
FLAG = "*"
TITLES = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95"}
HEADS = (
    ("", "structure", "<"),
    ("", "n", ">"),
    ("Dice", "mean 95 % CI", "<"),
    ("NSD", "{tolerance:g} mm", ">"),
    ("HD95", "mm", ">"),
    ("ASSD", "mm", ">"),
    ("volume", "error", ">"),
    ("sensi-", "tivity", ">"),
    ("preci-", "sion", ">"),
    ("missed,", "false", ">"),
)


def table_lines(
    evaluation: Evaluation,
    summaries: Sequence[StructureSummary],
    comparison: Comparison | None = None,
    width: int = 100,
    verbose: bool = False,
) -> list[str]:
    """The lines to print.

    Args:
        evaluation: all cases.
        summaries: of them (`summarise`).
        comparison: of the models, if there are several.
        width: columns of the terminal; names are cut where there are too few.
        verbose: whether every note is shown.
    """
    lines: list[str] = []
    for model in evaluation.models:
        cases = [case for case in evaluation.cases if case.model == model]
        rows = [row for row in summaries if row.model == model]
        heading = f"{model}: {_plural(len(cases), 'case')}"
        lines += [heading, *_structure_table(evaluation, rows, width), *_lesion_table(rows)]
        lines += [*_side_lines(cases), *_note_lines(cases, verbose), ""]
    if comparison is not None:
        lines += _comparison_lines(comparison, evaluation.models)
    if any(0 < row.metrics["dice"].count < FEW for row in summaries):
        lines += [f"{FLAG} fewer than {FEW} cases: such an interval says little of cases that were not seen", ""]
    return lines


def convention_lines(evaluation: Evaluation) -> list[str]:
    """What the figures mean; of lesions only where some were looked for."""
    text = CONVENTIONS.rstrip().splitlines()
    if not any(score.lesions for case in evaluation.cases for score in case.scores):
        start = next((k for k, line in enumerate(text) if line.startswith("Lesions")), len(text))
        rest = next((k for k in range(start + 1, len(text)) if not text[k].startswith(" ")), len(text))
        text = text[:start] + text[rest:]
    text += STATISTICS.splitlines()
    return [*text, *(COMPARED.splitlines() if len(evaluation.models) > 1 else ())]


def problem_lines(evaluation: Evaluation, verbose: bool = False) -> list[str]:
    """One line a case that could not be scored; of very many the first ones."""
    problems = evaluation.problems
    if not problems:
        return []
    have = "cases were not evaluated" if len(problems) > 1 else "case was not evaluated"
    lines = [f"{len(problems)} {have}:" if evaluation.cases else "no case could be evaluated:"]
    shown = problems if verbose else problems[:SHOWN_PROBLEMS]
    several_models = len(evaluation.models) > 1
    for problem in shown:
        who = f"{problem.model}, {problem.case}" if several_models else problem.case
        lines.append(f"  {who}: {problem.message}")
    if len(shown) < len(problems):
        others = [problem.case for problem in problems[len(shown) :]]
        lines.append(f"  and {some(others)} (--verbose shows each)")
    return lines


def _structure_table(evaluation: Evaluation, rows: Sequence[StructureSummary], width: int) -> list[str]:
    """A row a structure; regions, labels and joined sides apart, the mean at the end."""
    tolerance = evaluation.settings.tolerance_mm
    cells = [[top for top, _, _ in HEADS], [low.format(tolerance=tolerance) for _, low, _ in HEADS]]
    kinds = [row.kind for row in rows]
    over = {"region": "mean of regions", "label": "mean of structures"}["region" if "region" in kinds else "label"]
    for row in rows:
        cells.append([over if row.kind == "mean" else row.structure, *_cells(row)])
    rest = sum(max(len(line[k]) for line in cells) for k in range(1, len(HEADS))) + 2 * (len(HEADS) - 1)
    space = max(NAME_WIDTH, width - rest)
    for names in cells:
        names[0] = _cut(names[0], space)
    text = aligned(cells, "".join(side for _, _, side in HEADS))
    result = text[:2]
    previous = None
    for row, line in zip(rows, text[2:], strict=True):
        if row.kind != previous and (previous is not None or row.kind == "both sides"):
            result += [""] + (["both sides together"] if row.kind == "both sides" else [])
        result.append(line)
        previous = row.kind
    return result


def _cells(row: StructureSummary) -> list[str]:
    m = row.metrics
    numbers = [
        str(m["dice"].count),
        f"{_number(m['dice'].mean, 3):5} {_interval(m['dice'])}",
        _number(m["nsd"].mean, 3),
        _millimetres(m["hd95"].mean),
        _millimetres(m["assd"].mean),
        "-" if math.isnan(m["volume_error"].mean) else f"{100 * m['volume_error'].mean:+.1f} %",
        _number(m["sensitivity"].mean, 3),
        _number(m["precision"].mean, 3),
    ]
    return [*numbers, f"{row.missed}, {row.false}"]


def _lesion_table(rows: Sequence[StructureSummary]) -> list[str]:
    """Regions lesion by lesion."""
    chosen = [row for row in rows if row.lesions is not None]
    if not chosen:
        return []
    cells = [["lesion by lesion", "n", "Dice mean 95 % CI", "HD95 mm", "found", "missed", "false"]]
    for row in chosen:
        dice, hd95 = row.metrics["lesion_dice"], row.metrics["lesion_hd95"]
        name = "mean of regions" if row.kind == "mean" else row.structure
        cells.append(
            [
                name,
                str(dice.count),
                f"{_number(dice.mean, 3):5} {_interval(dice)}",
                _millimetres(hd95.mean),
                *map(str, row.lesions or ()),
            ]
        )
    return ["", *aligned(cells, "<><>>>>")]


def _side_lines(cases: Sequence[CaseEvaluation]) -> list[str]:
    """How often left and right are mixed up."""
    sides = [(case.case, case.sides) for case in cases if case.sides is not None]
    if not sides:
        return []
    lateral = sum(one.lateral for _, one in sides)
    swapped = sum(one.swapped for _, one in sides)
    share = 100 * swapped / lateral if lateral else 0.0
    lines = ["", f"left and right mixed up: {swapped:,} of {lateral:,} voxels with a side ({share:.2g} %)"]
    wrong = [f"{name} ({some(one.structures)})" for name, one in sides if one.structures]
    if wrong:
        lines.append(f"  mostly on the wrong side in {_plural(len(wrong), 'case')}: {some(wrong)}")
    return lines


def _note_lines(cases: Sequence[CaseEvaluation], verbose: bool) -> list[str]:
    """The notes, equal ones of several cases once."""
    notes: dict[str, list[str]] = {}
    for case in cases:
        for note in case.notes:
            notes.setdefault(note, []).append(case.case)
    lines = []
    for note, names in notes.items():
        who = names[0] if len(names) == 1 else "all cases" if len(names) == len(cases) else some(names)
        lines.append(f"note, {who}: {note}")
    if len(lines) > SHOWN_NOTES and not verbose:
        lines = [*lines[:SHOWN_NOTES], f"and {len(lines) - SHOWN_NOTES} other notes (--verbose shows them)"]
    return ["", *lines] if lines else []


def _comparison_lines(comparison: Comparison, models: Sequence[str]) -> list[str]:
    """A table for each metric and model, then the sides."""
    first, *others = models
    count = len(comparison.cases)
    if not count:
        return [f"no case was scored for each of {', '.join(models)}: there is nothing to compare", ""]
    lines = []
    for metric, title in TITLES.items():
        for other in others:
            tests = [test for test in comparison.tests if test.metric == metric and test.other == other]
            if any(test.cases for test in tests):
                unit = ", mm" if metric == "hd95" else ""
                lines += [f"{title}{unit}: {other} against {first}, {_plural(count, 'case')}"]
                lines += [*_test_table(tests, first, other, 2 if metric == "hd95" else 3), ""]
    lines += _floor_lines(comparison)
    if comparison.sides:
        cells = [["left and right mixed up", "cases", "mostly wrong in", "voxels", "of"]]
        cells += [
            [one.model, str(one.cases), str(one.affected), f"{one.swapped:,}", f"{one.lateral:,}"]
            for one in comparison.sides
        ]
        lines += [*aligned(cells, "<>>>>"), ""]
    return lines


def _floor_lines(comparison: Comparison) -> list[str]:
    """That few cases cannot show a difference, whatever it is."""
    count = len(comparison.cases)
    tests = max(sum(test.metric == metric and test.cases > 0 for test in comparison.tests) for metric in TITLES)
    lowest = 2.0 ** (1 - count)
    if lowest * tests <= 0.05:
        return []
    text = f"with {_plural(count, 'case')} p cannot fall below {lowest:.2g}"
    return [f"{text}, nor p (Holm) of {tests} tests below {min(1.0, lowest * tests):.2g}", ""]


def _test_table(tests: Sequence[PairedTest], first: str, other: str, digits: int) -> list[str]:
    cells = [["structure", "n", _cut(first, 12), _cut(other, 12), "difference 95 % CI", "p", "p (Holm)"]]
    for test in tests:
        name = "mean" if test.structure == MEAN else _cut(test.structure, NAME_WIDTH)
        flag = FLAG if 1 < test.cases < FEW else ""
        interval = "" if math.isnan(test.low) else f"[{test.low:+.{digits}f}, {test.high:+.{digits}f}]{flag}"
        difference = "-" if math.isnan(test.difference) else f"{test.difference:+.{digits}f}"
        means = [_number(test.first_mean, digits), _number(test.other_mean, digits)]
        chances = [_chance(test.p), _chance(test.p_holm)]
        cells.append([name, str(test.cases), *means, f"{difference} {interval}".rstrip(), *chances])
    return aligned(cells, "<>>><>>")


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Rows of cells as lines with columns of equal width, "<" to the left and ">" to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(sides))]
    return ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _millimetres(value: float) -> str:
    return _number(value, 2 if value < 100 else 0)


def _interval(summary: MetricSummary) -> str:
    if math.isnan(summary.low):
        return ""
    return f"{summary.low:.3f}-{summary.high:.3f}{FLAG if summary.few else ''}"


def _chance(p: float) -> str:
    return "-" if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _plural(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"
