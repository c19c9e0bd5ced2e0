"""How classes with sides follow from a structure and a side."""

import numpy as np
import pytest

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.sides import LEFT, NEITHER, RIGHT, SideClasses
from voxseg.errors import UserError


def test_structures_come_first_and_their_right_sides_after_them() -> None:
    table = LabelScheme(classes=[16, 2, 10]).with_sides()
    assert table.ids == [16, 2, 10, 41, 49]
    sides = SideClasses.of(table)
    assert sides.structure.tolist() == [0, 1, 2, 3, 2, 3]
    assert sides.side.tolist() == [NEITHER, NEITHER, LEFT, LEFT, RIGHT, RIGHT]
    assert sides.right.tolist() == [0, 1, 4, 5]
    assert sides.paired.tolist() == [False, False, True, True]
    assert sides.channels == 4


def test_structure_and_side_say_the_same_as_the_class() -> None:
    sides = SideClasses.of(LabelScheme.brain().with_sides())
    classes = np.arange(len(sides.structure))
    told = np.where(sides.side == RIGHT, sides.right[sides.structure], sides.structure)
    assert told.tolist() == classes.tolist()
    assert len(classes) == 30


def test_structures_keep_their_numbers() -> None:
    """Class k of what is learned is class k of the table with sides, so that either can be read by the other."""
    scheme = LabelScheme.brain()
    assert scheme.with_sides().ids[:16] == scheme.predicted().ids


@pytest.mark.parametrize("scheme", [LabelScheme(classes=[16]), LabelScheme(classes=[2, 41], merge_sides=False)])
def test_labels_without_merged_sides_are_refused(scheme: LabelScheme) -> None:
    with pytest.raises(UserError, match="no class with both sides as one"):
        scheme.with_sides()


@pytest.mark.parametrize("ids", [[2, 41, 16], [2, 16]])
def test_a_table_in_another_order_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="structures first"):
        SideClasses.of(LabelTable.freesurfer().select(ids))


def test_apart_reads_references_with_both_sides() -> None:
    scheme = LabelScheme.brain().apart()
    assert scheme.predicted() == LabelScheme.brain().with_sides()
    ids = np.array([4, 5, 43, 44, 31, 63, 2, 41, 251, 16, 24, 0])
    assert scheme.predicted().to_ids(scheme.to_classes(ids)).tolist() == [4, 4, 43, 43, 4, 43, 2, 41, 2, 16, 0, 0]
