"""The learning rate and the averaging weight as plain functions of the step: a resumed run needs no state for them."""

from __future__ import annotations

import math

import torch
from torch import nn

from voxseg.training.config import ScheduleConfig


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig) -> float:
    """Linear warm-up, then a decay to the final rate: half a cosine, or the power 0.9 of the share of steps left.

    Args:
        step: the optimiser step about to be taken, from 0.
        steps: optimiser steps in the whole run.
        peak: the rate at the end of the warm-up.
        config: length of the warm-up, kind of decay, and the rate that the last step comes down to.

    Returns:
        The rate of that step. Raising `steps` between two parts of a run gives the rate of the longer run at once.

    Source:
        Cosine decay: Loshchilov and Hutter, "SGDR" (arXiv 1608.03983), equation 5, without restarts. Polynomial decay
        with the power 0.9: Isensee et al., nnU-Net (doi 10.1038/s41592-020-01008-z).
    """
    warmup, final = config.warmup, config.final_learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.decay == "cosine" else (1 - done) ** 0.9
    return final + (peak - final) * left


def averaging_decay(step: int, longest: float) -> float:
    """The share that the averaged weights keep at a step: a plain mean of all steps so far until `longest` is reached.

    Args:
        step: optimiser steps taken, from 1.
        longest: the upper bound, for example 0.995: a window of about 200 steps.
    """
    return min(longest, 1 - 1 / step)


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the network's, in place: `a <- decay * a + (1 - decay) * w`.

    Buffers are copied.
    """
    for mean, weight in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight.to(mean.dtype), 1 - decay)
    for name, buffer in network.named_buffers():
        averaged.get_buffer(name).copy_(buffer)
