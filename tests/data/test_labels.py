from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from voxseg.data.labels import Label, LabelTable, take
from voxseg.errors import UserError

HEADER = "id,name,colour,side,partner\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestFreesurferTable:
    def test_known_rows(self) -> None:
        table = LabelTable.freesurfer()
        assert table.by_id(17) == Label(17, "Left-Hippocampus", "#dcd814", "left", 53)
        assert table.by_id(16).partner is None
        assert table.by_id(16).side == "none"

    def test_partners_are_mutual_and_on_the_other_side(self) -> None:
        table = LabelTable.freesurfer()
        for label in table:
            if label.side == "none":
                assert label.partner is None
                continue
            partner = table.by_id(label.partner)
            assert partner.partner == label.id
            assert {label.side, partner.side} == {"left", "right"}
            assert label.name.split("-", 1)[1] == partner.name.split("-", 1)[1]

    def test_covers_the_shared_data(self, shared_data: Path) -> None:
        rows = np.loadtxt(shared_data / "head_label_maps" / "labels.csv", delimiter=",", skiprows=1, dtype=int)
        assert set(rows[:, 3]) - {0} <= set(LabelTable.freesurfer().ids)


class TestLabelTable:
    def test_classes_and_back(self) -> None:
        table = LabelTable.freesurfer().select([16, 2, 255])
        ids = np.array([[0, 2], [16, 255]], dtype=np.int16)
        classes = table.to_classes(ids)
        assert classes.dtype == np.uint8
        assert classes.tolist() == [[0, 2], [1, 3]]
        assert np.array_equal(table.to_ids(classes), ids)

    @pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.int16), (40000, np.int32)])
    def test_smallest_type_of_ids(self, largest: int, dtype: type) -> None:
        table = LabelTable([Label(1, "a", "#000000"), Label(largest, "b", "#ffffff")])
        result = table.to_ids(np.array([0, 1, 2]))
        assert result.dtype == dtype
        assert result.tolist() == [0, 1, largest]

    def test_unknown_ids_become_background(self) -> None:
        table = LabelTable.freesurfer().select([2, 3])
        array = np.array([-5, 0, 1, 2, 3, 4, 1000, 2**31 - 1])
        assert table.to_classes(array).tolist() == [0, 0, 0, 1, 2, 0, 0, 0]

    def test_float_labels_are_refused(self) -> None:
        with pytest.raises(ValueError, match="whole numbers"):
            LabelTable.freesurfer().to_classes(np.array([1.0, 2.0]))

    def test_selecting_what_is_not_there(self) -> None:
        with pytest.raises(UserError, match="label 999: is not in the label table"):
            LabelTable.freesurfer().select([2, 999])

    def test_mirrored_swaps_sides(self) -> None:
        table = LabelTable.freesurfer().select([16, 42, 3, 10])
        assert table.mirrored().tolist() == [0, 1, 3, 2, 4]
        assert table.has_sides

    def test_repeated_ids_and_too_many(self) -> None:
        with pytest.raises(ValueError, match="same id"):
            LabelTable([Label(1, "a", "#000000"), Label(1, "b", "#000000")])
        with pytest.raises(ValueError, match="255"):
            LabelTable(Label(k, "a", "#000000") for k in range(1, 300))


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        table = LabelTable.freesurfer()
        table.write(tmp_path / "labels.csv")
        assert LabelTable.read(tmp_path / "labels.csv") == table
        assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]

    def test_name_with_a_comma(self, tmp_path: Path) -> None:
        table = LabelTable([Label(1, 'core, "dead"', "#ff0000")])
        table.write(tmp_path / "labels.csv")
        assert LabelTable.read(tmp_path / "labels.csv") == table

    def test_sides_may_be_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "labels.csv", "id,name,colour\n1,tumour,#FF0000\n")
        assert list(LabelTable.read(path)) == [Label(1, "tumour", "#ff0000")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,name\n1,a\n", "labels.csv: has no column 'colour'"),
            ("", "has no column 'id'"),
            (HEADER, "has 0 labels"),
            (HEADER + "x,a,#000000,none,\n", "line 2, id: is 'x'"),
            (HEADER + "0,a,#000000,none,\n", "line 2, id: is '0'"),
            (HEADER + "1.5,a,#000000,none,\n", "line 2, id: is '1.5'"),
            (HEADER + "1,a,red,none,\n", "line 2, colour: is 'red'"),
            (HEADER + "1,a,#000000,top,\n", "line 2, side: is 'top'"),
            (HEADER + "1,,#000000,none,\n", "line 2, name: is empty"),
            (HEADER + "1,a,#000000,left,b\n", "line 2, partner: is 'b'"),
            (HEADER + "1,a,#000000,none,\n1,b,#000000,none,\n", "line 3: repeats the id 1"),
            (HEADER + "1\n", "line 2, colour: is ''"),
        ],
    )
    def test_mistakes_name_the_line(self, tmp_path: Path, text: str, message: str) -> None:
        path = write(tmp_path / "labels.csv", text)
        with pytest.raises(UserError, match=re.escape(message)):
            LabelTable.read(path)

    def test_missing_or_not_text(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            LabelTable.read(tmp_path / "nowhere.csv")
        (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(UserError, match="cannot be read"):
            LabelTable.read(tmp_path / "labels.csv")
        with pytest.raises(UserError, match="cannot be read"):
            LabelTable.read(tmp_path)


def test_take_accepts_every_integer_type() -> None:
    lookup = np.array([0, 5, 6], dtype=np.uint8)
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, bool):
        assert take(lookup, np.array([0, 1], dtype=dtype)).tolist() == [0, 5]
