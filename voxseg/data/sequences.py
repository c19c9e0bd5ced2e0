"""Intensities as the common MR sequences give them: signal equations over the relaxation times of tissues.

A network that has seen intensities drawn from everything has seen few that look like a scanner's. Between the T1 prior
and that stand the spin-echo sequences of the clinic: T1, proton density, T2 and FLAIR, with drawn timing.

For repetition, echo and inversion times TR, TE and TI the signal of a tissue of relaxation times T1, T2 and proton
density rho is (Bernstein, King, Zhou (2004), "Handbook of MRI Pulse Sequences")

    spin echo            rho (1 - exp(-TR/T1)) exp(-TE/T2)
    inversion recovery   rho |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)

and FLAIR is the second with the TI at which fluid has no signal, T1 (ln 2 - ln(1 + exp(-TR/T1))).

The times and densities are those of `voxseg.data.relaxation`, varied for each scan.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from voxseg.data._intensity import WHITE
from voxseg.data._spatial import uniform
from voxseg.data.relaxation import relaxation

__all__ = ["draw_signal"]

FLUID = float(relaxation(np.array([24]))[0, 0])
"""T1 of cerebrospinal fluid, in ms."""

FLUID_T1 = 2000.0
"""Tissues of a longer T1 (ms) are fluid."""

FAT_T1 = 450.0
"""Outside the brain, what has a shorter T1 (ms) is fat or marrow, which fat suppression darkens."""


def draw_signal(random: torch.Generator, tissue: Tensor, classes: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the signal of each label, for one scan of one sequence.

    Args:
        random: generator on the CPU.
        tissue: T1 and T2 in ms and proton density of each label, [3, R]; where NaN, those of another label are drawn.
        classes: labels of one class vary together, int64 [R].
        brain: whether the label belongs to the brain, bool [R].

    Returns:
        Two float32 [R], on the scale of the T1 prior.
    """
    mean = _signal(random, _vary(random, tissue, classes))
    if uniform(random, 0, 1) < 0.3:
        mean = torch.where(~brain & (tissue[0] < FAT_T1), uniform(random, 0.05, 0.3) * mean, mean)
    bright = uniform(random, 0.55, 0.95) * WHITE
    mean = mean * (bright / mean[brain].max().clamp_min(1e-6))
    share = torch.rand(int(classes.max()) + 1, generator=random)[classes]
    # Outside the brain one label holds several tissues, as muscle and fat in "soft tissue".
    return mean, mean * torch.where(brain, 0.06 + 0.1 * share, 0.2 + 0.4 * share)


def _vary(random: torch.Generator, tissue: Tensor, classes: Tensor) -> Tensor:
    """Relaxation times and densities of another person and scanner, [3, R]."""
    count = int(classes.max()) + 1
    known = tissue[:, ~tissue.isnan().any(0)]
    if not known.shape[1]:
        known = torch.tensor([[800.0], [80.0], [0.8]])
    drawn = torch.randint(known.shape[1], (count,), generator=random)[classes]
    tissue = torch.where(tissue.isnan(), known[:, drawn], tissue)
    factor = torch.tensor([0.05, 0.05, 0.03])[:, None] * torch.randn(3, count, generator=random)
    tissue = tissue * factor.exp()[:, classes]
    # A stronger field lengthens T1 and shortens T2; that of fluid hardly changes.
    t1, t2 = uniform(random, 0.9, 1.5), uniform(random, 0.85, 1.2)
    solid = tissue[0] < FLUID_T1
    return tissue * torch.stack((1 + (t1 - 1) * solid, 1 + (t2 - 1) * solid, torch.ones_like(tissue[2])))


def _signal(random: torch.Generator, tissue: Tensor) -> Tensor:
    """The signal [R] of one of the four sequences, its timing drawn as well."""
    t1, t2, density = tissue
    sequence = _draw_sequence(random)
    repetition, echo = (
        (uniform(random, 350, 800), uniform(random, 8, 20)),  # T1
        (uniform(random, 2000, 6000), uniform(random, 8, 35)),  # proton density
        (uniform(random, 2500, 8000), uniform(random, 70, 130)),  # T2
        (uniform(random, 6000, 11000), uniform(random, 70, 150)),  # FLAIR
    )[sequence]
    recovered = 1 - (-repetition / t1).exp()
    if sequence == 3:
        fluid = FLUID * uniform(random, 0.85, 1.15)
        inversion = fluid * (math.log(2) - math.log1p(math.exp(-repetition / fluid)))
        recovered = (1 - 2 * (-inversion / t1).exp() + (-repetition / t1).exp()).abs()
    return density * recovered * (-echo / t2).exp()


def _draw_sequence(random: torch.Generator) -> int:
    """T1, proton density, T2 or FLAIR, each as often."""
    return int(torch.randint(4, (), generator=random))
