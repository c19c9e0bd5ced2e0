"""The page of an evaluation: tables, pictures and a viewer of the cases, in one HTML file that opens offline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.errors import UserError
from voxseg.evaluation.comparison import compare
from voxseg.evaluation.result import CaseEvaluation, Evaluation
from voxseg.evaluation.statistics import FEW, StructureSummary, case_means, mean_positions, summarise
from voxseg.evaluation.table_files import without_folders
from voxseg.evaluation.tables import convention_lines
from voxseg.report.case_planes import draw_case
from voxseg.report.evaluation_tables import (
    case_table,
    common_notes,
    comparison_tables,
    dice_matrix,
    dots,
    side_table,
    summary_table,
)
from voxseg.report.page import Html, Script, details, escape, figure, page, section, table
from voxseg.report.scan_page import warning_box
from voxseg.report.viewer import USE, LabelMap, Legend, Scene, swatch, toggle, viewer

__all__ = ["write_evaluation_page"]

MOST_MODELS = 4  # that pictures are drawn of
DIFFERENCES = Legend(
    "differences",
    {
        1: ("only in the reference", "#35b5ff"),
        2: ("only in the prediction", "#ff9d2e"),
        3: ("another structure", "#e0339a"),
    },
)


@dataclass(frozen=True, eq=False)
class _Files:
    """What is drawn of a case: classes of the reference and of a prediction, and the scan if there is one."""

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    geometry: Geometry
    scan: NDArray[Any] | None
    notes: tuple[str, ...] = ()


def write_evaluation_page(
    path: Path,
    evaluation: Evaluation,
    scans: Mapping[str, Path],
    scheme: LabelScheme,
) -> None:
    """Write the page of an evaluation.

    Args:
        path: of the `.html` file; not complete until this returns, so give a temporary name (`staged`).
        evaluation: what was found.
        scans: the scan to draw behind the outlines, by the name of the case; the labels themselves are drawn where
            there is none.
        scheme: of the evaluation, by which label files become classes.

    Raises:
        UserError: if the script of the viewer is not installed. Call `voxseg.report.niivue.find_niivue` to know before
            anything is computed.
    """
    summaries = summarise(evaluation)
    drawer = _Drawer(evaluation, scans, scheme)
    frame, scripts = drawer.viewer()
    from voxseg import __version__

    several = len(evaluation.models) > 1
    cases = len({case.case for case in evaluation.cases})
    who = f"{len(evaluation.models)} models ({', '.join(evaluation.models)})" if several else evaluation.models[0]
    body = [
        warning_box(_warnings(evaluation)),
        _summary(evaluation, summaries),
        section("Dice of each case", dots(evaluation, summaries), anchor="dots"),
        _sides(evaluation),
        _comparison(evaluation),
        _cases(evaluation),
        drawer.pictures(),
        frame,
        _problems(evaluation),
        section("What the figures mean", _conventions(evaluation), anchor="conventions"),
    ]
    lead = f"{who}: {cases} case{'s' * (cases != 1)} against references. Evaluated by voxseg {__version__}."
    path.write_text(page("Evaluation", lead, body, scripts), encoding="utf-8", newline="\n")


def _warnings(evaluation: Evaluation) -> list[str]:
    """What a reader has to know first."""
    result = []
    if evaluation.problems:
        result.append(f"{len(evaluation.problems)} not evaluated; they are listed under Problems.")
    for model in evaluation.models:
        cases = [case for case in evaluation.cases if case.model == model]
        of = f"{model}: " if len(evaluation.models) > 1 else ""
        wrong = [case.case for case in cases if case.sides is not None and case.sides.structures]
        if wrong:
            result.append(f"{of}structures mostly on the wrong side in {', '.join(wrong)}.")
        if len(cases) < FEW:
            count = f"{len(cases)} case{'s' * (len(cases) != 1)}"
            result.append(f"{of}{count}: figures and intervals of so few say little of cases that were not seen.")
    return result


def _summary(evaluation: Evaluation, summaries: Sequence[StructureSummary]) -> Html:
    parts = []
    for model in evaluation.models:
        count = sum(case.model == model for case in evaluation.cases)
        if len(evaluation.models) > 1:
            parts.append(Html(f"<h3>{escape(model)}, {count} case{'s' * (count != 1)}</h3>"))
        parts.append(summary_table(evaluation, [row for row in summaries if row.model == model]))
    few = any(0 < row.metrics["dice"].count < FEW for row in summaries)
    note = f" * fewer than {FEW} cases." if few else ""
    parts.append(
        Html(
            '<p class="note">Means over cases, in brackets the 95 % interval of the mean. Missed and false structures '
            "count as Dice 0 and are not in the distances; "
            f'<a href="#conventions">what the figures mean</a>.{note}</p>'
        )
    )
    return section("Summary", *parts, anchor="summary")


def _sides(evaluation: Evaluation) -> Html:
    sides = side_table(evaluation)
    return section("Left and right mixed up", sides, anchor="sides") if sides else sides


def _comparison(evaluation: Evaluation) -> Html:
    comparison = compare(evaluation)
    if comparison is None:
        return Html("")
    return section("Comparison", *comparison_tables(comparison, evaluation.models), anchor="comparison")


def _cases(evaluation: Evaluation) -> Html:
    matrices = []
    for model in evaluation.models:
        of = f" of {model}" if len(evaluation.models) > 1 else ""
        matrices.append(details(f"Dice of every case and structure{of}", dice_matrix(evaluation, model)))
    notes = "".join(f"<li>all cases: {escape(note)}</li>" for note in common_notes(evaluation.cases))
    listed = Html(f'<ul class="note">{notes}</ul>') if notes else Html("")
    return section("Cases", case_table(evaluation), listed, *matrices, anchor="cases")


def _problems(evaluation: Evaluation) -> Html:
    if not evaluation.problems:
        return Html("")
    rows = [[problem.case, problem.model, without_folders(problem.message, False)] for problem in evaluation.problems]
    return section("Problems", table(["case", "model", "what is wrong"], rows), anchor="problems")


def _conventions(evaluation: Evaluation) -> Html:
    """The conventions as a list: lines that are set in go on with the one before."""
    items: list[str] = []
    for line in convention_lines(evaluation):
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    inner = "".join(f"<li>{escape(item)}</li>" for item in items)
    tolerance = f"Tolerance of the surface Dice: {evaluation.settings.tolerance_mm:g} mm."
    return Html(f'<ul class="conventions">{inner}<li>{tolerance}</li></ul>')


class _Drawer:
    """Reads the files of those cases that are drawn, each once."""

    def __init__(self, evaluation: Evaluation, scans: Mapping[str, Path], scheme: LabelScheme) -> None:
        self.evaluation, self.scans, self.scheme = evaluation, scans, scheme
        self.table: LabelTable = scheme.predicted()
        self.positions = mean_positions(evaluation.structures)
        self._read: dict[tuple[str, str], _Files | str] = {}

    def pictures(self) -> Html:
        """The worst and the median case of each model."""
        parts = []
        for model in self.evaluation.models[:MOST_MODELS]:
            for rank, case, dice in self._ranked(model):
                if rank == "best":
                    continue
                of = f" of {model}" if len(self.evaluation.models) > 1 else ""
                heading = f"{rank.capitalize()} case{of}: {case.case}, mean Dice {dice:.3f}"
                parts.append(Html(f"<h3>{escape(heading)}</h3>"))
                parts.append(self._picture(case))
        if len(self.evaluation.models) > MOST_MODELS:
            parts.append(Html(f'<p class="note">Pictures are of the first {MOST_MODELS} models.</p>'))
        note = (
            "Planes through the reference, structures in the colours of the summary. Radiological convention: the "
            "patient's left is on the right."
        )
        return (
            section("Pictures", Html(f'<p class="note">{note}</p>'), *parts, anchor="pictures") if parts else Html("")
        )

    def viewer(self) -> tuple[Html, list[Script]]:
        """Worst, median and best case of the first model, with the predictions of all."""
        scenes = []
        for rank, case, dice in self._ranked(self.evaluation.models[0]):
            scene = self._scene(case, f"{rank}: {case.case} (Dice {dice:.3f})")
            if scene is not None:
                scenes.append(scene)
        if not scenes:
            return Html(""), []
        frame, scripts = viewer(scenes, self._legends(scenes))
        return section("Viewer", USE, frame, anchor="viewer-section"), scripts

    def _ranked(self, model: str) -> list[tuple[str, CaseEvaluation, float]]:
        """Worst, median and best case of a model by its mean Dice, each case once."""
        cases = [case for case in self.evaluation.cases if case.model == model]
        means = [float(mean) for mean in case_means(cases, self.positions, "dice")]
        known = sorted((mean, k) for k, mean in enumerate(means) if not math.isnan(mean))
        chosen: dict[int, tuple[str, CaseEvaluation, float]] = {}
        for rank, place in (("worst", 0), ("median", (len(known) - 1) // 2), ("best", len(known) - 1)):
            if known:
                mean, k = known[place]
                chosen.setdefault(k, (rank if len(known) > 1 else "only", cases[k], mean))
        return list(chosen.values())

    def _picture(self, case: CaseEvaluation) -> Html:
        files = self._files(case)
        if isinstance(files, str):
            return Html(f"<p>{escape(files)}</p>")
        png = draw_case(files.scan, files.reference, files.prediction, files.geometry, self.table)
        alternative = f"Three planes of {case.case} with the outlines of the reference, of the prediction, and of both"
        return figure(png, alternative, " ".join(files.notes))

    def _scene(self, case: CaseEvaluation, name: str) -> Scene | None:
        """A case with its reference and what every model made of it."""
        files = self._files(case)
        if isinstance(files, str):
            return None
        legend = Legend("structures", {k: (one.name, one.colour) for k, one in enumerate(self.table, start=1)})
        several = len(self.evaluation.models) > 1
        maps = []
        for other in self.evaluation.cases:
            predicted = self._files(other) if other.case == case.case else ""
            if isinstance(predicted, str) or predicted.prediction.shape != files.reference.shape:
                continue
            of = f" of {other.model}" if several else ""
            maps.append(LabelMap(f"prediction{of}", predicted.prediction, legend))
            wrong = _differences(files.reference, predicted.prediction)
            maps.append(LabelMap(f"differences{of}", wrong, DIFFERENCES))
        maps.insert(1, LabelMap("reference", files.reference, legend))
        images = {} if files.scan is None else {"scan": files.scan}
        focus = files.reference if files.reference.any() else None  # as in the pictures
        return Scene(name, images, maps, files.geometry, files.notes, focus)

    def _legends(self, scenes: Sequence[Scene]) -> Html:
        """The structures that are in the scenes, and the kinds of differences, each with a box."""
        present = sorted({int(k) for scene in scenes for m in scene.maps for k in _present(m)})
        structures = {k: (self.table[k - 1].name, self.table[k - 1].colour) for k in present}
        lists = _legend("structures", structures) + _legend(DIFFERENCES.name, DIFFERENCES.labels)
        return Html(f'<div class="legends">{lists}</div>')

    def _files(self, case: CaseEvaluation) -> _Files | str:
        """The arrays of a case, or why they cannot be drawn."""
        key = (case.case, case.model)
        if key not in self._read:
            try:
                self._read[key] = self._load(case)
            except UserError as error:
                self._read[key] = f"{case.case} cannot be drawn: {without_folders(str(error), False)}"
        return self._read[key]

    def _load(self, case: CaseEvaluation) -> _Files:
        from voxseg.data.volume import read_volume
        from voxseg.evaluation.read_pair import on_grid, read_pair

        pair = read_pair(case.prediction, case.reference, self.scheme, resample=True)
        scan, notes = None, []
        if case.case in self.scans:
            volume = read_volume(self.scans[case.case])
            scan = on_grid(volume.data, volume.geometry, pair.geometry)
            if scan is None:
                notes.append(f"The scan ({volume.path.name}) is on another grid than the reference and is not shown.")
        return _Files(pair.reference, pair.prediction, pair.geometry, scan, tuple(notes))


def _present(labels: LabelMap) -> list[int]:
    """The classes in a map of structures."""
    return [] if labels.legend is DIFFERENCES else [int(k) for k in np.unique(labels.classes) if k]


def _differences(reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where they differ, as the classes of `DIFFERENCES`."""
    result = np.zeros(reference.shape, dtype=np.uint8)
    result[(reference > 0) & (prediction == 0)] = 1
    result[(reference == 0) & (prediction > 0)] = 2
    result[(reference > 0) & (prediction > 0) & (reference != prediction)] = 3
    return result


def _legend(name: str, labels: Mapping[int, tuple[str, str]]) -> str:
    items = "".join(
        f"<li><label>{toggle(name, [k], label)}{swatch(colour)}{escape(label)}</label></li>"
        for k, (label, colour) in labels.items()
    )
    hidden = " hidden" if name == DIFFERENCES.name else ""
    return f'<ul class="legend" data-legend-of="{escape(name)}"{hidden}>{items}</ul>'
