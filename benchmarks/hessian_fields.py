"""Hessians of blurred images, learned as matrices and as six separate numbers, upright and turned.

    python benchmarks/hessian_fields.py                 # the table of docs/baselines.md
    python benchmarks/hessian_fields.py --iterations 10 # a look

Images are noise whose structures run along z, as tracts in an upright brain do. The target is the Hessian of the image
blurred by a Gaussian of 0.7 voxels (scipy). Networks see upright images alone, and are tested on images whose
structures run along other directions; the truth is computed there anew, so that nothing is interpolated.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from voxseg.baselines.phisnet import PhiSNet
from voxseg.data.field_kinds import LOWER, FieldTarget
from voxseg.testing import rotation_matrix
from voxseg.training.field_scores import field_errors

SIZE, EDGE = 12, 3  # of an image; what is left out at its border, where a kernel lacks neighbours
BLUR = 0.7
ALONG, ACROSS = 3.0, 0.7  # deviations of the blur that makes noise into structures
POSES = {"upright": (0, 0), "turned 90°": (90, 0), "turned 45°": (45, 20)}
TARGET = FieldTarget(kind="tensor")

Array = NDArray[np.float64]


def sample(random: np.random.Generator, turn: Array) -> tuple[Tensor, Tensor]:
    """An image `[1, X, Y, Z]`, and its Hessian as fields `[6, X, Y, Z]`."""
    waves = np.stack(np.meshgrid(*[2 * math.pi * np.fft.fftfreq(SIZE)] * 3, indexing="ij"), -1)
    spread = turn @ np.diag([ACROSS**2, ACROSS**2, ALONG**2]) @ turn.T
    damping = np.exp(-0.5 * np.einsum("...i,ij,...j->...", waves, spread, waves))
    image = np.fft.ifftn(np.fft.fftn(random.normal(size=(SIZE,) * 3)) * damping).real
    image /= image.std()
    entries = []
    for i, j in LOWER:
        order = [0, 0, 0]
        order[i] += 1
        order[j] += 1
        entries.append(gaussian_filter(image, BLUR, order, radius=3))
    fields = TARGET.encode(np.stack(entries, -1).astype(np.float32))
    return torch.from_numpy(image)[None].float(), torch.from_numpy(fields)


def batch(random: np.random.Generator, turn: Array, count: int = 2) -> tuple[Tensor, Tensor]:
    pairs = [sample(random, turn) for _ in range(count)]
    return torch.stack([image for image, _ in pairs]), torch.stack([fields for _, fields in pairs])


def inner(volume: Tensor) -> Tensor:
    return volume[..., EDGE:-EDGE, EDGE:-EDGE, EDGE:-EDGE]


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Two forms of one network that differ in what their output is, and a kernel for each of six numbers."""
    shared = {"channels": 2, "modules": 1, "radius": 3.0, "radial": 8}
    return {
        "PhiSNet, a matrix (0e+2e)": lambda: PhiSNet(in_channels=1, out_channels=6, output="1x0e+1x2e", **shared),
        "PhiSNet, six scalars (6x0e)": lambda: PhiSNet(in_channels=1, out_channels=6, **shared),
        "a dense 7³ kernel for each of six numbers": lambda: nn.Conv3d(1, 6, 7, padding=3),
    }


def train(network: nn.Module, iterations: int, images: int) -> None:
    """L-BFGS on a few images: targets have no noise, and gradient steps stop at errors of 0.04."""
    image, fields = batch(np.random.default_rng(1), np.eye(3), images)
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (inner(network(image)) - inner(fields)).square().mean()
        value.backward()
        return value

    optimiser.step(loss)


def measured(network: nn.Module, turn: Array) -> dict[str, float]:
    image, fields = batch(np.random.default_rng(2), turn, 4)
    with torch.no_grad():
        found = inner(network(image))
    one, other = (f.transpose(0, 1).flatten(2).unsqueeze(-1).numpy() for f in (found, inner(fields)))
    return field_errors(one, other, np.ones(one.shape[1:], dtype=bool), TARGET)


def main() -> None:
    """Trains the networks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=150, help="of L-BFGS")
    parser.add_argument("--images", type=int, default=4, help="to learn from")
    options = parser.parse_args()
    print("| | weights | " + " | ".join(f"{pose}: error, angle" for pose in POSES) + " |")
    print("|---" * (2 + len(POSES)) + "|", flush=True)
    for name, make in networks().items():
        torch.manual_seed(0)
        network = make()
        train(network, options.iterations, options.images)
        cells = []
        for about_x, about_y in POSES.values():
            turn = (rotation_matrix((0, 1, 0), about_y) @ rotation_matrix((1, 0, 0), about_x)).numpy()
            errors = measured(network, turn)
            cells.append(f"{errors['relative_error']:.4f}, {errors['angle']:.2f}°")
        weights = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {name} | {weights:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
