"""Tables of pairs: a row a case, with the files of its prediction and its reference. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from voxseg.data.written_table import read_written_table
from voxseg.errors import UserError
from voxseg.evaluation.file_names import LABELS, NamedFile, named_file
from voxseg.evaluation.pairs import Pair, Pairing, References

__all__ = ["read_table", "references_of"]

COLUMNS = ("case", "prediction", "reference")


def read_table(path: Path, model: str = "") -> Pairing:
    """The pairs of a CSV or TSV table with the columns case, prediction, reference; paths are relative to the table.

    Raises:
        UserError: if it cannot be read, lacks a column, or names a case twice.
    """
    header, rows = read_written_table(path)
    for name in COLUMNS[1:]:
        if name not in header:
            raise UserError(path, f"has no column {name!r}", f"the first line has to be {','.join(COLUMNS)}")
    pairs: list[Pair] = []
    problems: list[tuple[str, str]] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        names = named_file(Path(row["prediction"] or row["reference"] or "?"), Path()).names
        case = row.get("case") or next(iter(names), "").split("/")[-1]
        if not case:
            raise UserError(f"{path}, line {line}", "does not name the case", "fill in the column case")
        if case in lines:
            problem = f"repeats the case {case} of line {lines[case]}"
            raise UserError(f"{path}, line {line}", problem, "name each case once, in a column case")
        lines[case] = line
        lacking = [name for name in COLUMNS[1:] if not row[name]]
        if lacking:
            problems.append((case, f"line {line} of {path.name} has no {' and no '.join(lacking)}; fill it in"))
        else:
            pairs.append(Pair(case, path.parent / row["prediction"], path.parent / row["reference"], model))
    if not pairs:
        raise UserError(path, "has no complete row", f"write {','.join(COLUMNS)} in the first line and a row a case")
    pairs.sort(key=lambda pair: pair.case)
    return Pairing(tuple(pairs), tuple(sorted(problems)))


def references_of(path: Path, pairing: Pairing) -> References:
    """The references of a table, for the predictions of another model."""
    files = tuple(NamedFile(pair.reference, LABELS, (pair.case,), ()) for pair in pairing.pairs)
    return References(path, files, cases={pair.reference: pair.case for pair in pairing.pairs})
