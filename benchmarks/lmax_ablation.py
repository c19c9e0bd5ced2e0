"""Degrees of features and of filters at equal weights, against depth: scalar and vector targets.

    python benchmarks/lmax_ablation.py -o docs/lmax_ablation.png

After Miller, Geiger, Smidt and Noe (2020, arXiv:2008.08461), who compare them on molecules. Here a volume has an object
of three balls, a middle and two arms of equal length, straight or bent by a right angle, and a ball apart. The scalar
target is the class of each voxel inside: straight, bent, apart. Balls look alike, and arms differ in length from object
to object, so that their arrangement has to be seen. The vector target is the direction in which a bent object opens, at
its voxels, and zero elsewhere. Trained upright, the arms along axes of the grid; tested upright and turned at random.
Volumes are drawn in closed form, nothing is interpolated.

All networks are plain stacks of `se3cnn` blocks with about as many weights; the copies of each irrep are solved for.
Errors: share of voxels inside told wrong; mean squared error of the vector over that of predicting zero.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from tqdm import tqdm

from voxseg.baselines.equal_weights import field_type, multiplicities
from voxseg.baselines.se3cnn import SE3Layers
from voxseg.steerable import FieldType

CLASSES = ("straight", "bent", "apart")
INSIDE = 0.3
"""Intensity from which on a voxel counts."""

RADIUS = 0.8
"""Standard deviation of a ball in voxels."""


@dataclass(frozen=True)
class Arm:
    """A network: highest degree of features and of filters, and blocks."""

    features: int
    filters: int
    depth: int

    def degree(self, block: int) -> int:
        """Of the features after a block, from 1: scalars reach no more than filters of so many blocks bring."""
        return min(self.features, self.filters * block)


GROUPS = {
    "degree of the features": [Arm(0, 2, 3), Arm(1, 2, 3), Arm(2, 2, 3), Arm(3, 2, 3)],
    "degree of the filters": [Arm(2, 0, 3), Arm(2, 1, 3), Arm(2, 2, 3), Arm(2, 3, 3)],
    "depth, degree 2": [Arm(2, 2, 2), Arm(2, 2, 3), Arm(2, 2, 4)],
    "depth, degree 0": [Arm(0, 2, 2), Arm(0, 2, 3), Arm(0, 2, 5)],
}


def batch(count: int, size: int, turned: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes ``[count, 1, X, Y, Z]``, classes ``[count, X, Y, Z]``, -1 outside, vectors ``[count, 3, X, Y, Z]``."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    axes = torch.eye(3)[torch.rand(count, 3, generator=generator).argsort(1)]  # three axes in random order
    axes = axes * (2.0 * torch.randint(0, 2, (count, 3, 1), generator=generator) - 1)
    if turned:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        rotations = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()).float()
        axes = torch.einsum("nij,nkj->nki", rotations, axes)
    bent = torch.randint(0, 2, (count, 1), generator=generator).bool()
    length = uniform(0.20, 0.30, count, 1) * size
    first = length * axes[:, 0]
    second = torch.where(bent, length * axes[:, 1], -first)
    middle = uniform(-0.5, 0.5, count, 3)
    away = -(axes[:, 0] + axes[:, 1] + axes[:, 2]) / math.sqrt(3) * 0.36 * size  # from the arms of both kinds
    balls = torch.stack([middle, middle + first, middle + second, middle + away], 1)
    axis = torch.arange(size) - (size - 1) / 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    squares = (points[None, None] - balls[:, :, None, None, None]).square().sum(-1)  # [count, 4, X, Y, Z]
    parts = torch.exp(-squares / (2 * RADIUS**2))
    image = parts.sum(1, keepdim=True)
    inside, apart = image[:, 0] > INSIDE, parts[:, 3] > parts[:, :3].amax(1)
    kind = bent.long().view(-1, 1, 1, 1).expand_as(inside)
    classes = torch.where(apart, 2, kind).masked_fill(~inside, -1)
    opening = F.normalize(first + second, dim=1) * bent
    vectors = opening[:, :, None, None, None] * (inside & ~apart)[:, None]
    return image + 0.02 * torch.randn(image.shape, generator=generator), classes, vectors


class Stack(nn.Module):
    """Blocks without strides, and a linear map at each voxel; zeros where the features cannot make the output."""

    def __init__(self, arm: Arm, copies: Sequence[int], out: str) -> None:
        super().__init__()
        layers, field, blocks = SE3Layers(max_degree=arm.filters), FieldType("1x0e"), []
        for number in range(1, arm.depth + 1):
            following = FieldType(field_type(copies[: arm.degree(number) + 1]))
            blocks.append(layers.block(field, following, (1.0, 1.0, 1.0), 0, (1, 1, 1)))
            field = following
        self.blocks, self.out = nn.Sequential(*blocks), FieldType(out)
        possible = {i.name for i in self.out.irreps} <= {i.name for i in field.irreps}
        self.read = layers.linear(field, self.out) if possible else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 1, X, Y, Z]`` to ``[B, out.channels, X, Y, Z]``."""
        if self.read is None:
            return x.new_zeros(x.shape[0], self.out.channels, *x.shape[2:])
        y: Tensor = self.read(self.blocks(x))
        return y


