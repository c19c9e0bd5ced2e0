"""`voxseg evaluate --field`: predicted fields against references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxseg.cli._progress import say
from voxseg.cli._result import USAGE, add_error, add_result
from voxseg.errors import UserError

if TYPE_CHECKING:
    from voxseg.evaluation.pairs import Pair

__all__ = ["evaluate_fields"]

CASES = "fields.csv"


def evaluate_fields(
    pairs: Sequence[Pair], problems: Sequence[tuple[str, str]], field: str, output: Path | None
) -> None:
    """Score fields, print a table, and write it if that is wanted.

    Args:
        pairs: what is compared with what.
        problems: cases that could not be matched, and why.
        field: what the fields are, as the user says it.
        output: folder for `fields.csv`.

    Raises:
        UserError: if `field` is none, or the table cannot be written.
    """
    from voxseg.data.staging import write_text
    from voxseg.evaluation.fields import field_of, field_table, mean_errors, score_field
    from voxseg.report.outputs import make_folder

    target = field_of(field)
    scores, failed = [], list(problems)
    for pair in pairs:
        try:
            scores.append(score_field(pair, target))
        except UserError as error:
            failed.append((pair.case, str(error)))
    names = target.error_names()
    width = max(4, *(len(score.case) for score in scores)) if scores else 4
    print("  ".join([f"{'case':<{width}}", f"{'voxels':>9}", *(f"{name.replace('_', ' '):>14}" for name in names)]))
    for score in scores:
        cells = [_cell(score.errors[name]) for name in names]
        print("  ".join([f"{score.case:<{width}}", f"{score.voxels:>9,}", *cells]))
        add_result(case=score.case, voxels=score.voxels, **score.errors)
    means = mean_errors(scores, target)
    print("  ".join([f"{'mean':<{width}}", " " * 9, *(_cell(means[name]) for name in names)]))
    if output is not None and scores:
        make_folder(output)
        write_text(output / CASES, field_table(scores, target))
        print(f"wrote {output / CASES}")
    for case, problem in failed:
        add_error(case, problem, exit_code=USAGE)
        say(f"voxseg: {case}: {problem}", error=True)
    if failed:
        raise typer.Exit(1 if scores else 2)


def _cell(value: float) -> str:
    return f"{'–':>14}" if math.isnan(value) else f"{value:>14.4g}"
