"""Digits on a sphere, upright and turned: a spherical CNN beside a planar one.

    python benchmarks/spherical_digits.py --epochs 8  # by default 20: eight minutes on one core
    python benchmarks/spherical_digits.py --epochs 2 --limit 200

The experiment of Cohen, Geiger, Köhler and Welling (ICLR 2018, arXiv:1801.10130) in shape, with the 8 x 8 digits that
come with scikit-learn in place of MNIST: each is projected stereographically onto a hemisphere. N is a digit
around the pole, R one turned at random, once. Both networks see the same band-limited signal: the spherical one its
coefficients, the planar one its samples on a grid of polar angle and azimuth.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from voxseg.baselines.spherical import SphericalNet
from voxseg.baselines.spherical_signals import harmonics
from voxseg.steerable import wigner_d

LMAX = 8
HALF_WIDTH = 0.8  # of a digit in the plane of projection, where the hemisphere is the unit disc


def sphere_grid(n: int) -> tuple[Tensor, Tensor]:
    """Directions ``[n, n, 3]`` by polar angle from y and azimuth, and their quadrature weights ``[n, n]``."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    polar, azimuth = np.arccos(nodes)[:, None], (2 * np.pi * np.arange(n) / n)[None]
    points = np.stack(
        np.broadcast_arrays(np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)), -1
    )
    return torch.from_numpy(points), torch.from_numpy(np.broadcast_to(weights[:, None] / 2 / n, (n, n)).copy())


def projected(images: np.ndarray) -> Tensor:
    """Coefficients ``[N, (LMAX + 1)^2]`` of digits ``[N, 8, 8]`` around the pole."""
    points, weights = sphere_grid(48)
    x, y, z = points.unbind(-1)
    u, v = (c / (1 + y).clamp(min=1e-6) / HALF_WIDTH for c in (x, z))  # stereographic, the digit's border at 1
    index = torch.stack([(v + 1) * 4 - 0.5, (u + 1) * 4 - 0.5]).numpy()
    values = np.stack([map_coordinates(image, index, order=1, mode="constant") for image in images])
    values = torch.from_numpy(values) * (y > 0)
    return torch.einsum("npq,pq,pqk->nk", values, weights, harmonics(LMAX, points))


def turned(coefficients: Tensor, seed: int) -> Tensor:
    """Each signal by a rotation of its own."""
    rotations = torch.from_numpy(Rotation.random(len(coefficients), random_state=seed).as_matrix())
    out = torch.empty_like(coefficients)
    for row, rotation in enumerate(rotations):
        for degree in range(LMAX + 1):
            part = slice(degree**2, (degree + 1) ** 2)
            out[row, part] = wigner_d(degree, rotation) @ coefficients[row, part]
    return out


class Planar(nn.Module):
    """An ordinary CNN on polar angle and azimuth, with about as many weights."""

    def __init__(self) -> None:
        super().__init__()
        points, _ = sphere_grid(2 * (LMAX + 1))
        self.samples: Tensor
        self.register_buffer("samples", harmonics(LMAX, points).float(), persistent=False)
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU()),
            *(nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(48 * 25, 10)),
        )

    def forward(self, signal: Tensor) -> Tensor:
        """``[B, 1, coefficients]`` to ``[B, 10]``."""
        logits: Tensor = self.layers(torch.einsum("bck,pqk->bcpq", signal, self.samples))
        return logits


def trained(network: nn.Module, signals: Tensor, labels: Tensor, epochs: int, rate: float) -> nn.Module:
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    steps = epochs * math.ceil(len(signals) / 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(signals)).split(32):
            loss = nn.functional.cross_entropy(network(signals[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, signals: Tensor, labels: Tensor) -> float:
    found = torch.cat([network(part).argmax(1) for part in signals.split(64)])
    return (found == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=1797, help="digits in all; a quarter is tested on")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    from sklearn.datasets import load_digits  # for this program alone

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))[: options.limit]
    upright = projected(digits.images[order] / 16.0)
    labels = torch.from_numpy(digits.target[order]).long()
    data = {"N": upright, "R": turned(upright, 1)}
    scale = upright[len(upright) // 4 :].square().sum(-1).mean().sqrt()
    data = {name: (signals / scale).float()[:, None] for name, signals in data.items()}
    test = len(labels) // 4
    networks = {"spherical CNN": lambda: SphericalNet(1, 10, (LMAX, 4), (8, 24)), "planar CNN": Planar}
    print(
        f"{len(labels) - test} digits to train on, {test} to test on, {options.epochs} epochs, {options.seeds} seed(s)"
    )
    print("| network | weights | N/N | N/R | R/R |\n|---|---|---|---|---|")
    for name, build in networks.items():
        scores: dict[str, list[float]] = {"N/N": [], "N/R": [], "R/R": []}
        for seed in range(options.seeds):
            for training in ("N", "R"):
                torch.manual_seed(seed)
                network = trained(build(), data[training][test:], labels[test:], options.epochs, 5e-3)
                for pair in scores:
                    if pair[0] == training:
                        scores[pair].append(accuracy(network, data[pair[2]][:test], labels[:test]))
        weights = sum(p.numel() for p in network.parameters())
        cells = " | ".join(f"{np.mean(values):.3f}" for values in scores.values())
        print(f"| {name} | {weights:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
