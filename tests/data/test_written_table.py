from __future__ import annotations

from pathlib import Path

import pytest

from voxseg.data.written_table import read_written_table
from voxseg.errors import UserError


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_and_rows_with_their_lines(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "cases.csv"
    text = "\ufeffCase , T1\na, one.nii\n\n , \n b ,\n"
    path.write_text(text.replace(",", delimiter), encoding="utf-8")
    assert read_written_table(path) == (
        ["case", "t1"],
        [(2, {"case": "a", "t1": "one.nii"}), (5, {"case": "b", "t1": ""})],
    )
    assert read_written_table(path, known=("case",))[0] == ["case", "T1"]


def test_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    assert read_written_table(tmp_path / "empty.csv") == ([], [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("case,Case\na,b\n", r"t\.csv: has two columns 'case'"),
        ("case,label\na\n", r"t\.csv, line 2: has 1 cells, and the first line 2"),
        ("case,label\na,b\n\na,b,c\n", r"t\.csv, line 4: has 3 cells, and the first line 2"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_written_table(tmp_path / "t.csv")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"case\n\xff\xfe\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_written_table(tmp_path / "t.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_written_table(tmp_path / "missing.csv")
