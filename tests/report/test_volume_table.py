import math
import re

import pytest

from voxseg.data.labels import Label, LabelTable
from voxseg.report.volume_table import asymmetry, volume_rows, volume_table

SIDED = LabelTable(
    [
        Label(53, "Right-Hippocampus", "#dcd814", "right", 17),
        Label(17, "Left-Hippocampus", "#dcd814", "left", 53),
        Label(16, "Brain-Stem", "#779fb0"),
        Label(49, "Right-Thalamus", "#00760e", "right", 10),
        Label(5, "putamen_left", "#ec0db0", "left", 6),
        Label(6, "putamen_right", "#0000b0", "right", 5),
    ]
)


def cells(html):
    """Text of the cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.DOTALL)
    strip = [re.findall(r"<(?:td|th)[^>]*>(.*?)</(?:td|th)>", row, flags=re.DOTALL) for row in rows]
    return [[re.sub(r"<[^>]*>", "", cell).replace("\u202f", " ") for cell in row] for row in strip]


def test_asymmetry():
    assert asymmetry(4.2, 3.8) == pytest.approx(0.1)  # 0.4 / 4.0
    assert asymmetry(3.8, 4.2) == pytest.approx(-0.1)
    assert asymmetry(5, 0) == 2
    assert math.isnan(asymmetry(0, 0))


def test_sides_stand_beside_each_other_whatever_their_order():
    rows = volume_rows(SIDED, [380, 420, 100, 7, 1, 3])
    assert [row.name for row in rows] == ["Hippocampus", "Brain-Stem", "Right-Thalamus", "putamen"]
    assert rows[0].classes == (2, 1)
    assert rows[0].voxels == (420, 380)
    assert rows[2].classes == (4,)  # its partner is not in the table


def test_table_with_sides():
    html = volume_table(SIDED, [3800, 4200, 1000, 0, 0, 0], 2.0, "structures")
    table = cells(html)
    assert table[0] == ["structure", "left, ml", "right, ml", "both, ml", "asymmetry"]
    assert table[1] == ["Hippocampus", "8.40", "7.60", "16.00", "10.0 %"]
    assert table[2] == ["Brain-Stem", "", "", "2.00", ""]
    assert table[3] == ["Right-Thalamus", "", "not found", "not found", ""]
    assert table[4] == ["putamen", "not found", "not found", "not found", ""]
    assert table[5] == ["all structures", "", "", "18.00", ""]
    assert html.count('data-classes="2 1"') == 1
    assert html.count('class="swatch"') == 5  # two for the one whose sides have colours of their own
    assert 'aria-label="show Brain-Stem"' in html


def test_table_without_sides():
    table = cells(
        volume_table(LabelTable([Label(1, "<core>", "#ff0000"), Label(4, "rim", "#00ff00")]), [1_234_567, 1], 1.0, "s")
    )
    assert table == [
        ["structure", "volume, ml", "voxels", "id"],
        ["&lt;core&gt;", "1 234.57", "1 234 567", "1"],
        ["rim", "0.00", "1", "4"],
        ["all structures", "1 234.57", "1 234 568", ""],
    ]
