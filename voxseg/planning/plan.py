"""What a training config for a new data set should be: decisions as functions of its fingerprint and of the machine.

Rules of thumb, each with its reason. None of them replaces a look at the validation of a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from voxseg.data.preparation import ImageConfig
from voxseg.errors import UserError
from voxseg.networks import NetworkConfig
from voxseg.planning.fingerprint import Fingerprint, ImageFingerprint
from voxseg.planning.label_plan import LabelPlan, plan_labels
from voxseg.planning.memory_estimate import training_bytes

__all__ = ["Machine", "Plan", "choose_spacing", "make_plan", "set_rate", "settle_size"]

SAFETY = 1.25
"""Memory that is reckoned with, as a multiple of the estimate: fragments, and what the framework keeps."""

OVERHEAD = 1.5e9
"""Bytes of the framework and of the workers that load data."""

LARGEST_WINDOW = {"cuda": 128, "cpu": 64}
"""Voxels of a window along an axis. On processors it is time that limits, not memory."""

SEEN = 0.45
"""Share of the median case's length that the largest window has to cover, or the working grid is made coarser."""

SMALLEST_WINDOW = 32
BATCH_VOXELS = {"cuda": 2 * 128**3, "cpu": 2 * 64**3}
"""Voxels of a batch: small windows come in larger batches."""

LARGEST_BATCH = 8
EVENING_HOURS = 5.0
STEPS = (2000, 20000)
DEFAULT_STEPS = 5000
"""Where the rate is not known."""

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Machine:
    """What a plan is for.

    Attributes:
        device: "cuda" or "cpu".
        memory: bytes that training may take.
        precision: of the network's arithmetic.
    """

    device: str
    memory: int
    precision: str = "float32"


@dataclass(frozen=True)
class Plan:
    """The decisions; `voxseg.planning.plan_file` writes them down.

    Attributes:
        spacing: mm of the working grid.
        images: how each image is scaled.
        crop: whether cases are cropped to the box around the head.
        case_size: voxels of the median case on the working grid.
        window: voxels of a sample.
        batch: samples a step.
        accumulate: parts of a batch.
        network: with its inputs and outputs.
        labels: what is predicted.
        folds: parts of the division.
        precision: of the arithmetic.
        bytes: of a training step, as estimated.
        steps: planned.
        steps_per_hour: as measured; None if they were not.
    """

    spacing: float
    images: dict[str, ImageConfig]
    crop: bool
    case_size: Size
    window: Size
    batch: int
    accumulate: int
    network: NetworkConfig
    labels: LabelPlan
    folds: int
    precision: str
    bytes: int
    steps: int = DEFAULT_STEPS
    steps_per_hour: float | None = None


def make_plan(fingerprint: Fingerprint, machine: Machine, spacing: float | None = None, group: str = "SO3") -> Plan:
    """All decisions.

    Args:
        fingerprint: of the data set.
        machine: that the training shall run on.
        spacing: of the working grid, if it is given.
        group: of the network; one of ``O3`` cannot tell left from right.

    Raises:
        UserError: the labels are too many, or the memory is too small for the smallest window.
    """
    labels = plan_labels(fingerprint)
    extent = fingerprint.box or _median(fingerprint.extents)
    spacing = spacing or choose_spacing(fingerprint.spacings, extent, (LARGEST_WINDOW[machine.device] / SEEN) ** 3)
    x, y, z = (max(1, math.ceil(length / spacing - 0.01)) for length in extent)
    channels = len(labels.regions) or len(labels.classes) + 1
    plan = Plan(
        spacing=spacing,
        images={image.name: choose_scale(image) for image in fingerprint.images},
        crop=fingerprint.box is not None,
        case_size=(x, y, z),
        window=(SMALLEST_WINDOW,) * 3,
        batch=1,
        accumulate=1,
        network=NetworkConfig.model_validate(
            {"in_channels": len(fingerprint.images), "out_channels": channels, "spacing": spacing, "group": group}
        ),
        labels=labels,
        folds=min(5, fingerprint.subjects),
        precision=machine.precision,
        bytes=0,
    )
    return settle_size(plan, machine)


def choose_spacing(spacings: Sequence[Sequence[float]], extent: Sequence[float], most_voxels: float) -> float:
    """The voxel size of the working grid, mm.

    The grid is the same along all axes, or a patient who lies turned would be seen on another grid, and the network's
    promise would end there. Data that are isotropic already keep their voxels. Otherwise it is the geometric mean of
    the median spacings, which gives as many voxels as the data have, but at most twice the finest axis, whose detail
    would be lost. Finally it is made so coarse that the median case has at most `most_voxels`.

    Args:
        spacings: of each case along its three axes, mm.
        extent: mm of the median case.
        most_voxels: of the median case on the working grid.
    """
    medians = np.median(np.sort(np.asarray(spacings, dtype=np.float64), axis=1), axis=0)
    coarsest = (math.prod(extent) / most_voxels) ** (1 / 3)
    if medians[2] <= 1.02 * medians[0] and coarsest <= medians[0]:
        return float(f"{medians[1]:.4g}")
    wanted = min(float(np.prod(medians)) ** (1 / 3), 2 * float(medians[0]))
    return float(f"{max(wanted, coarsest):.2g}")


