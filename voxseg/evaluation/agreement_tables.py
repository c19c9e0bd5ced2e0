"""The agreement of repeated scans as CSV, as JSON and as a table on the screen."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from voxseg.evaluation.agreement import Agreement, StructureAgreement
from voxseg.evaluation.agreement_statistics import Estimate
from voxseg.provenance import now, plain, record

__all__ = ["EXPLANATIONS", "as_json", "pairs_csv", "screen_table", "structures_csv"]

NOTHING = "–"

EXPLANATIONS = {
    "missing": "scans that lack the structure although another scan of the subject has it; they enter no other figure",
    "|diff| %": "mean over subjects of 200 |a - b| / (a + b), successive scans",
    "CV %": "within-subject coefficient of variation",
    "CR": "coefficient of repeatability, 1.96 sqrt(2) within-subject standard deviations",
    "ICC(2,1)": "two-way random effects, absolute agreement, single measurement; intervals of McGraw and Wong",
    "ICC(3,1)": "two-way mixed effects, consistency, single measurement",
    "bias, limits": "Bland–Altman, later minus earlier of successive scans; 1.96 standard deviations",
    "% a year": "least-squares slope of each subject in per cent of its value at the first scan; mean over subjects",
    "Dice": "of successive scans as they lie, where both have one grid",
}
"""What the columns mean."""


def structures_csv(agreement: Agreement) -> str:
    """One row a structure; what cannot be estimated is empty."""
    return _csv([{"structure": s.structure.name, **_figures(s)} for s in agreement.structures])


def pairs_csv(agreement: Agreement) -> str:
    """One row for each structure of each two successive scans of a subject."""
    rows = []
    for structure in agreement.structures:
        for pair in structure.pairs:
            rows.append(
                {
                    "subject": pair.subject,
                    "structure": structure.structure.name,
                    "first": pair.first,
                    "second": pair.second,
                    "first_ml": pair.first_ml,
                    "second_ml": pair.second_ml,
                    "difference_ml": pair.difference_ml,
                    "difference_percent": pair.percent,
                    "years": pair.years,
                    "dice": pair.dice,
                }
            )
    return _csv(rows)


def as_json(agreement: Agreement) -> dict[str, Any]:
    """All figures, all volumes and what was left out, in plain types; what cannot be estimated is None."""
    scans = [
        {
            "subject": scan.subject,
            "session": scan.session,
            "file": scan.path.name,
            "years": scan.years,
            "ml": dict(agreement.volumes[scan.subject, scan.session]),
        }
        for own in agreement.repeats.subjects
        for scan in own
    ]
    value = {
        "provenance": record("agreement", now()),
        "subjects": agreement.subjects,
        "sessions": list(agreement.repeats.sessions),
        "explanations": EXPLANATIONS,
        "structures": [
            {
                "name": s.structure.name,
                "kind": s.structure.kind,
                "ids": list(s.structure.ids),
                "side": s.structure.side,
                **_figures(s),
            }
            for s in agreement.structures
        ],
        "scans": scans,
        "not_found": list(agreement.not_found),
        "failures": list(agreement.failures),
        "notes": list(agreement.notes),
    }
    finite: dict[str, Any] = plain(value)
    return finite


def screen_table(agreement: Agreement) -> list[str]:
    """What is shown on a terminal: a table, and below it what its columns mean."""
    if agreement.subjects == 1:
        return _of_one(agreement)
    missing = any(s.missing for s in agreement.structures)
    yearly = any(not math.isnan(s.yearly.value) for s in agreement.structures)
    dice = any(not math.isnan(s.dice) for s in agreement.structures)
    head = ["structure", "n", *(["missing"] if missing else []), "mean ml", "|diff| %", "CV %", "CR ml"]
    head += ["bias [limits] ml", "ICC(2,1) [95 %]", "ICC(3,1)", *(["% a year [95 %]"] if yearly else [])]
    head += ["Dice"] if dice else []
    rows = []
    for s in agreement.structures:
        row = [s.structure.name, str(s.subjects), *([str(s.missing or "")] if missing else []), _ml(s.mean_ml)]
        row += [_number(s.percent, 1), _number(s.repeatability.variation, 1), _ml(s.repeatability.coefficient.value)]
        row += [_limits(s), _estimate(s.icc.agreement, 3), _number(s.icc.consistency.value, 3)]
        row += [_estimate(s.yearly, 2)] if yearly else []
        row += [_number(s.dice, 3)] if dice else []
        rows.append(row)
    used = {"missing": missing, "% a year": yearly, "Dice": dice}
    legend = [f"{name}: {text}" for name, text in EXPLANATIONS.items() if used.get(name, True)]
    sizes = sorted({(s.icc.subjects, s.icc.repeats) for s in agreement.structures if s.icc.subjects > 1})
    if sizes:
        smallest, largest = sizes[0], sizes[-1]
        people = str(largest[0]) if smallest[0] == largest[0] else f"{smallest[0]} to {largest[0]}"
        legend.append(f"intraclass correlations are of {people} subjects with {largest[1]} scans each")
    return [*_aligned(head, rows), "", *legend]


def _of_one(agreement: Agreement) -> list[str]:
    """Differences of one person's scans."""
    dice = any(not math.isnan(s.dice) for s in agreement.structures)
    several = agreement.scans > 2
    head = ["structure", *(["scans"] if several else []), "first ml", "second ml", "diff ml", "diff %"]
    yearly = any(not math.isnan(s.yearly.value) for s in agreement.structures)
    head += [*(["Dice"] if dice else []), *(["% a year"] if yearly else [])]
    rows = []
    for s in agreement.structures:
        for k, pair in enumerate(s.pairs):
            row = [s.structure.name, *([f"{pair.first} to {pair.second}"] if several else [])]
            row += [
                _ml(pair.first_ml),
                _ml(pair.second_ml),
                _ml(pair.difference_ml, "+"),
                _number(pair.percent, 1, "+"),
            ]
            row += [_number(pair.dice, 3)] if dice else []
            row += [_number(s.yearly.value, 2, "+") if k == 0 else ""] if yearly else []
            rows.append(row)
        if not s.pairs:
            rows.append([s.structure.name, *["missing"] * (len(head) - 1)])
        elif s.missing:
            rows.append(["", f"missing in {s.missing} of the scans", *[""] * (len(head) - 2)])
    legend = ["diff %: 200 (second - first) / (first + second)"]
    if yearly:
        legend.append("% a year: least-squares slope of all scans, in per cent of its value at the first")
    legend.append("one subject: ICC, limits of agreement and confidence intervals cannot be estimated")
    if several:
        legend.append("within-subject scatter of the scans is in agreement.csv")
    return [*_aligned(head, rows, 2 if several else 1), "", *legend]


