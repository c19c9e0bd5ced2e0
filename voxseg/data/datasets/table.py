"""Data sets listed in a CSV table: a row a case, a column of paths a modality, and a column of label files."""

from __future__ import annotations

import re
from pathlib import Path

from voxseg.data.datasets.case import Case, Dataset, ImageFile, in_order, left_out
from voxseg.data.datasets.listing import walk
from voxseg.data.paths import SUFFIXES, scan_name
from voxseg.data.written_table import read_written_table
from voxseg.errors import UserError

__all__ = ["find_table"]

LABEL, CASE, SUBJECT = "label", "case", "subject"
EXAMPLE = "write for example case,flair,t1ce,label in the first line"
Rows = list[dict[str, str]]


def find_table(path: Path, labels: bool) -> Dataset | None:
    """The cases of a CSV table.

    Its columns are `label`, one a modality (every other column with paths of scans in it), and if wanted `case` and
    `subject`; further columns are not looked at. Paths are relative to the table. Commas, semicolons or tabs.

    Args:
        path: the table, or a folder with exactly one such table directly in it.
        labels: whether labels are wanted; otherwise the column may be missing.

    Returns:
        None if `path` is a folder without such a table.

    Raises:
        UserError: if the table cannot be read, lacks a column or has a row that makes no sense, or there are two.
    """
    if path.is_dir():
        _, names = next(walk(path, 0))
        files = [path / name for name in names if name.lower().endswith((".csv", ".tsv"))]
        tables = [file for file in files if _is_table(file, labels)]
        if len(tables) > 1:
            listed = ", ".join(table.name for table in tables)
            raise UserError(path, f"holds {len(tables)} tables of cases ({listed})", "give the path of one of them")
        if not tables:
            return None
        path = tables[0]
    rows = [row for _, row in read_written_table(path, known=(LABEL, CASE, SUBJECT))[1]]
    columns = list(rows[0]) if rows else []
    modalities = _modalities(rows)
    if not modalities or (labels and LABEL not in columns):
        what = f"a column of images ({', '.join(SUFFIXES)})" if LABEL in columns or not labels else "a column 'label'"
        raise UserError(path, f"has no {what.removeprefix('a ')}", EXAMPLE)
    ids = _ids(path, rows, modalities)
    cases, bare = [], []
    for case, row in zip(ids, rows, strict=True):
        images = {name: ImageFile(path.parent / row[name]) for name in modalities if row[name]}
        label = path.parent / row[LABEL] if row.get(LABEL) else None
        if labels and label is None:
            bare.append(case)
        else:
            cases.append(Case(case, images, label, row.get(SUBJECT) or case))
    findings = []
    if bare and cases:
        findings = [left_out(bare, "label")]
    elif bare:  # the caller says that there are no labels at all
        cases = [Case(case, {}, None, case) for case in bare]
    return Dataset(path, "table", in_order(cases), findings=tuple(findings), title="table of paths")


def _is_table(path: Path, labels: bool) -> bool:
    """Whether a CSV file is meant to list cases; a data set may well have others beside it."""
    try:
        header, _, rest = path.read_text(encoding="utf-8-sig").lower().partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    columns = [cell.strip().strip('"') for cell in re.split(r"[,;\t]", header)]
    return (LABEL in columns or not labels) and any(suffix in rest for suffix in SUFFIXES)


def _modalities(rows: Rows) -> list[str]:
    """The columns with a path of a scan in at least one row."""
    columns = [name for name in (rows[0] if rows else ()) if name and name not in (LABEL, CASE, SUBJECT)]
    return [name for name in columns if any(row[name].lower().endswith(SUFFIXES) for row in rows)]


def _ids(path: Path, rows: Rows, modalities: list[str]) -> list[str]:
    """Ids of the cases: the column `case`, or what tells the files apart: their names or those of their folders."""
    if CASE in rows[0]:
        for number, row in enumerate(rows, start=1):
            if not row[CASE]:
                raise UserError(f"{path}, row {number}", "has no case", "name it, or leave out the column")
        return [row[CASE] for row in rows]
    first = [Path(next((row[name] for name in modalities if row[name]), row.get(LABEL, ""))) for row in rows]
    for ids in ([scan_name(file) for file in first], [file.parent.name for file in first]):
        if len(set(ids)) == len(ids) and all(ids):
            return ids
    return [f"row_{number:0{len(str(len(rows)))}d}" for number in range(1, len(rows) + 1)]
