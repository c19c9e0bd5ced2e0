"""`voxseg evaluate`: segmentations against references."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxseg.cli._errors import show_traceback
from voxseg.cli._result import add_error, add_result
from voxseg.errors import UserError

if TYPE_CHECKING:
    from voxseg.evaluation.comparison import Comparison
    from voxseg.evaluation.labelling import Labelling
    from voxseg.evaluation.pairs import Pair, Pairing, References
    from voxseg.evaluation.result import Evaluation
    from voxseg.evaluation.statistics import StructureSummary
    from voxseg.evaluation.table_files import Provenance

    Pairings = dict[str, tuple[Pairing, References | None]]

FILES = ("cases.csv", "summary.csv", "evaluation.json")
COMPARED, REPORT = "comparison.csv", "report.html"


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Segmentations: a file, a folder, a pattern in quotes such as 'out/*/seg.nii.gz', or a CSV table with "
            "the columns case, prediction, reference.",
            show_default=False,
            readable=False,
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Argument(
            metavar="REFERENCES",
            help="What they are compared with: likewise, or a data set in a layout that 'voxseg data check' knows.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Write tables (CSV), and everything (JSON), there."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|FOLDER",
            help="What the ids mean: a packaged model or training config, a model folder, a YAML file or a labels.csv. "
            "By default what the files say of themselves, otherwise FreeSurfer's table.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the predictions are called; by default their folder's.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Predictions of another model, for a paired comparison; repeat it."),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Of the normalised surface Dice.")] = 1.0,
    lesions: Annotated[
        bool, typer.Option("--lesions/--no-lesions", help="Score regions lesion by lesion too, as BraTS 2023 does.")
    ] = True,
    resample: Annotated[
        bool, typer.Option("--resample", help="Take predictions on another grid to that of their reference.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="References without a prediction are as they should be.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html too, with pictures and a viewer.")
    ] = False,
    scans: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|FILE", help="Scans to draw in the report behind the outlines.", readable=False),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(
            metavar="KIND|FOLDER|FILE",
            help="Predictions are fields and no labels: scalar, vector, axis or tensor; or what the targets of a model "
            "or config say. Prints errors and angles, writes fields.csv.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Cases at a time, each in a process of up to 1 GB.")
    ] = 1,
    full_paths: Annotated[
        bool, typer.Option("--full-paths", help="Name files in the output with all of their path.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show what was matched with what, and every note.")
    ] = False,
) -> None:
    """Score segmentations against references.

    Dice, IoU, normalised surface Dice, HD95, average surface distance, volume error, sensitivity and precision of each
    structure, side and region, with bootstrap intervals; missed and false structures are counted. Prints a table. Cases
    that cannot be evaluated are listed, the others are done, and the exit code is 1.
    """
    _check_options(output, tolerance, report, scans)
    from voxseg.evaluation.pairs import find_scans

    pairings = _pairings(predictions, references, name, compare or [], partial)
    pairs = [pair for pairing, _ in pairings.values() for pair in pairing.pairs]
    if field is not None:
        from voxseg.cli._evaluate_field import evaluate_fields

        problems = [problem for pairing, _ in pairings.values() for problem in pairing.problems]
        return evaluate_fields(pairs, problems, field, output)
    places = find_scans(scans, pairs) if scans is not None else {}
    if verbose:
        print("\n".join(_matched(pairings)), end="\n\n")
    settings = {"tolerance_mm": tolerance, "lesions": lesions}
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        with _Progress(len(pairs)) as progress:
            labelling = _labelling(labels, pairings, pairs)
            evaluation = _evaluate(pairings, labelling, settings, resample, jobs, progress)
    finally:
        signal.signal(signal.SIGTERM, previous)
    from voxseg.evaluation.comparison import compare as compare_models
    from voxseg.evaluation.statistics import summarise
    from voxseg.evaluation.table_files import Provenance

    summaries, comparison = summarise(evaluation), compare_models(evaluation)
    if evaluation.cases:
        source = "; ".join(filter(None, (labelling.source, labelling.hint)))
        _print(evaluation, summaries, comparison, source, verbose)
    provenance = Provenance(labelling.source, labelling.scheme, resample, full_paths)
    if evaluation.cases:
        from voxseg.evaluation.table_files import as_json

        add_result(folder=output, evaluation=as_json(evaluation, summaries, comparison, provenance))
    for problem in evaluation.problems:
        add_error(f"{problem.model}, {problem.case}", problem.message)
    if output is not None and evaluation.cases:
        _write(output, evaluation, summaries, comparison, provenance, places if report else None)
    _finish(evaluation, partial, pairings, verbose)


def _terminated(number: int, frame: object) -> None:
    """Leave as an exception does, so that processes are ended too."""
    raise SystemExit(128 + number)


def _check_options(output: Path | None, tolerance: float, report: bool, scans: Path | None) -> None:
    """Refuse at once what would fail after minutes."""
    if not tolerance > 0:
        raise UserError(f"--tolerance {tolerance:g}", "is not above 0", "give millimetres, such as 1")
    if report and output is None:
        raise UserError("--report", "needs a folder to write to", "give one with -o")
    if scans is not None and not report:
        raise UserError("--scans", "are drawn in the report alone", "give --report too")
    if output is not None:
        existing = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
        if not existing.is_dir():
            raise UserError(f"-o {output}", f"{existing} is a file", "give a folder")
        if not os.access(existing, os.W_OK):
            raise UserError(f"-o {output}", "may not be written to (no permission)", "give another folder")
    if importlib.util.find_spec("monai") is None:
        problem = "the surface metrics need the package MONAI, which is not installed"
        raise UserError("voxseg evaluate", problem, "pip install 'voxseg[evaluate]'")
    if report:
        from voxseg.report.niivue import find_niivue

        find_niivue()


def _pairings(
    predictions: Path, references: Path | None, name: str | None, compare: Sequence[str], partial: bool
) -> Pairings:
    """What is compared with what, by model."""
    from voxseg.evaluation.pair_table import read_table, references_of
    from voxseg.evaluation.pairs import TABLES, find_references, pair_up

    others = _others(compare)
    first = name or _default_name(predictions)
    if first in others:
        raise UserError(f"--compare {first}", "is the name of PREDICTIONS too", "give them another one with --name")
    is_table = predictions.name.lower().endswith(TABLES)
    for place in (predictions, *others.values(), *([references] if references else [])):
        if "*" not in str(place) and not place.exists():
            raise UserError(place, "does not exist", "check the path")
    if references is None:
        if not is_table:
            remedy = "give REFERENCES, or a CSV table with the columns case, prediction, reference"
            raise UserError(predictions, "there is nothing to compare it with", remedy)
        pairing = read_table(predictions, first)
        found = references_of(predictions, pairing)
        result: Pairings = {first: (pairing, None)}
    else:
        if is_table:
            problem = "is a table of pairs, and references are given as well"
            raise UserError(predictions, problem, "leave them out, or give a folder of predictions")
        found = find_references(references, [predictions, *others.values()])
        result = {first: (pair_up(predictions, found, first, partial), found)}
    for other, place in others.items():
        if place.name.lower().endswith(TABLES):
            result[other] = (read_table(place, other), None)
        else:
            result[other] = (pair_up(place, found, other, partial), None)
    return result


def _others(compare: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER` by name."""
    others: dict[str, Path] = {}
    for text in compare:
        name, equals, place = text.partition("=")
        if not (name.strip() and equals and place):
            raise UserError(f"--compare {text}", "is not NAME=FOLDER", "write for example --compare other=out/other")
        if name.strip() in others:
            raise UserError(f"--compare {text}", f"the name {name.strip()} is given twice", "name each model once")
        others[name.strip()] = Path(place)
    return others


