from __future__ import annotations

import pytest

from voxseg.data.label_scheme import LabelEntry, LabelScheme, Region
from voxseg.evaluation.structures import structures_of


def paired(left: str, right: str) -> LabelScheme:
    table = (
        LabelEntry(id=5, name=right, side="right", partner=9),
        LabelEntry(id=9, name=left, side="left", partner=5),
        LabelEntry(id=7, name="Brain-Stem"),
    )
    return LabelScheme(classes=[5, 7, 9], table=table, merge_sides=False)


def test_regions_then_labels_then_pairs_with_dense_classes() -> None:
    table = (
        LabelEntry(id=1, name="core", side="left", partner=2),
        LabelEntry(id=2, name="core-r", side="right", partner=1),
        LabelEntry(id=4, name="rim", colour="#AA0000"),
    )
    regions = (Region(name="whole", ids=(4, 1), label=4), Region(name="part", ids=(1,), label=1))
    scheme = LabelScheme(classes=[4, 1, 2], table=table, regions=regions, merge_sides=False)
    found = [(s.name, s.kind, s.classes, s.side) for s in structures_of(scheme)]
    assert found == [
        ("whole", "region", (1, 2), "none"),
        ("part", "region", (2,), "none"),
        ("rim", "label", (1,), "none"),
        ("core", "label", (2,), "left"),
        ("core-r", "label", (3,), "right"),
        ("core and core-r", "both sides", (2, 3), "none"),
    ]
    assert structures_of(scheme)[0].colour == "#aa0000"


def test_brain_with_sides_merged_has_no_pairs_and_with_sides_has() -> None:
    assert {s.kind for s in structures_of(LabelScheme.brain())} == {"label"}
    sides = LabelScheme(classes=[2, 41, 10, 49, 14], merge_sides=False)
    names = [s.name for s in structures_of(sides) if s.kind == "both sides"]
    assert names == ["Cerebral-White-Matter", "Thalamus"]


def test_half_a_pair_is_no_pair() -> None:
    scheme = LabelScheme(classes=[2, 49], merge_sides=False)
    assert [s.kind for s in structures_of(scheme)] == ["label", "label"]


@pytest.mark.parametrize(
    ("left", "right", "name"),
    [
        ("Left-Inf-Lat-Vent", "Right-Inf-Lat-Vent", "Inf-Lat-Vent"),
        ("thalamus_left", "thalamus_right", "thalamus"),
        ("hippocampus L", "hippocampus R", "hippocampus"),
        ("ctx-lh-bankssts", "ctx-rh-bankssts", "ctx-bankssts"),
        ("lh.V1", "rh.V1", "V1"),
        ("left", "right", "left and right"),
        ("Lthal", "Rthal", "Lthal and Rthal"),
    ],
)
def test_name_of_both_sides(left: str, right: str, name: str) -> None:
    (pair,) = [s for s in structures_of(paired(left, right)) if s.kind == "both sides"]
    assert (pair.name, pair.classes) == (name, (1, 3))


def test_names_are_never_given_twice() -> None:
    table = (
        LabelEntry(id=1, name="core"),
        LabelEntry(id=2, name="core"),
        LabelEntry(id=3, name="Left-core", side="left", partner=4),
        LabelEntry(id=4, name="Right-core", side="right", partner=3),
    )
    regions = (Region(name="core", ids=(1, 2), label=1),)
    scheme = LabelScheme(classes=[1, 2, 3, 4], table=table, regions=regions, merge_sides=False)
    names = [s.name for s in structures_of(scheme)]
    assert names == ["core", "core (label)", "core (label 2)", "Left-core", "Right-core", "core (both sides)"]