def choose_scale(image: ImageFingerprint) -> ImageConfig:
    """How the intensities of an image reach the network.

    CT is in absolute units: clipped to what labelled voxels have. A background of one value (stripped brains) allows
    z-scores of the rest. Anything else is scaled by its levels of empty space and tissue.
    """
    low, high = image.percentiles
    if image.ct and low < high:
        return ImageConfig(scale="window", low=float(f"{low:.4g}"), high=float(f"{high:.4g}"))
    return ImageConfig(scale="zscore" if image.stripped else "tissue")


def settle_size(plan: Plan, machine: Machine) -> Plan:
    """The window, the depth and width of the network, the batch and its parts: as large as the memory allows.

    Raises:
        UserError: not even the smallest window fits.
    """
    for side in range(LARGEST_WINDOW[machine.device], SMALLEST_WINDOW - 1, -16):
        for checkpointing in (False, True):
            window = choose_window(plan.case_size, side)
            network = choose_network(plan.network, window, machine.device, checkpointing)
            batch = choose_batch(window, machine.device)
            # Half the batch, a quarter, ... at a time, until it fits; the finished gradient is the same.
            for accumulate in (2**k for k in range(int(math.log2(batch)) + 1)):
                needed = int(
                    SAFETY * training_bytes(network, window, batch // accumulate, machine.precision) + OVERHEAD
                )
                if needed <= machine.memory:
                    return replace(
                        plan, window=window, batch=batch, accumulate=accumulate, network=network, bytes=needed
                    )
            if side > SMALLEST_WINDOW:
                break  # a smaller window costs less time than recomputing
    problem = f"is too little for windows of {SMALLEST_WINDOW} voxels, which take {needed / 1e9:.1f} GB"
    raise UserError(f"{machine.memory / 1e9:.1f} GB of memory", problem, "train on a machine with more")


def choose_window(case_size: Size, side: int) -> Size:
    """A window of so many voxels along each axis, and no more than the median case, in multiples of 8."""
    x, y, z = (max(8, min(side, math.ceil(n / 8) * 8)) for n in case_size)
    return x, y, z


def choose_network(base: NetworkConfig, window: Size, device: str, checkpointing: bool = False) -> NetworkConfig:
    """Depth and widths.

    As many levels as leave about six voxels of the window on the coarsest one. The finest level is as wide as there are
    outputs to tell apart, since the logits are read from it; with several images, and on GPUs, at least the middle one.
    """
    side = math.prod(window) ** (1 / 3)
    depth = min(6, max(2, 1 + int(math.log2(side / 6))))
    least = 30 if device == "cuda" or base.in_channels >= 3 else 20
    finest, second, coarse = next(
        (levels for channels, levels in WIDTHS.items() if channels >= max(least, base.out_channels)),
        WIDTHS[max(WIDTHS)],
    )
    levels = (finest, second, *[coarse] * (depth - 2))
    if base.group == "O3":  # gradients of scalars are vectors that a mirror turns, 1o; 1e would be pseudovectors
        levels = tuple(level.replace("1e", "1o") for level in levels)
    return NetworkConfig.model_validate(
        {
            "in_channels": base.in_channels,
            "out_channels": base.out_channels,
            "spacing": base.spacing,
            "group": base.group,
            "levels": levels,
            "encoder_convolutions": (1,) + (2,) * (depth - 1),
            "decoder_convolutions": (1,) * (depth - 1),
            "checkpointing": checkpointing,
        }
    )


WIDTHS = {
    20: ("6x0e+3x1e+1x2e", "16x0e+6x1e+2x2e", "32x0e+12x1e+4x2e"),
    30: ("8x0e+4x1e+2x2e", "16x0e+8x1e+4x2e", "32x0e+16x1e+8x2e"),
    40: ("12x0e+6x1e+2x2e", "24x0e+10x1e+4x2e", "40x0e+16x1e+8x2e"),
    54: ("16x0e+6x1e+4x2e", "32x0e+12x1e+4x2e", "48x0e+16x1e+8x2e"),
}
"""Field types of the finest, the second and the other levels, by the channels of the finest."""


def choose_batch(window: Size, device: str) -> int:
    """Samples a step: a power of two, so that it can be computed in parts; larger for small windows."""
    wanted = BATCH_VOXELS[device] / math.prod(window)
    return int(min(LARGEST_BATCH, max(2, 2 ** round(math.log2(wanted)))))


def set_rate(plan: Plan, seconds: float) -> Plan:
    """The plan with as many steps as an evening gives.

    Args:
        plan: without steps.
        seconds: that a step takes.
    """
    rate = 3600 / seconds
    steps = min(STEPS[1], max(STEPS[0], int(rate * EVENING_HOURS / 500) * 500))
    return replace(plan, steps=steps, steps_per_hour=rate)


def _median(vectors: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in np.median(np.asarray(vectors, dtype=np.float64), axis=0))
    return x, y, z
