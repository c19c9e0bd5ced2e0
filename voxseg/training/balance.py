"""Whole cases of very different sizes, spread over processes that wait for each other.

After C. Firoz, F. Pellegrini, ... M. Geiger, "Optimizing data distribution and kernel performance for efficient
training of chemistry foundation models" (arXiv:2504.10700), which does so with molecules: sort by size, then put each
into the bin whose remaining capacity fits best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_plan", "pack", "padding_ratio", "straggler_ratio"]

MIXING = 0.01
"""Sizes that differ by less count as equal when bins are put together to steps, which mixes them between epochs."""


def epoch_plan(sizes: Sequence[int], processes: int, batch: int, random: np.random.Generator) -> list[list[list[int]]]:
    """Which cases each process gets in each step of an epoch; every case comes once.

    The cases are packed into bins, one a process and step, and bins of about the same load make up a step: where a case
    is too large for a bin of average load, the other processes get large ones at the same time. A process so gets
    `batch` cases a step on average: more small ones, or fewer large ones. Both the packing and the order are drawn anew
    each time.

    Args:
        sizes: voxels of each case.
        processes: that wait for each other after each step.
        batch: cases a process and step, on average.
        random: draws the packing and the order.

    Returns:
        numbers of the cases, `[step][process][...]`; no process has none.

    Raises:
        ValueError: there are fewer cases than processes.
    """
    if len(sizes) < processes:
        raise ValueError(f"{processes} processes share {len(sizes)} cases")
    steps = max(1, len(sizes) // (processes * batch))
    bins = pack(sizes, steps * processes, random)
    loads = [sum(sizes[case] for case in members) for members in bins]
    order = np.argsort(np.log(loads) + random.uniform(-MIXING, MIXING, len(bins)))
    grouped = order.reshape(steps, processes)
    # In any order of the steps, and of the processes: not the same one always has the largest bin.
    return [[bins[b] for b in random.permutation(grouped[step])] for step in random.permutation(steps)]


def pack(sizes: Sequence[int], bins: int, random: np.random.Generator) -> list[list[int]]:
    """Decreasing sizes into a given number of bins, none of which stays empty.

    The capacity of a bin is its share of the whole. From the largest item to the smallest, those of the larger half go
    into a random one of the bins that have room for them, which makes the bins differ from epoch to epoch; those of the
    smaller half, and what fits nowhere, into the bin with the most room, which makes the loads equal.

    Args:
        sizes: of the items, all above 0, at least as many as there are bins.
        bins: how many.
        random: draws the bins.

    Returns:
        for each bin the numbers of its items.
    """
    room = np.full(bins, sum(sizes) / bins)
    members: list[list[int]] = [[] for _ in range(bins)]
    empty = bins
    order = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))
    for done, item in enumerate(order):
        candidates = np.arange(0)
        if empty >= len(order) - done:  # the rest is needed to leave none empty
            candidates = np.array([b for b in range(bins) if not members[b]])
        elif done < len(order) // 2:
            candidates = np.flatnonzero(room >= sizes[item])
        chosen = int(random.choice(candidates)) if len(candidates) else int(room.argmax())
        empty -= not members[chosen]
        members[chosen].append(item)
        room[chosen] -= sizes[item]
    return members


def straggler_ratio(loads: NDArray[np.float64]) -> float:
    """Time of the steps over what it would be if the work were spread evenly; 1 is best.

    Args:
        loads: work of each process in each step, [steps, processes].
    """
    return float(loads.max(1).sum() / loads.mean(1).sum())


def padding_ratio(padded: int, sizes: Sequence[int]) -> float:
    """Voxels that are computed over those of the cases; 1 is best."""
    return padded / sum(sizes)
