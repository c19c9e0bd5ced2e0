"""Which ids of a data set become which classes and regions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from voxseg.data.label_scheme import PALETTE, LabelScheme
from voxseg.data.labels import Label, LabelTable
from voxseg.errors import UserError

TUMOUR = {
    "classes": [1, 2, 4],
    "unlisted": "refuse",
    "table": [{"id": 1, "name": "core"}, {"id": 2, "name": "oedema"}, {"id": 4, "name": "enhancing"}],
    "regions": [
        {"name": "whole", "ids": [1, 2, 4], "label": 2},
        {"name": "core", "ids": [1, 4], "label": 1},
        {"name": "enhancing", "ids": [4], "label": 4},
    ],
}
PAIR = [
    {"id": 3, "name": "Putamen left", "colour": "#AABBCC", "side": "left", "partner": 8},
    {"id": 8, "name": "Putamen right", "side": "right", "partner": 3},
    {"id": 5, "name": "Stem"},
]


class TestClasses:
    def test_brain(self) -> None:
        scheme = LabelScheme.brain()
        table = scheme.predicted()
        assert len(table) == 16
        assert scheme.channels == 17
        assert scheme.outputs == table.names
        assert not table.has_sides
        assert table.by_id(17).name == "Hippocampus"
        assert table.by_id(14).name == "3rd-Ventricle"
        ids = np.array([2, 41, 77, 251, 4, 43, 5, 44, 31, 63, 53, 24, 0, 9999])
        restored = table.to_ids(scheme.to_classes(ids))
        assert restored.tolist() == [2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 17, 0, 0, 0]

    def test_sides_apart(self) -> None:
        scheme = LabelScheme(classes=[17, 53], merge_sides=False)
        assert scheme.to_classes(np.array([17, 53, 2])).tolist() == [1, 2, 0]
        assert scheme.predicted() == LabelTable.freesurfer().select([17, 53])
        assert scheme.predicted().mirrored().tolist() == [0, 2, 1]

    def test_lookup_ends_where_it_is_told(self) -> None:
        lookup = LabelScheme(classes=[2]).lookup(41)
        assert lookup.shape == (42,)
        assert np.flatnonzero(lookup).tolist() == [2, 41]
        assert np.flatnonzero(LabelScheme(classes=[2]).lookup(10)).tolist() == [2]

    def test_float_labels_are_refused(self) -> None:
        with pytest.raises(ValueError, match="whole numbers"):
            LabelScheme(classes=[2]).to_classes(np.array([2.0]))

    def test_right_side_of_a_merged_pair_is_refused(self) -> None:
        with pytest.raises(UserError, match="Right-Hippocampus, but the sides are merged; give the id of the left"):
            LabelScheme(classes=[53]).predicted()

    def test_unknown_class(self) -> None:
        with pytest.raises(UserError, match="label 9999"):
            LabelScheme(classes=[9999]).predicted()

    def test_unlisted_ids(self) -> None:
        assert LabelScheme(classes=[17]).unknown({0, 17, 53, 2, 9999}) == []
        strict = LabelScheme(classes=[17], merge={5: 17, 7: 0}, unlisted="refuse")
        assert strict.unknown({0, 17, 53, 5, 7}) == []
        assert strict.unknown({0, 17, 9999, 2, -3}) == [-3, 2, 9999]
        assert strict.to_classes(np.array([5, 7, 53])).tolist() == [1, 0, 1]


class TestOwnTable:
    def test_names_and_colours(self) -> None:
        scheme = LabelScheme(classes=[5, 3, 8], merge_sides=False, table=PAIR)
        assert list(scheme.predicted()) == [
            Label(5, "Stem", PALETTE[2]),
            Label(3, "Putamen left", "#aabbcc", "left", 8),
            Label(8, "Putamen right", PALETTE[1], "right", 3),
        ]
        assert scheme.predicted().mirrored().tolist() == [0, 1, 3, 2]

    def test_merged_sides(self) -> None:
        scheme = LabelScheme(classes=[5, 3], table=PAIR)
        assert list(scheme.predicted()) == [Label(5, "Stem", PALETTE[2]), Label(3, "Putamen", "#aabbcc")]
        assert scheme.to_classes(np.array([0, 3, 8, 5, 17])).tolist() == [0, 2, 2, 1, 0]

    def test_merging_of_ids_without_a_row(self) -> None:
        scheme = LabelScheme(classes=[3, 5], merge={200: 5, 300: 8}, table=PAIR)
        assert scheme.to_classes(np.array([200, 300, 8], dtype=np.uint16)).tolist() == [2, 1, 1]

    def test_freesurfer_is_not_asked(self) -> None:
        with pytest.raises(UserError, match="label 17: is not in the label table; use one of 3, 8, 5"):
            LabelScheme(classes=[17], table=PAIR).predicted()

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ([*PAIR, {"id": 5, "name": "again"}], "id 5 is given twice"),
            ([PAIR[0]], "3 has the partner 8, which has no row"),
            ([PAIR[0], PAIR[1] | {"partner": None}], "need each other as partner"),
            ([PAIR[0], PAIR[1] | {"side": "left"}], "one side: left, one right"),
            ([{"id": 0, "name": "a"}], "greater than or equal to 1"),
            ([{"id": 1, "name": ""}], "at least 1 character"),
            ([{"id": 1, "name": "a", "colour": "red"}], "match pattern"),
            ([{"id": 1, "name": "a", "color": "#000000"}], "color"),
        ],
    )
    def test_wrong_rows(self, table: list, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            LabelScheme(classes=[3], table=table)


class TestRegions:
    def test_outputs(self) -> None:
        scheme = LabelScheme(**TUMOUR)
        assert scheme.channels == 3
        assert scheme.outputs == ["whole", "core", "enhancing"]
        assert scheme.predicted().ids == [1, 2, 4]
        assert scheme.unknown({0, 1, 3, 4}) == [3]

    def test_membership(self) -> None:
        expected = [[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]  # background, then 1, 2, 4
        assert LabelScheme(**TUMOUR).membership().astype(int).tolist() == expected
        assert LabelScheme(classes=[1, 2], table=TUMOUR["table"]).membership().shape == (3, 0)

    def test_painting_in_order_gives_the_classes_back(self) -> None:
        scheme = LabelScheme(**TUMOUR)
        classes = np.arange(4)
        painted = np.zeros(4, dtype=int)
        for region, inside in zip(scheme.regions, scheme.membership()[classes].T, strict=True):
            painted[inside] = 1 + scheme.classes.index(region.label)
        assert painted.tolist() == classes.tolist()

    @pytest.mark.parametrize(
        ("regions", "message"),
        [
            ([{"name": "a", "ids": [3], "label": 1}], "'a' has the id 3, which classes lacks"),
            ([{"name": "a", "ids": [1], "label": 3}], "'a' has the id 3, which classes lacks"),
            ([{"name": "a", "ids": [1], "label": 2}], "painted with 2, which is not in its ids"),
            ([{"name": "a", "ids": [], "label": 2}], "at least 1 item"),
            ([{"name": "a", "ids": [1], "label": 1}, {"name": "a", "ids": [2], "label": 2}], "'a' is given twice"),
            (TUMOUR["regions"][::-1], "'enhancing' would be painted over by 'core'"),
        ],
    )
    def test_wrong_regions(self, regions: list, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            LabelScheme(**TUMOUR | {"regions": regions})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": []}, "at least 1 item"),
        ({"classes": [2, 2]}, "2 is given twice"),
        ({"classes": [0, 2]}, "at least 1, got 0"),
        ({"classes": [2], "merged": {}}, "merged"),
        ({"classes": [2], "merge": {0: 2}}, "greater than or equal to 1"),
        ({"classes": [2], "unlisted": "ignore"}, "'background' or 'refuse'"),
    ],
)
def test_wrong_values(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LabelScheme(**values)


def test_schemes_survive_files_and_processes() -> None:
    scheme = LabelScheme(**TUMOUR)
    scheme.predicted()  # fills the cache, which must not tell two schemes apart
    assert LabelScheme.model_validate(scheme.model_dump(mode="json")) == scheme
    assert pickle.loads(pickle.dumps(scheme)) == scheme