def _default_name(predictions: Path) -> str:
    """The name of the folder that predictions come from, or that of a table."""
    parts = [part for part in predictions.absolute().parts if "*" not in part]
    return Path(parts[-1]).stem if predictions.suffix in (".csv", ".tsv") else parts[-1]


def _labelling(labels: str | None, pairings: Pairings, pairs: Sequence[Pair]) -> Labelling:
    """What the ids mean: as the user says, or as the files do."""
    from voxseg.evaluation.labelling import labels_found, labels_given

    if labels is not None:
        return labels_given(labels)
    known = next((found for _, found in pairings.values() if found is not None), None)
    if known is None:
        return labels_found(pairs, {}, {})
    return labels_found(pairs, known.label_names, known.regions, known.title)


def _evaluate(
    pairings: Pairings, labelling: Labelling, settings: dict[str, Any], resample: bool, jobs: int, progress: _Progress
) -> Evaluation:
    """All pairs of all models, with the cases that could not even be matched among the problems."""
    from voxseg.evaluation.result import MetricSettings, Problem
    from voxseg.evaluation.run import evaluate as evaluate_pairs

    return evaluate_pairs(
        [pair for pairing, _ in pairings.values() for pair in pairing.pairs],
        labelling.scheme,
        MetricSettings(**settings),
        progress,
        resample=resample,
        problems=[
            Problem(case, model, text) for model, (pairing, _) in pairings.items() for case, text in pairing.problems
        ],
        only_present=labelling.whole_table,
        jobs=jobs,
        on_error=show_traceback,
    )


