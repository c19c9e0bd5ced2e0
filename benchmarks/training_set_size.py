"""Accuracy against the number of training volumes: a 3D steerable CNN beside a plain CNN with ten times the weights.

    python benchmarks/training_set_size.py -o docs/training_set_size.png
    python benchmarks/training_set_size.py --npz nodulemnist3d.npz --sizes 20 80 320 1158 --steps 600

Weiler et al. (2018, arXiv:1807.02547, section 5.4) do it with proteins. Here volumes of 28^3 voxels are classified: by
default generated ones, clusters of four balls in the six mirror-symmetric arrangements of the Tetris shapes, with
places, sizes and brightnesses that vary, and noise; or those of a file in the layout of MedMNIST3D
(``train_images`` ``[N, 28, 28, 28]`` in 0 to 255, ``train_labels`` ``[N, 1]``, ``test_images``, ``test_labels``),
which the user has. Trained upright, without augmentation, tested upright and turned at random: generated volumes are
drawn anew in the pose, those of a file are interpolated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from tqdm import tqdm

from voxseg.baselines.classifier import FieldClassifier
from voxseg.baselines.se3cnn import SE3Layers, SmoothStride
from voxseg.baselines.tetris import SHAPES
from voxseg.networks import NetworkConfig
from voxseg.networks.layers import PlainLayers

SIZE = 28
KINDS = list(SHAPES.values())[2:]
"""Those that are their own mirror images."""

LEVELS = ("6x0e+6x1e+4x2e", "6x0e+6x1e+4x2e", "32x0e")
BORDER = 1
"""Zeros around the halved grid."""

TIMES = 10
"""Weights of the plain network over those of the steerable one."""


def generated(count: int, turned: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Volumes ``[count, 1, 28, 28, 28]`` and their kinds ``[count]``, equally many of each."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    kinds = torch.arange(count) % len(KINDS)
    places = torch.tensor(KINDS, dtype=torch.float32)[kinds]
    places = (places - places.mean(1, keepdim=True)) * uniform(5.0, 6.0, count, 1, 1)
    balls = places + 0.4 * torch.randn(places.shape, generator=generator)
    if turned:
        rotations = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()).float()
        balls = torch.einsum("nij,nkj->nki", rotations, balls)
    balls = balls + uniform(-1.5, 1.5, count, 1, 3)
    widths, bright = uniform(1.6, 2.0, count, 4), uniform(0.8, 1.0, count, 4)
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    volumes = []
    for centres, width, height in zip(balls, widths, bright, strict=True):
        # A Gaussian is the product of one along each axis.
        along = torch.exp(-((axis - centres[..., None]) ** 2) / (2 * width[:, None, None] ** 2))  # [4, 3, 28]
        volumes.append(torch.einsum("k,kx,ky,kz->xyz", height, along[:, 0], along[:, 1], along[:, 2]))
    clean = torch.stack(volumes)[:, None]
    return clean + 0.03 * torch.randn(clean.shape, generator=generator), kinds


def medmnist(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """``train`` and ``test`` of a file: volumes ``[N, 1, 28, 28, 28]`` in 0 to 1, and classes ``[N]``.

    Raises:
        SystemExit: the file is no such file.
    """
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for part in ("train", "test") for key in (f"{part}_images", f"{part}_labels")}
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{path}: not a file of MedMNIST3D ({error})") from None
    parts = {}
    for part in ("train", "test"):
        images, labels = torch.from_numpy(arrays[f"{part}_images"]), torch.from_numpy(arrays[f"{part}_labels"])
        if images.ndim != 4 or labels.numel() != len(images):
            raise SystemExit(f"{path}: {part}_images and {part}_labels are no volumes with a class each")
        parts[part] = images.float()[:, None] / 255, labels.flatten().long()
    return parts


def turned(volumes: Tensor, seed: int) -> Tensor:
    """Each by a random rotation about its centre, interpolated linearly, zero outside."""
    rotations = torch.from_numpy(Rotation.random(len(volumes), random_state=seed).as_matrix()).float()
    grid = F.affine_grid(F.pad(rotations, (0, 1)), list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes, grid, align_corners=False)


def networks(classes: int) -> dict[str, Callable[[], nn.Sequential]]:
    """What is compared; both first halve the grid with a low-pass.

    The steerable one goes as far as it can to have the same sums in every pose: kernels that a grid holds, no further
    stride, a border that its features do not reach, and no norm that makes empty space as loud as what lies in it.
    """
    out = f"{classes}x0e"

    def steerable() -> nn.Sequential:
        layers = SE3Layers(size=7, sigma=1.0, kernels="solid_harmonics", norm=False)
        return nn.Sequential(
            SmoothStride((2, 2, 2)), nn.ConstantPad3d(BORDER, 0.0), FieldClassifier(layers, 1, LEVELS, (1, 1, 1), out)
        )

    def plain(width: int) -> nn.Sequential:
        layers = PlainLayers(NetworkConfig(architecture="plain_unet", plain_kernel=3))
        return nn.Sequential(
            SmoothStride((2, 2, 2)), FieldClassifier(layers, 1, (f"{width}x0e",) * len(LEVELS), (2, 1, 1), out)
        )

    wanted = TIMES * weights_of(steerable())
    width = next(n for n in range(4, 1000) if weights_of(plain(n)) >= wanted)
    return {"3D Steerable CNN": steerable, "plain CNN": lambda: plain(width)}


def weights_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def trained(
    network: nn.Sequential, volumes: Tensor, kinds: Tensor, steps: int, rates: tuple[float, float], seed: int
) -> nn.Module:
    """AdamW with a cosine, batches of 16 at random; rates of the blocks, and of the map from sums to classes."""
    generator = torch.Generator().manual_seed(seed)
    classifier = network[-1]
    assert isinstance(classifier, FieldClassifier)
    groups = [{"params": list(part.parameters())} for part in (classifier.blocks, classifier.read)]
    optimiser = torch.optim.AdamW(groups, rates[0], weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, list(rates), total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(volumes), (16,), generator=generator)
        loss = F.cross_entropy(network(volumes[chosen]), kinds[chosen])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, volumes: Tensor, kinds: Tensor) -> float:
    found = torch.cat([network(part).argmax(1) for part in volumes.split(32)])
    return (found == kinds).float().mean().item()


def table(results: dict[tuple[str, int], list[tuple[float, float]]], weights: dict[str, int], sizes: list[int]) -> str:
    """Markdown, a row a network; means over the seeds."""
    lines = ["| network | weights | " + " | ".join(f"{size} volumes" for size in sizes) + " |"]
    lines.append("|---" * (2 + len(sizes)) + "|")
    for name in weights:
        means = [[statistics.mean(scores) for scores in zip(*results[name, size], strict=True)] for size in sizes]
        cells = " | ".join(f"{upright:.2f} / {turned:.2f}" for upright, turned in means)
        lines.append(f"| {name} | {weights[name]:,} | {cells} |")
    return "\n".join(lines)


def draw(path: Path, results: dict[tuple[str, int], list[tuple[float, float]]], labels: dict[str, str]) -> None:
    """Accuracy against the number of volumes; lines through means, a point a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    for pose, (axis, title) in enumerate(zip(axes, ("tested upright", "tested turned"), strict=True)):
        for (name, label), colour in zip(labels.items(), ("#3f7fbf", "#e07b39"), strict=True):
            sizes = sorted(size for network, size in results if network == name)
            means = [statistics.mean(pair[pose] for pair in results[name, size]) for size in sizes]
            axis.plot(sizes, means, "o-", color=colour, markerfacecolor="white", label=label)
            for size in sizes:
                points = [pair[pose] for pair in results[name, size]]
                axis.plot([size] * len(points), points, ".", color=colour)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel("training volumes, all upright")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 24, 48, 96], help="training volumes")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tests", type=int, default=120, help="generated volumes of each pose to test on")
    parser.add_argument("--npz", type=Path, help="a file in the layout of MedMNIST3D")
    parser.add_argument("-o", "--output", type=Path, help="a PNG to draw the curves into")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    if options.npz:
        parts = medmnist(options.npz)
        tests = [parts["test"], (turned(parts["test"][0], 0), parts["test"][1])]
        classes = int(parts["train"][1].max()) + 1
        if max(options.sizes) > len(parts["train"][0]):
            raise SystemExit(f"{options.npz}: has {len(parts['train'][0])} volumes to train on, --sizes asks for more")
    else:
        tests = [generated(options.tests, turned, 10**6) for turned in (False, True)]
        classes = len(KINDS)
    made = networks(classes)
    rates = {"3D Steerable CNN": (0.01, 0.1), "plain CNN": (0.005, 0.005)}
    weights = {name: weights_of(make()) for name, make in made.items()}
    results: dict[tuple[str, int], list[tuple[float, float]]] = {}
    plan = [(size, name) for size in options.sizes for name in made]
    print(f"{options.steps} steps of 16 volumes, {classes} classes; accuracy upright / turned, mean over seeds")
    for seed in range(options.seeds):
        for size, name in tqdm(plan, f"seed {seed}", disable=None, leave=False):
            torch.manual_seed(seed)
            if options.npz:
                order = torch.randperm(len(parts["train"][0]), generator=torch.Generator().manual_seed(seed))[:size]
                volumes, kinds = (tensor[order] for tensor in parts["train"])
            else:
                volumes, kinds = generated(size, False, seed)
            network = trained(made[name](), volumes, kinds, options.steps, rates[name], seed)
            scores = tuple(accuracy(network, *test) for test in tests)
            results.setdefault((name, size), []).append(scores)
            tqdm.write(f"{name}, {size}: {scores[0]:.2f} upright, {scores[1]:.2f} turned", file=sys.stderr)
        print(f"\nseeds: {seed + 1}\n\n{table(results, weights, options.sizes)}", flush=True)
    if options.output:
        draw(options.output, results, {name: f"{name}, {weights[name]:,} weights" for name in made})


if __name__ == "__main__":
    main()
