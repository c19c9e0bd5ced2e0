"""The three planes of pictures, as radiologists show them. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VIEWS", "View"]


@dataclass(frozen=True)
class View:
    """How a plane is shown: the canonical axis that it cuts, those that run across and up, the letters at its sides."""

    name: str
    cut: int
    across: int
    up: int
    mirrored: bool
    letters: tuple[str, str, str, str]  # left, right, bottom, top


# Radiological convention: the patient faces the reader, so the left is on the right of the picture.
VIEWS = (
    View("axial", 2, 0, 1, True, ("R", "L", "P", "A")),
    View("coronal", 1, 0, 2, True, ("R", "L", "I", "S")),
    View("sagittal", 0, 1, 2, True, ("A", "P", "I", "S")),
)
