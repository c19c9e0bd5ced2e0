"""Relaxation times and proton densities of the tissues of a head, from `relaxation.csv`.

The table holds the values at 1.5 T. White matter, cortex, muscle, fat and the T2 of fluid are those of BrainWeb
(Kwan, Evans and Pike (1999), IEEE Trans. Med. Imaging 18, 1085-1097), the T1 of fluid is that of Rooney et al. (2007),
Magn. Reson. Med. 57, 308-318, which FLAIR needs; those of nuclei, brain stem, bone and soft tissue are round
numbers between them, set by how these look beside cortex and white matter.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

__all__ = ["relaxation"]


def relaxation(labels: np.ndarray) -> Tensor:
    """T1 and T2 in ms and proton density of the labels [R] of a head label map, float32 [3, R]; NaN where unknown."""
    known, unknown = _by_label(), (math.nan,) * 3
    return torch.tensor([known.get(int(label), unknown) for label in labels], dtype=torch.float32).T.contiguous()


@cache
def _by_label() -> dict[int, tuple[float, float, float]]:
    with files("voxseg.data").joinpath("relaxation.csv").open(encoding="utf-8") as file:
        return {
            int(label): (float(row["t1_ms"]), float(row["t2_ms"]), float(row["density"]))
            for row in csv.DictReader(file)
            for label in row["labels"].split()
        }
