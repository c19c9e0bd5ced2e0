"""The table of volumes that goes with a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxseg.data.labels import LabelTable

__all__ = ["write_volumes"]

COLUMNS = ("id", "name", "side", "voxels", "mm3")


def write_volumes(path: Path, table: LabelTable, counts: Sequence[int], voxel_volume: float) -> None:
    """Write one line per label, tab-separated, below the line `id name side voxels mm3`; what was not found has 0.

    `mm3` is the volume in cubic millimetres: voxels times the volume of one.

    Args:
        path: of the `.tsv` file.
        table: the labels.
        counts: voxels of each label, in the order of the table.
        voxel_volume: cubic millimetres of a voxel.
    """
    lines = ["\t".join(COLUMNS)]
    for label, count in zip(table, counts, strict=True):
        lines.append(f"{label.id}\t{label.name}\t{label.side}\t{count}\t{count * voxel_volume:.2f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