def _figures(s: StructureAgreement) -> dict[str, Any]:
    """The figures of a structure by the names of the CSV's columns."""
    estimates = {
        "repeatability_ml": s.repeatability.coefficient,
        "icc_2_1": s.icc.agreement,
        "icc_3_1": s.icc.consistency,
        "bias_ml": s.limits.bias,
        "lower_limit_ml": s.limits.lower,
        "upper_limit_ml": s.limits.upper,
        "percent_a_year": s.yearly,
    }
    figures: dict[str, Any] = {
        "subjects": s.subjects,
        "pairs": len(s.pairs),
        "missing_scans": s.missing,
        "absent_subjects": s.absent,
        "mean_ml": s.mean_ml,
        "absolute_difference_ml_mean": s.absolute_ml,
        "absolute_difference_ml_median": s.absolute_ml_median,
        "absolute_difference_percent_mean": s.percent,
        "absolute_difference_percent_median": s.percent_median,
        "within_subject_sd_ml": s.repeatability.deviation,
        "within_subject_cv_percent": s.repeatability.variation,
    }
    for name, estimate in estimates.items():
        figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return figures | {"icc_subjects": s.icc.subjects, "icc_repeats": s.icc.repeats, "dice": s.dice}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers without the digits that are rounding alone; nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns side by side, the first ones left-aligned."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(w) if k < left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number(value: float, digits: int, sign: str = "") -> str:
    return NOTHING if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _ml(value: float, sign: str = "") -> str:
    """Millilitres with three decimals, fewer for what is large."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return _number(value, digits, sign)


def _estimate(estimate: Estimate, digits: int) -> str:
    value = _number(estimate.value, digits)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{_number(estimate.low, digits)}, {_number(estimate.high, digits)}]"


def _limits(s: StructureAgreement) -> str:
    bias = _ml(s.limits.bias.value, "+")
    if math.isnan(s.limits.lower.value):
        return bias
    return f"{bias} [{_ml(s.limits.lower.value, '+')}, {_ml(s.limits.upper.value, '+')}]"