def _matched(pairings: Pairings) -> list[str]:
    """What was matched with what, for the user to check."""
    lines = []
    for model, (pairing, found) in pairings.items():
        layout = f" ({found.title})" if found is not None and found.title else ""
        lines.append(f"{model}: {len(pairing.pairs)} matched{layout}")
        lines += [f"  {pair.case}: {pair.prediction} with {pair.reference}" for pair in pairing.pairs]
        lines += [f"  not taken for a segmentation: {path}" for path in pairing.ignored]
    return lines


def _print(
    evaluation: Evaluation,
    summaries: Sequence[StructureSummary],
    comparison: Comparison | None,
    source: str,
    verbose: bool,
) -> None:
    from voxseg.evaluation.tables import convention_lines, table_lines

    width = max(100, shutil.get_terminal_size((100, 24)).columns)
    print(f"labels: {source}\n")
    print("\n".join(table_lines(evaluation, summaries, comparison, width, verbose)))
    print("\n".join(convention_lines(evaluation)))


def _write(
    folder: Path,
    evaluation: Evaluation,
    summaries: Sequence[StructureSummary],
    comparison: Comparison | None,
    provenance: Provenance,
    scans: dict[str, Path] | None,
) -> None:
    """Write all files, or none; `scans` is None where no report is wanted."""
    from voxseg.data.staging import staged
    from voxseg.evaluation.table_files import write_cases, write_comparison, write_json, write_summary

    names = [*FILES, *([COMPARED] if comparison else []), *([REPORT] if scans is not None else [])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(folder, f"the folder cannot be made ({error.strerror})", "choose another one with -o") from None
    with staged(*(folder / name for name in names)) as paths:
        places = dict(zip(names, paths, strict=True))
        write_cases(places[FILES[0]], evaluation, provenance.full_paths)
        write_summary(places[FILES[1]], summaries)
        write_json(places[FILES[2]], evaluation, summaries, comparison, provenance)
        if comparison:
            write_comparison(places[COMPARED], comparison)
        if scans is not None:
            from voxseg.report.evaluation_page import write_evaluation_page

            with _Progress(1, "drawing the report"):
                write_evaluation_page(places[REPORT], evaluation, scans, provenance.scheme)
    print(f"\nwrote {', '.join(names)} to {folder}")


def _finish(evaluation: Evaluation, partial: bool, pairings: Pairings, verbose: bool) -> None:
    """List what was not evaluated, and exit with the code for it."""
    from voxseg.evaluation.tables import problem_lines

    if partial:
        for model, (pairing, _) in pairings.items():
            if pairing.missing:
                count = len(pairing.missing)
                print(f"{model}: {count} reference{'s' * (count != 1)} without a prediction left out (--partial)")
    lines = problem_lines(evaluation, verbose)
    if lines:
        print(f"voxseg: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)
        raise typer.Exit(1)


class _Progress:
    """A bar on standard error; nothing where that is not a terminal."""

    def __init__(self, total: int, text: str = "reading labels") -> None:
        self.total, self.text = total, text
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, leave=False, unit="case", desc=self.text)
        return self

    def __call__(self, case: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(case, refresh=False)
            self.bar.update()

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
