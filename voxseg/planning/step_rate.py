"""How long a training step takes on this machine, measured on steps of the real network with random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from voxseg.networks import NetworkConfig, build_network
from voxseg.training.config import LossConfig
from voxseg.training.environment import bfloat16_in_software
from voxseg.training.losses import deep_supervision_loss
from voxseg.training.step import forward, to_device

__all__ = ["StepTime", "faster_precision", "time_step"]

SMALL = 48
"""Voxels of the window that is timed first; a longer wait is then only begun if it will end in time. Smaller ones fit
the processor's cache and tell neither the time of large ones nor what bfloat16 gains."""

REPEATS = 2
"""Times that a small window is timed; the shortest counts, for other programs only ever make a step longer."""

BFLOAT16_GAIN = 1.2
"""How many times as fast a processor has to be in bfloat16 for it to be chosen."""


@dataclass(frozen=True)
class StepTime:
    """How long an optimiser step takes.

    Attributes:
        seconds: of all its parts together.
        scaled: whether the window was too slow to wait for, and the time is that of a smaller one times its voxels.
    """

    seconds: float
    scaled: bool


def time_step(
    network: NetworkConfig,
    window: Sequence[int],
    parts: int,
    part: int,
    precision: str,
    device: torch.device,
    regions: bool,
    budget: float = 20.0,
) -> StepTime:
    """Time forward pass, loss, backward pass and optimiser, without reading data.

    Args:
        network: as planned.
        window: voxels of a sample.
        parts: of a batch.
        part: samples computed together.
        precision: of the arithmetic.
        device: where.
        regions: whether outputs overlap.
        budget: seconds that this may take, roughly.
    """
    started = time.monotonic()
    small = tuple(min(SMALL, n) for n in window)
    step = _stepper(network, precision, device, regions)
    step(small, 1)  # the first one allocates
    seconds = min(step(small, 1) for _ in range(REPEATS))
    voxels = torch.Size(window).numel() * part
    expected = seconds * voxels / torch.Size(small).numel()
    if 2 * expected > budget - (time.monotonic() - started):
        return StepTime(expected * parts, True)
    step(window, part)
    times = [step(window, part)]
    while len(times) < 5 and time.monotonic() - started + times[-1] < budget:
        times.append(step(window, part))
    return StepTime(sorted(times)[len(times) // 2] * parts, False)


def faster_precision(network: NetworkConfig, regions: bool) -> str:
    """The precision for this machine's processor: bfloat16 where it computes clearly faster in it."""
    if bfloat16_in_software(torch.device("cpu")):
        return "float32"  # not measured: that would take minutes
    size = (SMALL,) * 3
    times = {}
    for precision in ("float32", "bfloat16"):
        step = _stepper(network, precision, torch.device("cpu"), regions)
        step(size, 1)
        times[precision] = min(step(size, 1) for _ in range(REPEATS))
    return "bfloat16" if times["bfloat16"] * BFLOAT16_GAIN < times["float32"] else "float32"


def _stepper(
    config: NetworkConfig, precision: str, device: torch.device, regions: bool
) -> Callable[[Sequence[int], int], float]:
    """A function that takes a step with random samples of a size, and returns its seconds."""
    network = to_device(build_network(config), device).train()
    optimiser = torch.optim.AdamW(network.parameters())
    loss_config = LossConfig(deep_supervision=[1.0, 0.4, 0.16][: max(1, len(config.levels) - 1)])
    classes = config.out_channels if not regions else config.out_channels + 1
    membership = torch.eye(classes, dtype=torch.bool)[:, 1:].to(device) if regions else None

    def step(size: Sequence[int], batch: int) -> float:
        image = torch.randn(batch, config.in_channels, *size, device=device)
        target = torch.randint(0, classes, (batch, *size), device=device)
        _wait(device)
        started = time.perf_counter()
        outputs = forward(network, image, precision, deep_supervision=True)
        loss = deep_supervision_loss(outputs, target, loss_config, membership)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _wait(device)
        return time.perf_counter() - started

    return step


def _wait(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
