"""A network trained at 1 mm and run on grids of other spacings, its kernels evaluated there: Dice on each.

    python benchmarks/nequip_spacing.py              # about eight minutes on one core
    python benchmarks/nequip_spacing.py --steps 4 --size 12

In a scan lie bright balls (label 1) among equally bright rods that point anywhere (label 2), functions of millimetres:
a voxel's intensity is the mean of what it covers, noise included; its label is that of its centre. Networks are trained
on grids of 1 mm and tested on the same new scans at 1 mm, 1.5 mm and 1 x 1 x 2 mm: `NequIP.at_spacing` evaluates the
radial networks on the new grid; "as voxels" runs the weights as if nothing had changed, all that a network whose
kernels are tables can do; "trained there" is the same network trained on the other grid: what that grid allows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.baselines.nequip import NequIP
from voxseg.networks import NetworkConfig, build_network

Spacing = tuple[float, float, float]
GRIDS: dict[str, Spacing] = {"1 mm": (1.0, 1.0, 1.0), "1.5 mm": (1.5, 1.5, 1.5), "1 x 1 x 2 mm": (1.0, 1.0, 2.0)}
RUNS = ["kernels in mm", "as voxels", "trained there"]
LEVELS = ("4x0e+2x1e+1x2e", "10x0e+6x1e+3x2e")
SAMPLES = 2
"""Points of a voxel along each axis that its mean is taken over, for every mm or part of one."""


class Scan:
    """Balls and rods in a cube of `side` mm around the origin."""

    def __init__(self, side: float, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        reach = side / 2 - 4
        self.centres = (2 * self._uniform(10, 3) - 1) * reach
        self.radii = torch.cat([3.0 + 1.5 * self._uniform(5), 1.9 + 0.6 * self._uniform(5)])
        directions = torch.randn(5, 3, generator=self.generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.lengths = 7 + 4 * self._uniform(5)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def labels(self, points: Tensor) -> Tensor:
        """Of points ``[..., 3]``: 0, 1 for a ball, 2 for a rod; balls lie over rods."""
        offsets = points[..., None, :] - self.centres
        balls = (offsets[..., :5, :].norm(dim=-1) < self.radii[:5]).any(-1)
        rods = offsets[..., 5:, :]
        along = (rods * self.directions).sum(-1)
        beyond = along - torch.minimum(torch.maximum(along, -self.lengths), self.lengths)
        distance = (rods.square().sum(-1) - along.square() + beyond.square()).clamp(min=0).sqrt()
        return torch.where(balls, 1, torch.where((distance < self.radii[5:]).any(-1), 2, 0))

    def on(self, side: float, spacing: Spacing) -> tuple[Tensor, Tensor]:
        """Image ``[1, X, Y, Z]`` and labels ``[X, Y, Z]``."""
        centres, fine, parts = [], [], []
        for h in spacing:
            n, samples = round(side / h), SAMPLES * math.ceil(h)
            axis = (torch.arange(n) - (n - 1) / 2) * h
            within = ((torch.arange(samples) + 0.5) / samples - 0.5) * h
            centres.append(axis)
            fine.append((axis[:, None] + within).flatten())
            parts.append(samples)
        inside = (self.labels(torch.stack(torch.meshgrid(*fine, indexing="ij"), -1)) > 0).float()
        image = F.avg_pool3d(inside[None], tuple(parts))
        noise = 0.15 / math.sqrt(math.prod(spacing))
        image = image + noise * torch.randn(image.shape, generator=self.generator)
        return image, self.labels(torch.stack(torch.meshgrid(*centres, indexing="ij"), -1))


def batch(seeds: range, side: float, spacing: Spacing) -> tuple[Tensor, Tensor]:
    scans = [Scan(side, seed).on(side, spacing) for seed in seeds]
    return torch.stack([image for image, _ in scans]), torch.stack([labels for _, labels in scans])


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and soft Dice."""
    classes = logits.shape[1]
    hot = F.one_hot(labels, classes).movedim(-1, 1)[:, 1:].float()
    probability = logits.softmax(1)[:, 1:]
    dice = (2 * (hot * probability).sum((0, 2, 3, 4)) + 5) / ((hot + probability).sum((0, 2, 3, 4)) + 5)
    return F.cross_entropy(logits, labels) + 1 - dice.mean()


def train(network: nn.Module, steps: int, side: float, spacing: Spacing, rate: float) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        images, labels = batch(range(2 * step, 2 * step + 2), side, spacing)
        loss = loss_of(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def dice_of(network: nn.Module, side: float, spacing: Spacing, count: int) -> list[float]:
    images, labels = batch(range(10**6, 10**6 + count), side, spacing)
    found = torch.cat([network(image[None]).argmax(1) for image in images])
    return [
        float(2 * ((found == k) & (labels == k)).sum() / ((found == k).sum() + (labels == k).sum())) for k in (1, 2)
    ]


def networks() -> dict[str, Callable[[], nn.Module]]:
    def nequip(**options: object) -> Callable[[], nn.Module]:
        return lambda: NequIP(in_channels=1, out_channels=3, levels=LEVELS, radius=2.5, bessel=3, **options)  # type: ignore[arg-type]

    plain = NetworkConfig.model_validate(
        {
            "architecture": "plain_unet",
            "in_channels": 1,
            "out_channels": 3,
            "levels": ("8x0e", "16x0e"),
            "encoder_convolutions": (1, 2),
            "decoder_convolutions": (1,),
            "spacing": 1.0,
            "deep_supervision": False,
        }
    )
    return {"NequIP": nequip(), "plain U-Net": lambda: build_network(plain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--size", type=int, default=24, help="mm along each side; a multiple of 6")
    parser.add_argument("--tests", type=int, default=16, help="new scans")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    print(
        f"{options.steps} steps of two scans of {options.size} mm at 1 mm, {options.seeds} seed(s); "
        f"Dice on {options.tests} new scans"
    )
    print("| network | weights | run | grid | difference to 1 mm | balls | rods | mean |\n" + "|---" * 8 + "|")
    for name, build in networks().items():
        started = time.process_time()
        scores: dict[tuple[str, str], Tensor] = {}
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            network = build()
            train(network, options.steps, options.size, GRIDS["1 mm"], 1e-2)
            for grid, spacing in GRIDS.items():
                runs = {"as voxels": network}
                if isinstance(network, NequIP):
                    runs = {"kernels in mm": network.at_spacing(spacing), **runs}
                    if grid != "1 mm":
                        torch.manual_seed(seed)
                        runs["trained there"] = built = build()
                        train(built, options.steps, options.size, spacing, 1e-2)
                for run, moved in runs.items():
                    dice = torch.tensor(dice_of(moved, options.size, spacing, options.tests)) / options.seeds
                    scores[run, grid] = scores.get((run, grid), torch.zeros(2)) + dice
        weights = sum(p.numel() for p in network.parameters())
        for (run, grid), dice in sorted(scores.items(), key=lambda item: RUNS.index(item[0][0])):
            loss = dice.mean() - scores["as voxels", "1 mm"].mean()
            cells = f"{100 * loss:+.1f} points | {dice[0]:.3f} | {dice[1]:.3f} | {dice.mean():.3f}"
            print(f"| {name} | {weights:,} | {run} | {grid} | {cells} |", flush=True)
        print(f"  ({time.process_time() - started:.0f} s of one core)", flush=True)


if __name__ == "__main__":
    main()
