"""A model in the comparison of baselines, as plain records."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Costs", "ModelRow"]


@dataclass(frozen=True)
class Costs:
    """What was measured of one model beside its Dice.

    Attributes:
        step_seconds: of a forward and backward pass on a training window, the fastest of some.
        kept_bytes: what autograd keeps of such a pass for the way back, weights included; the same on every machine.
        grid_error: largest relative error of the trained network's logits over the 24 rotations of the grid, on noise.
        turned_error: relative error at 45 degrees about an odd axis, on smooth blobs (see `equivariance_error`).
        device: that it was measured on.
    """

    step_seconds: float
    kept_bytes: int
    grid_error: float
    turned_error: float
    device: str


@dataclass(frozen=True)
class ModelRow:
    """A line of the table.

    Attributes:
        name: of the arm.
        label: for people.
        parameters: weights.
        costs: see there.
        upright: Dice of each seed.
        turned: the same, mean over the turned poses.
    """

    name: str
    label: str
    parameters: int
    costs: Costs
    upright: tuple[float, ...]
    turned: tuple[float, ...]