def weights_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def made(arm: Arm, target: int) -> tuple[list[int], int]:
    """Copies of each irrep, and weights, of the network of scalar outputs with at most so many."""
    out = f"{len(CLASSES)}x0e"
    degree = arm.degree(arm.depth)
    copies = multiplicities(degree, target, lambda n: weights_of(Stack(arm, n, out)))
    return copies, weights_of(Stack(arm, copies, out))


def loss_of(found: Tensor, classes: Tensor, vectors: Tensor, scalar: bool) -> Tensor:
    """Cross-entropy inside, or the squared error of the vectors over that of predicting zero."""
    if scalar:
        return F.cross_entropy(found, classes, ignore_index=-1)
    return (found - vectors).square().sum() / vectors.square().sum().clamp(min=1)


def run(arm: Arm, copies: Sequence[int], target: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Errors upright and turned of a network trained upright."""
    torch.manual_seed(seed)
    scalar = target == "scalar"
    network = Stack(arm, copies, f"{len(CLASSES)}x0e" if scalar else "1x1e")
    if network.read is not None:
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, total_steps=options.steps)
        for _ in range(options.steps):
            image, classes, vectors = batch(options.batch, options.size, False, generator)
            loss = loss_of(network(image), classes, vectors, scalar)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    network.eval()
    errors = []
    for turned in (False, True):
        image, classes, vectors = batch(options.tests, options.size, turned, torch.Generator().manual_seed(10**6))
        with torch.no_grad():
            found = torch.cat([network(part) for part in image.split(8)])
        inside = classes >= 0
        wrong = (found.argmax(1) != classes)[inside].float().mean()
        errors.append((wrong if scalar else (found - vectors).square().sum() / vectors.square().sum()).item())
    return errors[0], errors[1]


def table(sizes: dict[Arm, tuple[list[int], int]], results: dict[tuple[Arm, str], list[tuple[float, float]]]) -> str:
    """Markdown, a row a network of each group; means over the seeds."""
    head = ("varied", "features", "filters", "blocks", "field type", "weights", "scalar, upright", "turned")
    lines = ["| " + " | ".join([*head, "vector, upright", "turned"]) + " |", "|---" * 10 + "|"]
    for group, members in GROUPS.items():
        for arm in members:
            copies, weights = sizes[arm]
            network = [group, arm.features, arm.filters, arm.depth, field_type(copies), f"{weights:,}"]
            errors = [
                statistics.mean(pair[pose] for pair in results[arm, target])
                for target in ("scalar", "vector")
                for pose in (0, 1)
            ]
            lines.append("| " + " | ".join([*map(str, network), *(f"{error:.3f}" for error in errors)]) + " |")
    return "\n".join(lines)


def draw(path: Path, results: dict[tuple[Arm, str], list[tuple[float, float]]]) -> None:
    """Errors of turned volumes, each seed a point, a panel for each target and group."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(GROUPS), figsize=(10, 5), layout="constrained", sharey="row")
    for row, target in zip(axes, ("scalar", "vector"), strict=True):
        for axis, (group, arms) in zip(row, GROUPS.items(), strict=True):
            values = {
                "degree of the features": [arm.features for arm in arms],
                "degree of the filters": [arm.filters for arm in arms],
            }.get(group, [arm.depth for arm in arms])
            for pose, colour, name in ((0, "#3f7fbf", "upright"), (1, "#e07b39", "turned")):
                means = [statistics.mean(pair[pose] for pair in results[arm, target]) for arm in arms]
                axis.plot(values, means, "o-", color=colour, markerfacecolor="white", label=name)
                for value, arm in zip(values, arms, strict=True):
                    axis.plot(
                        [value] * len(results[arm, target]), [p[pose] for p in results[arm, target]], ".", color=colour
                    )
            axis.set_xticks(values)
            axis.set_xlabel(group, fontsize=9)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(
            "voxels told wrong" if target == "scalar" else "squared error of the vector\n(1: of predicting zero)"
        )
    axes[0, -1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=10, help="voxels along each side")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--tests", type=int, default=48, help="volumes of each pose to test on")
    parser.add_argument("--weights", type=int, default=2500, help="of each network, at most")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("-o", "--output", type=Path, help="a PNG to draw the errors into")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # far from the balls features are tiny
    arms = list(dict.fromkeys(arm for group in GROUPS.values() for arm in group))
    sizes = {arm: made(arm, options.weights) for arm in arms}
    results: dict[tuple[Arm, str], list[tuple[float, float]]] = {}
    plan = [(arm, target) for arm in arms for target in ("scalar", "vector")]
    print(f"{options.steps} steps of {options.batch} volumes of {options.size}^3 voxels, mean over seeds")
    for seed in range(options.seeds):
        for arm, target in tqdm(plan, f"seed {seed}", disable=None, leave=False):
            errors = run(arm, sizes[arm][0], target, seed, options)
            results.setdefault((arm, target), []).append(errors)
            tqdm.write(f"{arm} {target}: {errors[0]:.3f} upright, {errors[1]:.3f} turned", file=sys.stderr)
        print(f"\nseeds: {seed + 1}\n\n{table(sizes, results)}", flush=True)
    if options.output:
        draw(options.output, results)


if __name__ == "__main__":
    main()
