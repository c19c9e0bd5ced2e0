"""How classes with sides follow from structures and a side."""

import numpy as np
import pytest

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.sides import LEFT, NEITHER, RIGHT, SideClasses

SCHEME = LabelScheme(classes=[16, 2, 10], merge={77: 2, 78: 41}, side_output=True)


def test_structures_come_first_and_their_right_sides_after_them() -> None:
    assert SCHEME.predicted().ids == [16, 2, 10, 41, 49]
    assert SCHEME.channels == 5  # background, three structures, the side
    sides = SCHEME.sides
    assert sides is not None
    assert sides.structure.tolist() == [0, 1, 2, 3, 2, 3]
    assert sides.side.tolist() == [NEITHER, NEITHER, LEFT, LEFT, RIGHT, RIGHT]
    assert sides.right.tolist() == [0, 1, 4, 5]
    assert sides.paired.tolist() == [False, False, True, True]
    assert sides.channels == 4


def test_classes_and_back() -> None:
    """Structure and side say the same as the class, for every class."""
    sides = SideClasses.of(LabelScheme.brain().model_copy(update={"side_output": True}).predicted())
    classes = np.arange(len(sides.structure))
    told = np.where(sides.side == RIGHT, sides.right[sides.structure], sides.structure)
    assert told.tolist() == classes.tolist()
    assert len(classes) == 30


def test_ids_of_both_sides_are_kept_and_merged_ids_go_to_the_side_named() -> None:
    ids = np.array([16, 2, 41, 10, 49, 77, 78, 11, 50, 0])
    assert SCHEME.predicted().to_ids(SCHEME.to_classes(ids)).tolist() == [16, 2, 41, 10, 49, 2, 41, 0, 0, 0]


def test_a_mirror_swaps_the_sides() -> None:
    assert SCHEME.predicted().mirrored().tolist() == [0, 1, 4, 5, 2, 3]


def test_an_id_merged_into_a_left_one_takes_its_own_side() -> None:
    """The right inferior horn (44) goes with the right ventricle, because the left one (5) goes with the left."""
    scheme = LabelScheme(classes=[4], merge={5: 4}, side_output=True)
    assert scheme.predicted().to_ids(scheme.to_classes(np.array([4, 5, 43, 44]))).tolist() == [4, 4, 43, 43]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"merge_sides": False}, "set merge_sides to true"),
        ({"classes": [16]}, "needs a class with a partner"),
        ({"regions": [{"name": "all", "ids": [2, 10], "label": 2}]}, "not for regions"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LabelScheme(**{"classes": [2, 10], "side_output": True, **changes})


def test_a_table_in_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="structures first"):
        SideClasses.of(LabelTable.freesurfer().select([2, 41, 16]))
    with pytest.raises(ValueError, match="structures first"):
        SideClasses.of(LabelTable.freesurfer().select([2, 16]))
