"""A checked data set as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from voxseg.data.datasets.case import Finding, some
from voxseg.data.datasets.check import Report
from voxseg.data.geometry import Geometry

__all__ = ["summarise"]


def summarise(report: Report, names: dict[int, str] | None = None, verbose: bool = False) -> list[str]:
    """The lines to print.

    Args:
        report: from `check_dataset`.
        names: of the label ids, where the data set's own are not wanted.
        verbose: whether every finding is shown.
    """
    dataset = report.dataset
    subjects = len({case.subject for case in dataset.cases})
    lines = [f"{dataset.folder}", f"{dataset.title}: {_plural(len(dataset.cases), 'case')}"]
    if subjects != len(dataset.cases):
        lines[-1] += f" of {_plural(subjects, 'subject')}"
    lines += ["", *_image_table(report)]
    if any(one.counts for one in report.facts):
        lines += ["", *_label_table(report, names if names is not None else dict(dataset.label_names))]
    if report.findings:
        lines += ["", *_finding_lines(report.findings, verbose)]
    return [*lines, "", _verdict(report)]


def _image_table(report: Report) -> list[str]:
    """A row an image, and one for the labels."""
    rows = [["image", "cases", "voxels (R x A x S)", "spacing in mm"]]
    found = {name: [one.grids[name] for one in report.facts if name in one.grids] for name in report.images}
    found["label"] = [one.label_grid for one in report.facts if one.label_grid is not None]
    total = len(report.facts)
    for name, grids in found.items():
        count = str(total) if len(grids) == total else f"{len(grids)} of {total}"
        rows.append([name, count, _axes(grids, lambda grid: grid.shape), _axes(grids, lambda grid: grid.spacing)])
    return _aligned(rows, "<><<")


def _axes(grids: Sequence[Geometry], get: Callable[[Geometry], Sequence[float]]) -> str:
    """Median and range over cases of one figure for each of the canonical axes."""
    if not grids:
        return "-"
    values = np.array([get(grid.canonical) for grid in grids], dtype=float)
    texts = []
    for column in values.T:
        low, middle, high = (f"{value:.4g}" for value in (column.min(), np.median(column), column.max()))
        texts.append(middle if low == high else f"{middle} ({low}-{high})")
    return " x ".join(texts)


def _label_table(report: Report, names: dict[int, str]) -> list[str]:
    """A row a label id: in how many cases, its share of all voxels, and the volume in a case that has it."""
    read = [(one.counts, one.label_grid) for one in report.facts if one.counts and one.label_grid]
    total = sum(sum(counts.values()) for counts, _ in read)
    rows = [["label", "name", "cases", "share of voxels", "median volume (range) in ml"]]
    for label in sorted({i for counts, _ in read for i in counts}):
        voxels = sum(counts.get(label, 0) for counts, _ in read)
        millilitres = [counts[label] * grid.voxel_volume / 1000 for counts, grid in read if label in counts]
        low, middle, high = (_ml(value) for value in (min(millilitres), np.median(millilitres), max(millilitres)))
        volume = "" if label == 0 else middle if low == high else f"{middle} ({low}-{high})"
        name = "background" if label == 0 else names.get(label, "")
        share = f"{100 * voxels / total:.2f} %" if voxels / total >= 1e-4 else "< 0.01 %"
        rows.append([str(label), name, str(len(millilitres)), share, volume])
    return _aligned(rows, "><>><")


def _ml(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _finding_lines(findings: Sequence[Finding], verbose: bool) -> list[str]:
    """The findings; of several of a kind, the first one and the cases that the others are about."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.level, finding.kind), []).append(finding)
    lines = []
    for (level, _), group in kinds.items():
        shown = group if verbose else group[:1]
        lines += [f"{level}: {finding.subject}: {finding.text}" for finding in shown]
        others = list(dict.fromkeys(finding.subject for finding in group if finding.subject != group[0].subject))
        if len(shown) < len(group):
            cases = some(others) or "the same case"
            lines.append(f"{level}: the like in {cases} (--verbose shows each)")
    return lines


def _verdict(report: Report) -> str:
    errors, warnings = len(report.errors), len(report.warnings)
    counted = f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
    unread = {"headers": " (headers alone were read)", "labels": "", "everything": " (every voxel was read)"}
    return f"{counted}{unread[report.depth]}: {'training can begin' if report.ok else 'training would stop'}"


def _plural(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Rows of cells as lines with columns of equal width, "<" to the left and ">" to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(sides))]
    return ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]
