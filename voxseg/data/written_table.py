"""Tables that people write: CSV with a line of column names. Imports nothing heavy."""

from __future__ import annotations

import csv
from collections.abc import Container
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["read_written_table"]


def read_written_table(
    path: Path, known: Container[str] | None = None
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows with the numbers of their lines.

    Commas, semicolons or tabs, whichever the first line has most of; no spaces around any cell; empty lines are none.

    Args:
        path: of the table, UTF-8, with or without a byte order mark.
        known: column names (in small letters) that may be written in capitals too; by default all.

    Raises:
        UserError: if it cannot be read, has two columns of a name, or a row with too few or too many cells.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError:
        raise UserError(path, "is not UTF-8 text", "save the table as CSV in UTF-8") from None
    reader = csv.reader(lines, delimiter=max(",;\t", key=lines[0].count) if lines else ",")
    header = [cell.strip() for cell in next(reader, [])]
    header = [cell.lower() if known is None or cell.lower() in known else cell for cell in header]
    repeated = next((name for name in header if name and header.count(name) > 1), None)
    if repeated:
        raise UserError(path, f"has two columns {repeated!r}", "name each column once")
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problem = f"has {len(cells)} cells, and the first line {len(header)}"
            raise UserError(f"{path}, line {reader.line_num}", problem, "give each column a cell, empty if need be")
        rows.append((reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return header, rows
