"""A signed distance and its normals: the gradient of a learned potential beside a vector of its own.

    python benchmarks/signed_distance.py              # under a minute on one core
    python benchmarks/signed_distance.py --steps 5

From the image of a ball of any place and size, on voxels of 1 mm, networks learn the distance from its surface at
points within 1 mm of it, negative inside, and the normal there. "potential": `voxseg.baselines.potential`, whose normal
is its gradient. "distance and vector apart": the same messages, read as a scalar and as a vector of degree 1. Errors on
new balls; slope: how far the vectors are from finite differences of the distance; curl: antisymmetric part of the
vectors' derivatives, by finite differences in float64. Both over the size of what they are a part of.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.baselines.messages import Messages
from voxseg.baselines.nequip import NequIPBlock, TissueClasses
from voxseg.baselines.points import radius_graph
from voxseg.baselines.potential import ScalarPotential

FIELD, HIDDEN, RADIUS, SIDE = "8x0e+4x1e", 16, 2.5, 11
STEP = 1e-4
"""mm, of finite differences in float64."""


class Apart(nn.Module):
    """A scalar and a vector at points, each read from messages of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.messages = Messages(FIELD, f"{HIDDEN}x0e+1x1e", RADIUS)
        self.readout = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def with_force(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """As `ScalarPotential.with_force`."""
        places = torch.cartesian_prod(*[torch.arange(n) for n in features.shape[1:]]).to(points)
        heard = self.messages.on_points(features.flatten(1).T, radius_graph(places, RADIUS, points))
        return self.readout(heard[:, :HIDDEN])[:, 0], heard[:, HIDDEN:]


class Network(nn.Module):
    """An interaction on voxels, and a head that reads it at points."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.block = NequIPBlock("1x0e", FIELD, radius=RADIUS, spacing=1.0)
        self.classes, self.head = TissueClasses(1, 1), head

    def forward(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``[N]`` and normals ``[N, 3]`` at points ``[N, 3]`` of an image ``[1, 1, X, Y, Z]``."""
        places = self.classes.on_voxels(image)
        distance, force = self.head.with_force(self.block(image, places, places)[0], points)  # type: ignore[operator]
        return distance, -force


def ball(generator: torch.Generator, points: int = 200) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An image, points near the surface, distances from it, and normals."""
    centre = SIDE // 2 + torch.rand(3, generator=generator) - 0.5
    radius = 2.5 + torch.rand(1, generator=generator)
    axis = torch.arange(float(SIDE))
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    image = torch.sigmoid(3 * (radius - (grid - centre).norm(dim=-1)))[None, None]
    normals = F.normalize(torch.randn(points, 3, generator=generator), dim=1)
    distances = 2 * torch.rand(points, generator=generator) - 1
    return image, centre + (radius + distances)[:, None] * normals, distances, normals


def train(network: Network, steps: int, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        image, points, distances, normals = ball(generator)
        distance, normal = network(image, points)
        loss = (distance - distances).square().mean() + (normal - normals).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def measured(network: Network, balls: int = 8) -> list[float]:
    """Root mean square error of the distance in mm, mean angle of the normal in degrees, slope, curl."""
    generator = torch.Generator().manual_seed(10**6)
    network = network.double()
    distance_errors, angles, slopes, curls = [], [], [], []
    for _ in range(balls):
        image, points, distances, normals = (part.double() for part in ball(generator, 50))
        distance, normal = (part.detach() for part in network(image, points))
        distance_errors.append((distance - distances).square().mean())
        angles.append(torch.rad2deg(torch.arccos(F.cosine_similarity(normal, normals).clamp(-1, 1))).mean())
        columns, slope = [], []
        for step in STEP * torch.eye(3, dtype=torch.float64):
            (above, after), (below, before) = (network(image, points + sign * step) for sign in (1, -1))
            columns.append((after - before).detach() / (2 * STEP))
            slope.append((above - below).detach() / (2 * STEP))
        jacobian = torch.stack(columns, -1)
        slopes.append((torch.stack(slope, -1) - normal).norm() / normal.norm())
        curls.append((jacobian - jacobian.mT).norm() / 2 / jacobian.norm())
    return [
        float(torch.stack(distance_errors).mean().sqrt()),
        *(float(torch.stack(v).mean()) for v in (angles, slopes, curls)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    heads: dict[str, Callable[[], nn.Module]] = {
        "potential and its gradient": lambda: ScalarPotential(FIELD, HIDDEN, RADIUS),
        "distance and vector apart": Apart,
    }
    print(f"{options.steps} steps of one ball, one seed")
    print("| | weights | distance, error in mm | normal, angle | slope | curl |\n" + "|---" * 6 + "|")
    for name, head in heads.items():
        torch.manual_seed(0)
        network = Network(head())
        train(network, options.steps, torch.Generator().manual_seed(0))
        distance, angle, slope, curl = measured(network)
        weights = sum(p.numel() for p in network.parameters())
        print(f"| {name} | {weights:,} | {distance:.3f} | {angle:.1f}° | {slope:.0e} | {curl:.0e} |", flush=True)


if __name__ == "__main__":
    main()
