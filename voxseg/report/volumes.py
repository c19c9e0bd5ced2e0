"""The table of volumes that goes with a segmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxseg.data.labels import LabelTable

__all__ = ["write_volumes"]

COLUMNS = ("id", "name", "side", "voxels", "mm3")


def write_volumes(
    path: Path,
    table: LabelTable,
    counts: Sequence[int],
    voxel_volume: float,
    confidence: Sequence[float] | NDArray[np.float64] | None = None,
) -> None:
    """Write one line per label, tab-separated, below the line `id name side voxels mm3`; what was not found has 0.

    `mm3` is the volume in cubic millimetres: voxels times the volume of one.

    Args:
        path: of the `.tsv` file.
        table: the labels.
        counts: voxels of each label, in the order of the table.
        voxel_volume: cubic millimetres of a voxel.
        confidence: the Dice to expect of each label, NaN for none; a further column, if there is one for each label.
    """
    sure = confidence if confidence is not None and len(confidence) == len(table) else None
    lines = ["\t".join(COLUMNS if sure is None else (*COLUMNS, "confidence"))]
    for row, (label, count) in enumerate(zip(table, counts, strict=True)):
        cells = [label.id, label.name, label.side, count, f"{count * voxel_volume:.2f}"]
        if sure is not None:
            cells.append("n/a" if math.isnan(sure[row]) else f"{sure[row]:.3f}")
        lines.append("\t".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
