"""Structures that are learned with both sides as one: how classes with sides follow from a structure and a side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxseg.data.labels import LabelTable

__all__ = ["SideClasses"]

NEITHER, LEFT, RIGHT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class SideClasses:
    """Between the dense classes of a label table with sides and the channels of a network that knows structures only.

    The table lists the structures first, paired ones by their left label, then the right labels. The network's channel
    0 is the background, channel k the k-th structure.

    Attributes:
        structure: structure channel of each class, uint8 [classes + 1].
        side: 0 for a class without a side, 1 for left, 2 for right, uint8 [classes + 1].
        right: class of each structure channel on the right, its own where it has no sides, uint8 [structures + 1].
    """

    structure: NDArray[np.uint8]
    side: NDArray[np.uint8]
    right: NDArray[np.uint8]

    @classmethod
    def of(cls, table: LabelTable) -> SideClasses:
        """Read the pairs from a table.

        Raises:
            ValueError: if the table has no pair, or a right label before a left or an unpaired one.
        """
        lefts = [label for label in table if label.side != "right" or label.partner not in table]
        position = {label.id: k for k, label in enumerate(lefts, start=1)}
        if len(lefts) == len(table) or list(table)[: len(lefts)] != lefts:
            raise ValueError("the table does not list structures first and then their right labels")
        structure = np.arange(len(table) + 1, dtype=np.uint8)
        side = np.zeros(len(table) + 1, dtype=np.uint8)
        right = np.arange(len(lefts) + 1, dtype=np.uint8)
        for index, label in enumerate(list(table)[len(lefts) :], start=len(lefts) + 1):
            assert label.partner is not None
            left = position[label.partner]
            structure[index], side[index], side[left], right[left] = left, RIGHT, LEFT, index
        return cls(structure, side, right)

    @property
    def channels(self) -> int:
        """Structures and the background."""
        return len(self.right)

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Whether a structure channel has sides, bool [structures + 1]."""
        paired: NDArray[np.bool_] = self.right != np.arange(len(self.right))
        return paired
