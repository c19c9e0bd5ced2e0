"""Tetris shapes in voxels: networks trained on each shape in one pose, tested in others.

The experiment of Weiler et al. (2018, arXiv:1807.02547) and of e3nn's first example at toy size. Three tests: the
pose of the training, the 24 rotations of the grid, and random rotations, for which shapes are drawn anew. Minutes on
one core:

    python benchmarks/tetris.py [--steps 80] [--poses 24] [--seeds 2] [--size 12 --edge 2 --blur 0.7]
    python benchmarks/tetris.py --band-limited --size 28 --edge 3 --blur 1.5 --steps 60 --seeds 1 --poses 12

With ``--band-limited`` other networks, with less that a turned grid samples otherwise: no stride, no norm within the
blocks, volumes of less contrast, and kernels that a grid holds, beside the paper's shells. Each shape of a training
step is shifted by a random part of a voxel, upright as ever, and the blocks take small steps: of large ones they learn
what tells shapes apart in this one pose. Features must not reach the border of the grid, which is nearer along an axis
than along a diagonal: the line, of four edges, needs 8 voxels beyond each of its ends.

Prints a markdown table: shapes told right, in percent (mean over seeds), and whether the mirror pair is told apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from voxseg.baselines.classifier import FieldClassifier
from voxseg.baselines.e3nn_gates import E3nnLayers
from voxseg.baselines.se3cnn import SE3Layers
from voxseg.baselines.tetris import CHIRAL, SHAPES, tetris
from voxseg.networks import NetworkConfig
from voxseg.networks.layers import PlainLayers
from voxseg.networks.unet import LayerFactory
from voxseg.testing import grid_rotations, rotate_field, rotation_matrix

SO3 = ("4x0e+6x1e+4x2e",) * 3
SO3_BAND_LIMITED = ("4x0e+6x1e+4x2e", "4x0e+6x1e+4x2e", "24x0e")
O3_BAND_LIMITED = ("4x0e+6x1o+4x2e", "4x0e+4x1o+6x1e+3x2e+3x2o", "16x0e+8x0o")
O3 = ("4x0e+6x1o+4x2e", "4x0e+3x0o+6x1o+3x1e+3x2e+3x2o", "4x0e+3x0o+6x1o+3x1e+3x2e")
AMPLITUDE = {False: 4.0, True: 1.0}
"""Of the volumes, by whether networks are band-limited: where it is small, non-linearities hardly bend; where it is
large, they have edges that a grid samples otherwise when a shape turns."""


@dataclass(frozen=True)
class Arm:
    """A network.

    Attributes:
        name: in the table.
        layers: of its blocks.
        levels: field type after each block.
        out: field type of the outputs.
        rate: of learning.
        logits: of the outputs.
        read_rate: how many times as fast the map from sums to outputs learns; where not 1, gradients are clipped too.
    """

    name: str
    layers: LayerFactory
    levels: tuple[str, ...]
    out: str
    rate: float
    logits: Callable[[Tensor], Tensor] = torch.clone
    read_rate: float = 1.0


def with_pseudoscalar(outputs: Tensor) -> Tensor:
    """Logits of seven scalars and a pseudoscalar, whose sign tells the mirror images apart."""
    sign = outputs[:, 7:]
    return torch.cat([sign * outputs[:, :1], -sign * outputs[:, :1], outputs[:, 1:7]], 1)


def arms(band_limited: bool) -> list[Arm]:
    if band_limited:
        harmonics = {"size": 9, "sigma": 1.0, "kernels": "solid_harmonics", "norm": False}
        shells = SE3Layers(cutoff="conservative", norm=False, group="O3")
        odd = (O3_BAND_LIMITED, "7x0e+1x0o", 0.003, with_pseudoscalar, 10.0)
        return [
            Arm("O(3), one odd output, solid harmonics", SE3Layers(**harmonics, group="O3"), *odd),
            Arm("O(3), one odd output, shells", shells, *odd),
            Arm("SO(3), solid harmonics", SE3Layers(**harmonics), SO3_BAND_LIMITED, "8x0e", 0.003, read_rate=10.0),
        ]
    plain = PlainLayers(NetworkConfig(architecture="plain_unet", plain_kernel=5))
    return [
        Arm("3D Steerable CNN, gated", SE3Layers(), SO3, "8x0e", 0.03),
        Arm("3D Steerable CNN, norm", SE3Layers(nonlinearity="norm"), SO3, "8x0e", 0.03),
        Arm("e3nn gate blocks, SO(3)", E3nnLayers(norm="none"), SO3, "8x0e", 0.05),
        Arm("e3nn gate blocks, O(3), even outputs", E3nnLayers("O3", "none"), O3, "8x0e", 0.03),
        Arm(
            "e3nn gate blocks, O(3), one odd output", E3nnLayers("O3", "none"), O3, "7x0e+1x0o", 0.03, with_pseudoscalar
        ),
        Arm("plain CNN", plain, ("24x0e",) * 3, "8x0e", 0.003),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--poses", type=int, default=24, help="random rotations")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=12, help="voxels of the grid along each axis")
    parser.add_argument("--edge", type=float, default=2.0, help="of a cube, in voxels")
    parser.add_argument("--blur", type=float, default=0.7, help="in voxels")
    parser.add_argument("--band-limited", action="store_true", help="networks with little aliasing")
    parser.add_argument("--only", default="", help="part of the name of the networks to train")
    options = parser.parse_args()

    shape = {"size": options.size, "edge": options.edge, "blur": options.blur}
    strides = (1, 1, 1) if options.band_limited else (1, 2, 1)
    amplitude = AMPLITUDE[options.band_limited]
    upright = amplitude * tetris(**shape).float()

    def shown() -> Tensor:
        """The volumes of a training step."""
        if not options.band_limited:
            return upright
        return amplitude * tetris(**shape, shift=torch.rand(len(SHAPES), 3) - 0.5).float()

    turned = [rotate_field(upright, rotation, "1x0e") for rotation in grid_rotations()]
    generator = torch.Generator().manual_seed(0)
    anywhere = []
    for _ in range(options.poses):
        axis, angle = torch.randn(3, generator=generator), 360 * torch.rand(1, generator=generator)
        anywhere.append(amplitude * tetris(rotation_matrix(axis.tolist(), angle.item()), **shape).float())

    print("| network | weights | trained pose | 24 poses of the grid | random poses | mirror pair told apart |")
    print("|---|---|---|---|---|---|")
    for arm in (arm for arm in arms(options.band_limited) if options.only in arm.name):
        results = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            network = FieldClassifier(arm.layers, 1, arm.levels, strides, arm.out)
            train(network, arm, shown, options.steps, f"{arm.name}, seed {seed}")
            results.append([right(network, arm, poses) for poses in ([upright], turned, anywhere)])
            pair = bool(predictions(network, arm, upright)[list(CHIRAL)].equal(torch.tensor(CHIRAL)))
            results[-1].append(100.0 * pair)
        weights = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        same, grid, random, pair = (sum(column) / len(column) for column in zip(*results, strict=True))
        told = "yes" if pair == 100 else "no" if pair == 0 else "in some runs"
        print(f"| {arm.name} | {weights:,} | {same:.0f} % | {grid:.0f} % | {random:.0f} % | {told} |", flush=True)


def train(network: FieldClassifier, arm: Arm, volumes: Callable[[], Tensor], steps: int, text: str) -> None:
    """Adam with a cosine on all eight shapes at once; the norm's running means settle at the end."""
    classes = torch.arange(len(SHAPES))
    blocks = [weight for weight in network.blocks.parameters() if weight.requires_grad]
    read = {"params": list(network.read.parameters()), "lr": arm.read_rate * arm.rate}
    optimiser = torch.optim.Adam([{"params": blocks}, read], arm.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in tqdm(range(steps), text, leave=False, disable=None):
        loss = F.cross_entropy(arm.logits(network(volumes())), classes)
        optimiser.zero_grad()
        loss.backward()
        if arm.read_rate != 1:
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    network.norm.momentum = 1.0
    with torch.no_grad():
        network(torch.cat([volumes() for _ in range(3)]))
    network.eval()


def predictions(network: FieldClassifier, arm: Arm, volumes: Tensor) -> Tensor:
    with torch.no_grad():
        return arm.logits(network(volumes)).argmax(1)


def right(network: FieldClassifier, arm: Arm, poses: list[Tensor]) -> float:
    """Percent of the shapes in all poses."""
    classes = torch.arange(len(SHAPES))
    counts = [(predictions(network, arm, volumes) == classes).float().mean().item() for volumes in poses]
    return 100 * sum(counts) / len(counts)


if __name__ == "__main__":
    main()
