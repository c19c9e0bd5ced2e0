"""`voxseg agreement`: repeated scans of the same people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxseg.cli._result import add_error, add_result, add_warning
from voxseg.errors import UserError
from voxseg.evaluation.agreement_scans import find_repeats

if TYPE_CHECKING:
    from voxseg.evaluation.agreement import Agreement

FILES = ("agreement.csv", "agreement_pairs.csv", "agreement.json")
PICTURE = "bland_altman.png"


def agreement(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN|FOLDER|TABLE...",
            help="One folder a session (files of the same name are one person's); or one folder with names like "
            "sub-01_ses-1_seg.nii.gz; or a CSV table with the columns subject, session, file and, for change over "
            "time, days or age; or the files of one person. Files are segmentations or NAME_volumes.tsv.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Write tables (CSV), everything (JSON) and the Bland-Altman picture there.",
            readable=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the ids mean: a labels.csv. By default what the files say, otherwise FreeSurfer's table.",
            readable=False,
        ),
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option("--overlap", help="Dice of successive scans too, for segmentations that lie in one grid."),
    ] = False,
) -> None:
    """Compare volumes of repeated scans.

    How well they agree from test to retest, or how they change over time.

    For each structure volume differences, coefficient of repeatability, within-subject variation, intraclass
    correlations with intervals, Bland-Altman limits, and with days or age the change a year. Files that cannot be used
    are listed, the rest is compared, and the exit code is 1.
    """
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"-o {output}", "is a file", "give a folder")
    repeats = find_repeats(scans)
    from voxseg.data.labels import LabelTable

    table = LabelTable.read(labels) if labels is not None else None
    from voxseg.evaluation.agreement_run import assess

    result = assess(repeats, table, overlap, progress=True)
    _print(result)
    files: list[Path] = []
    if output is not None:
        files = written = _write(output, result)
        print(f"\nwrote {', '.join(path.name for path in written)} to {output}")
    from voxseg.evaluation.agreement_tables import as_json

    add_result(files=files, agreement=as_json(result))
    for note in result.notes:
        add_warning("agreement", note)
        print(f"voxseg: {note}", file=sys.stderr)
    if result.failures:
        count = len(result.failures)
        print(f"voxseg: {count} file{'s' * (count != 1)} could not be used:", file=sys.stderr)
        for failure in result.failures:
            add_error("agreement", failure)
            print(f"  {failure}", file=sys.stderr)
        raise typer.Exit(1)


def _print(result: Agreement) -> None:
    """The table, and what it is about."""
    from voxseg.evaluation.agreement_tables import screen_table

    people = f"{result.subjects} subject{'s' * (result.subjects != 1)}"
    sessions = result.repeats.sessions
    named = f" ({', '.join(sessions)})" if len(sessions) <= 6 else ""
    print(f"{people}, {result.scans} scans{named}\n")
    print("\n".join(screen_table(result)))
    if result.not_found:
        print(f"not found in any scan: {', '.join(result.not_found)}")


def _write(folder: Path, result: Agreement) -> list[Path]:
    """The tables, and the picture if there are two subjects for it; all or none."""
    from voxseg.data.staging import staged
    from voxseg.evaluation.agreement_tables import as_json, pairs_csv, structures_csv
    from voxseg.report.bland_altman import draw_bland_altman
    from voxseg.report.outputs import make_folder

    drawn = any(structure.subjects > 1 for structure in result.structures)
    make_folder(folder)
    paths = [folder / name for name in (*FILES, *([PICTURE] if drawn else []))]
    with staged(*paths) as (structures, pairs, everything, *picture):
        structures.write_text(structures_csv(result), encoding="utf-8", newline="\n")
        pairs.write_text(pairs_csv(result), encoding="utf-8", newline="\n")
        text = json.dumps(as_json(result), indent=1, ensure_ascii=False) + "\n"
        everything.write_text(text, encoding="utf-8", newline="\n")
        if drawn:
            title = f"Repeated scans of {result.subjects} subjects"
            draw_bland_altman(picture[0], result, title)
    return paths
