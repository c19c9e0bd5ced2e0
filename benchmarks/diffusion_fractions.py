"""Tissue fractions from diffusion-like signals: what a turned gradient table and a turned head do to four estimators.

    python benchmarks/diffusion_fractions.py         # four minutes on one core
    python benchmarks/diffusion_fractions.py --steps 50

Voxels are mixtures of free water, grey matter (both isotropic) and one to three fibre bundles (axial tensors), each
with random diffusivities; the signal, relative to that without gradient, is the sum of ``f exp(-b g^T D g)`` at two
b-values along 30 directions each, with Rician noise. To train, bundles lie within 30 degrees of z and the table is
always the same. Tested with new voxels: as trained; with the table turned (measured along other directions, which the
fit of spherical harmonics knows); with the head turned, each voxel with all its bundles by a rotation of its own.
"""

from __future__ import annotations

import argparse
import math

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from voxseg.baselines.spherical import SphericalNet
from voxseg.baselines.spherical_signals import coefficients_of_samples

LMAX = 4
B_VALUES = (1.0, 3.0)  # ms/um^2
DIRECTIONS = 30
NOISE = 1 / 30


def table(rotation: Tensor) -> Tensor:
    """Directions ``[30, 3]`` spread over a hemisphere by the golden angle, turned."""
    k = torch.arange(DIRECTIONS, dtype=torch.float64)
    height, azimuth = (k + 0.5) / DIRECTIONS, k * math.pi * (3 - math.sqrt(5))
    ring = (1 - height.square()).sqrt()
    return torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), height], -1) @ rotation.T


def voxels(count: int, directions: Tensor, turned: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Signals ``[count, 2, 30]`` and fractions ``[count, 3]`` of water, grey and white matter."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    fractions = -torch.rand(count, 3, generator=generator, dtype=torch.float64).log()
    fractions = fractions / fractions.sum(1, keepdim=True)
    bundles = -torch.rand(count, 3, generator=generator, dtype=torch.float64).log()
    bundles = bundles * (torch.arange(3) < torch.randint(1, 4, (count, 1), generator=generator))
    bundles = bundles / bundles.sum(1, keepdim=True)
    height = uniform(math.cos(math.pi / 6), 1, count, 3)
    azimuth = uniform(0, 2 * math.pi, count, 3)
    ring = (1 - height.square()).sqrt()
    axes = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), height], -1)
    if turned:
        rotations = torch.from_numpy(Rotation.random(count, random_state=2).as_matrix())
        axes = torch.einsum("nij,nfj->nfi", rotations, axes)
    cosines = torch.einsum("nfk,gk->nfg", axes, directions).square()
    along, across = uniform(1.5, 1.9, count, 1, 1), uniform(0.2, 0.5, count, 1, 1)
    water, grey = uniform(2.8, 3.2, count, 1), uniform(0.8, 1.1, count, 1)
    shells = []
    for b in B_VALUES:
        fibres = torch.einsum("nf,nfg->ng", bundles, torch.exp(-b * (across + (along - across) * cosines)))
        parts = torch.stack(
            [torch.exp(-b * water).expand_as(fibres), torch.exp(-b * grey).expand_as(fibres), fibres], 1
        )
        shells.append(torch.einsum("nt,ntg->ng", fractions, parts))
    clean = torch.stack(shells, 1)
    noise = NOISE * torch.randn(2, *clean.shape, generator=generator, dtype=torch.float64)
    return ((clean + noise[0]).square() + noise[1].square()).sqrt(), fractions


def mlp(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))


class OfSamples(nn.Module):
    """An MLP on the measured values, in the order of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(2 * DIRECTIONS)

    def forward(self, signals: Tensor, directions: Tensor) -> Tensor:
        """``[B, 2, 30]`` and the table to logits of fractions."""
        del directions
        logits: Tensor = self.layers(signals.flatten(1))
        return logits


class OfCoefficients(nn.Module):
    """A network on spherical harmonics fitted with the table.

    Args:
        layers: takes ``[B, 3, (LMAX + 1)^2]``: both b-values, and none.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, signals: Tensor, directions: Tensor) -> Tensor:
        """``[B, 2, 30]`` and the table to logits of fractions."""
        coefficients = coefficients_of_samples(signals, directions, LMAX, even=True, ridge=1e-6)
        without = torch.zeros_like(coefficients[:, :1])
        without[..., 0] = 1  # the signal without gradient, that the others are relative to
        logits: Tensor = self.layers(torch.cat([coefficients, without], 1))
        return logits


class Power(nn.Module):
    """The length of each degree, which no rotation changes, and an MLP: the classical invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(3 * (LMAX // 2 + 1))

    def forward(self, coefficients: Tensor) -> Tensor:
        """``[B, 3, 25]`` to ``[B, 3]``."""
        parts = [coefficients[..., n * n : (n + 1) ** 2].norm(dim=-1) for n in range(0, LMAX + 1, 2)]
        logits: Tensor = self.layers(torch.stack(parts, -1).flatten(1))
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    upright = table(torch.eye(3, dtype=torch.float64))
    other = table(torch.from_numpy(Rotation.random(random_state=1).as_matrix()))
    tests = {"as trained": (upright, False), "table turned": (other, False), "head turned": (upright, True)}
    networks = {
        "MLP of measured values": OfSamples,
        "MLP of spherical harmonics": lambda: OfCoefficients(nn.Sequential(nn.Flatten(), mlp(3 * (LMAX + 1) ** 2))),
        "MLP of the power of each degree": lambda: OfCoefficients(Power()),
        "spherical CNN": lambda: OfCoefficients(SphericalNet(3, 3, (LMAX, 2), (8, 16))),
    }
    print(f"{options.steps} steps of 128 voxels, {options.seeds} seed(s); mean absolute error of the three fractions")
    print("| estimator | weights | " + " | ".join(tests) + " |\n|---" + "|---" * (len(tests) + 1) + "|")
    for name, build in networks.items():
        errors = torch.zeros(len(tests))
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            network = build()
            generator = torch.Generator().manual_seed(seed)
            optimiser = torch.optim.AdamW(network.parameters(), 5e-3, weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=options.steps)
            for _ in range(options.steps):
                signals, fractions = voxels(128, upright, False, generator)
                found = network(signals.float(), upright).softmax(1)
                loss = (found - fractions.float()).square().sum(1).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            with torch.no_grad():
                for number, (directions, turned) in enumerate(tests.values()):
                    signals, fractions = voxels(2000, directions, turned, torch.Generator().manual_seed(10**6))
                    parts = [network(part.float(), directions).softmax(1) for part in signals.split(250)]
                    errors[number] += (torch.cat(parts) - fractions).abs().mean() / options.seeds
        weights = sum(p.numel() for p in network.parameters())
        print(f"| {name} | {weights:,} | " + " | ".join(f"{e:.3f}" for e in errors.tolist()) + " |", flush=True)


if __name__ == "__main__":
    main()
