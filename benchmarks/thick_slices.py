"""Thick slices where z matters: networks of SO(3), SO(2) and O(2) about z on generated scans.

    python benchmarks/thick_slices.py                # about twelve minutes on one core
    python benchmarks/thick_slices.py --steps 10 --size 16

A scan has slices as thick as four voxels of the working grid (each the mean of what it covers, interpolated back), as
CT and axial MR often have. In it lie organs, ellipsoids that point anywhere, whose half towards the head and whose
half towards the feet are two labels, and small round lesions among equally bright rods along z, which are background:
a slice that is thick makes a ball longer along z, a rod not. All networks are `any_group` with about the same number
of weights, trained alike on upright scans and tested on new ones: upright, turned about z by any angle (patients do
lie so), and turned about x by 90 degrees before the slices are taken (they do not).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from voxseg.baselines.any_group import AnyGroup

THICK = 4
NAMES = ("organ, head", "organ, feet", "lesion")
NETWORKS = {
    "SO3": {"symmetry": "SO3", "levels": ("6x0e+3x1e+2x2e", "14x0e+7x1e+4x2e", "32x0e+14x1e+7x2e")},
    "SO2_z": {"symmetry": "SO2_z", "levels": ("6x0e+3x1e+1x2e", "11x0e+5x1e+2x2e", "18x0e+8x1e+4x2e")},
    "O2_z": {"symmetry": "O2_z", "levels": ("6x0e+3x1e+2x2e", "12x0e+6x1e+3x2e", "24x0e+10x1e+5x2e")},
    "O2_z, longer along z": {
        "symmetry": "O2_z",
        "sigma_z": 1.2,
        "levels": ("6x0e+3x1e+2x2e", "12x0e+6x1e+3x2e", "24x0e+10x1e+5x2e"),
    },
}


def turn(about: str, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    if about == "z":
        return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])


def scan(size: int, rotation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Image ``[1, size, size, size]`` and labels ``[size, size, size]``, the anatomy turned about the centre."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    axis = torch.arange(size) - (size - 1) / 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) @ rotation  # rows: R^-1 p
    image, labels = torch.zeros(size, size, size), torch.zeros(size, size, size, dtype=torch.long)
    reach = size / 2 - 4
    for _ in range(3):  # organs
        frame = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
        offset = points - uniform(-reach, reach, 3)
        inside = ((offset @ frame) / uniform(3.0, 6.0, 3)).square().sum(-1) < 1
        image[inside] = uniform(0.5, 0.7, 1)
        labels[inside] = torch.where(offset[..., 2] > 0, 1, 2)[inside]
    for kind in ("lesion", "rod"):
        for _ in range(4):
            offset = points - uniform(-reach, reach, 3)
            radius = uniform(1.8, 2.8, 1)
            stretched = offset * torch.tensor([1.0, 1.0, 1.0 if kind == "lesion" else 0.3])
            inside = stretched.square().sum(-1) < radius.square()
            image[inside] = uniform(0.9, 1.1, 1)
            labels[inside] = 3 if kind == "lesion" else 0
    slices = F.avg_pool3d(image[None, None], (1, 1, THICK))
    slices = slices + 0.05 * torch.randn(slices.shape, generator=generator)
    return F.interpolate(slices, size=(size,) * 3, mode="trilinear", align_corners=False)[0], labels


def batch(count: int, size: int, pose: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    made = []
    for _ in range(count):
        angle = 2 * math.pi * float(torch.rand(1, generator=generator))
        rotations = {"upright": torch.eye(3), "about z": turn("z", angle), "about x": turn("x", math.pi / 2)}
        made.append(scan(size, rotations[pose], generator))
    return torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and soft Dice."""
    hot = F.one_hot(labels, 4).movedim(-1, 1)[:, 1:].float()
    probability = logits.softmax(1)[:, 1:]
    dice = (2 * (hot * probability).sum((0, 2, 3, 4)) + 5) / ((hot + probability).sum((0, 2, 3, 4)) + 5)
    return F.cross_entropy(logits, labels) + 1 - dice.mean()


def draw(path: Path, image: Tensor, labels: Tensor, found: dict[str, Tensor]) -> None:
    """The coronal plane with most labels of a scan `[n, n, n]`, its labels, and what each network finds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap

    plane = int((labels > 0).sum((0, 2)).argmax())
    panels = {"scan, head up": image, "labels": labels} | found
    figure, axes = plt.subplots(1, len(panels), figsize=(2.2 * len(panels), 2.6), layout="constrained")
    colours = ListedColormap(["#111111", "#e07b39", "#3f7fbf", "#f2d544"])
    for axis, (name, volume) in zip(axes, panels.items(), strict=True):
        shown = volume[:, plane].T.numpy()
        limits = {"cmap": "gray", "vmin": 0, "vmax": 1} if volume is image else {"cmap": colours, "vmin": 0, "vmax": 3}
        axis.imshow(shown, origin="lower", interpolation="nearest", **limits)
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=24, help="voxels along each side")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, help="a PNG to draw one test scan and what is found in it into")
    options = parser.parse_args()
    poses = ("upright", "about z", "about x")
    print(
        f"{options.steps} steps of two scans of {options.size}^3 voxels, {options.seeds} seed(s); Dice on 20 new scans"
    )
    print(
        "| group | weights | pose | " + " | ".join(NAMES) + " | mean |\n|---|---|---" + "|---" * (len(NAMES) + 1) + "|"
    )
    drawn: dict[str, Tensor] = {}
    for name in options.networks:
        scores = {pose: torch.zeros(len(NAMES)) for pose in poses}
        started = time.process_time()
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            network = AnyGroup(in_channels=1, out_channels=4, **NETWORKS[name])
            generator = torch.Generator().manual_seed(seed)
            optimiser = torch.optim.AdamW(network.parameters(), 1e-2, betas=(0.9, 0.98), weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=options.steps)
            for _ in range(options.steps):
                images, labels = batch(2, options.size, "upright", generator)
                loss = loss_of(network(images), labels)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
            network.eval()
            for pose in poses:
                images, labels = batch(20, options.size, pose, torch.Generator().manual_seed(10**6))
                with torch.no_grad():
                    found = torch.cat([network(part).argmax(1) for part in images.split(2)])
                if pose == "upright":
                    drawn[name], example = found[0], (images[0, 0], labels[0])
                for number in range(len(NAMES)):
                    a, b = found == number + 1, labels == number + 1
                    scores[pose][number] += 2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1) / options.seeds
        weights = sum(p.numel() for p in network.parameters())
        for pose in poses:
            cells = " | ".join(f"{s:.3f}" for s in scores[pose].tolist())
            print(f"| {name} | {weights:,} | {pose} | {cells} | {scores[pose].mean():.3f} |", flush=True)
        print(f"  ({time.process_time() - started:.0f} s of one core)", flush=True)
    if options.output:
        draw(options.output, *example, drawn)


if __name__ == "__main__":
    main()
