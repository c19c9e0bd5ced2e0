"""How the network will run over a scan within the memory allowed: at once or in windows, of which size.

Everything is an upper bound that a test holds against what a process really takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

from voxseg.inference.memory import NETWORK_CONSTANT
from voxseg.inference.windows import window_count, window_starts

__all__ = ["Plan", "Run", "choose_run", "network_stage_bytes"]

MULTIPLE = 8  # windows of a multiple of this size are halved evenly on every level
FRAGMENTS = 1.15  # what gaps in the heap add, where many windows come and go
SMALLEST = 32  # voxels of a side: less context than this is no use
COMFORTABLE = 64  # voxels of a side, what networks are trained on

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Run:
    """How the network runs over a grid.

    Attributes:
        window: voxels of a window; None for the whole grid at once.
        axis: of the grid, across which the result comes in pieces.
        count: of windows.
        bytes: that this takes, besides the image.
    """

    window: Triple | None
    axis: int
    count: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What segmenting a case will take, before it is begun.

    Attributes:
        grid: voxels of the working grid; the head is cut out of it if the model says so.
        spacing: of the working grid, mm.
        run: of the network over that grid.
        expected: bytes that the process will hold at its peak, at most.
        allowed: bytes that it may hold.
    """

    grid: Triple
    spacing: float
    run: Run
    expected: int
    allowed: int

    def line(self) -> str:
        """The plan in a line, for people."""
        grid = " x ".join(map(str, self.grid))
        if self.run.window is None:
            how = "at once"
        else:
            how = f"in {self.run.count} windows of {' x '.join(map(str, self.run.window))}"
        memory = f"up to {self.expected / 1e9:.1f} GB of the {self.allowed / 1e9:.1f} GB allowed"
        return f"{grid} voxels of {self.spacing:g} mm {how}, {memory}"


def network_stage_bytes(
    shape: Sequence[int], window: Sequence[int] | None, axis: int, classes: int, voxel: int, pieces: bool = True
) -> int:
    """Bytes of running the network over a grid and of restoring from its result.

    Args:
        shape: of the grid.
        window: of the network; None for the whole grid.
        axis: across which the result comes in pieces.
        classes: of the network.
        voxel: bytes that the network takes for a voxel of its input.
        pieces: whether only the largest piece is kept.
    """
    voxels = math.prod(shape)
    if window is None:
        # Features and probabilities; then probabilities and the pieces of what was found in them.
        return NETWORK_CONSTANT + voxels * max(voxel, 4 * classes + 16 * pieces)
    row = voxels // shape[axis] * min(window[axis], shape[axis])
    # Features, and probabilities of empty space that are kept; sums and weights of a row of windows and what is done
    # with its result, while marks of what was found gather.
    held = math.prod(window) * (voxel + 4 * classes) + row * (4 * classes + 13)
    running = NETWORK_CONSTANT + int(FRAGMENTS * held)
    return running if not pieces else max(running + voxels, 9 * voxels)


def choose_run(
    shape: Sequence[int],
    classes: int,
    voxel: int,
    allowed: int,
    axis: int | None = None,
    on_device: int | None = None,
    side: int | None = None,
    pieces: bool = True,
) -> Run:
    """The run that computes least within the memory allowed.

    Windows cover half of each other, so that many small ones cost up to eight times the whole volume, few large ones
    less. Axes of equal length get equal windows: a turned volume is cut up as it is turned.

    Args:
        shape: of the grid.
        classes: of the network.
        voxel: bytes that the network takes for a voxel of its input.
        allowed: bytes for everything; where nothing fits, the smallest windows are returned.
        axis: across which the result has to come, if that is not free.
        on_device: bytes for the network, if it runs on a device that has memory of its own.
        side: voxels of a window's sides, if they are given.
        pieces: whether only the largest piece is kept.
    """
    sweep = max(range(3), key=lambda a: shape[a]) if axis is None else axis

    def run(window: Triple | None) -> Run:
        count = 1 if window is None else window_count(shape, window)
        return Run(window, sweep, count, network_stage_bytes(shape, window, sweep, classes, voxel, pieces))

    def fits(candidate: Run) -> bool:
        if on_device is None:
            return candidate.bytes <= allowed
        part = math.prod(candidate.window or shape)
        network = part * voxel + NETWORK_CONSTANT
        result = 4 * classes * part  # comes over from the device
        return network <= on_device and candidate.bytes - network + result <= allowed

    if side is not None:
        x, y, z = (min(n, side) for n in shape)
        return run((x, y, z))
    whole = run(None)
    if fits(whole):
        return whole
    for least in (COMFORTABLE, SMALLEST):
        sides = [_sides(n, least) for n in shape]
        candidates = [
            window
            for window in product(*sides)
            if all(window[a] == window[b] for a in range(3) for b in range(a) if shape[a] == shape[b])
        ]
        fitting = [candidate for candidate in map(run, cast("list[Triple]", candidates)) if fits(candidate)]
        if fitting:
            # By the work, then the most cubic one, then the least memory.
            return min(fitting, key=lambda r: (_work(r), max(r.window or ()) / min(r.window or (1,)), r.bytes))
    x, y, z = (min(n, SMALLEST) for n in shape)
    return run((x, y, z))


def _sides(length: int, least: int) -> list[int]:
    """Windows on an axis: of each count of them the smallest, but no smaller than `least`."""
    smallest: dict[int, int] = {}
    for side in range(min(least, length), length, MULTIPLE):
        smallest.setdefault(len(window_starts(length, side)), side)
    return [*smallest.values(), length]


def _work(run: Run) -> int:
    """Voxels that go through the network."""
    return run.count * math.prod(run.window or ())
