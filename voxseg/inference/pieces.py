"""The largest connected piece of a segmentation, and all the others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

__all__ = ["THRESHOLD", "found", "keep_largest", "largest_and_others"]

THRESHOLD = 0.5  # probability above which a voxel lies in a region


def found(probabilities: Tensor, regions: bool = False) -> Tensor:
    """Where the probabilities `[K, ...]` say that there is any structure, `[...]` bool.

    Args:
        probabilities: of exclusive classes, class 0 the background; or one of each region.
        regions: whether they are those of regions.
    """
    return (probabilities > THRESHOLD).any(0) if regions else probabilities.argmax(0).ne(0)


def largest_and_others(inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """The largest piece (26 neighbours; of equal ones the first) and all others; None if there is one at most."""
    pieces, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count < 2:
        return None
    sizes = torch.bincount(torch.from_numpy(pieces).flatten(), minlength=count + 1)
    sizes[0] = 0
    largest = pieces == int(sizes.argmax())
    return largest, inside & ~largest


def keep_largest(probabilities: Tensor, regions: bool = False) -> Tensor:
    """Make background, in place, of all structures but the largest piece of their union (26 neighbours).

    Args:
        probabilities: `[K, X, Y, Z]`, class 0 the background; or one of each region.
        regions: whether they are those of regions.
    """
    parted = largest_and_others(found(probabilities, regions).cpu().numpy())
    if parted is not None:
        small = torch.from_numpy(parted[1]).to(probabilities.device)
        probabilities[:, small] = 0
        if not regions:
            probabilities[0, small] = 1
    return probabilities
