"""Learning curves of NequIP with features of degree 0, 1 and 2 at equal weights, and the exponents that they follow.

    python benchmarks/degree_learning_curves.py -o docs/degree_learning_curves.png      # four minutes on one core
    python benchmarks/degree_learning_curves.py --sizes 8 16 --steps 20 --seeds 1

Batzner et al. (2022, arXiv:2101.03164) report that errors of NequIP fall faster with the number of training structures
once features have directions. Here a structure is a place with six landmarks around it, in any pose, and the target is
a three-body energy of the angles between them (the form of Stillinger and Weber, Phys. Rev. B 31, 5262, 1985),

    E = sum_(i < j) w(r_i) w(r_j) (cos theta_ij + 1/3)^2,     w(r) = exp(-(r - 1)),

standardised. Networks are two interactions between points, so that scalars too can learn of angles, from the distances
between landmarks. Error: root mean square on new structures over that of predicting the mean; a n^-b + c is fitted to
it (`voxseg.evaluation.power_law`), with intervals of a bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from voxseg.baselines.equal_weights import field_type, multiplicities
from voxseg.baselines.messages import Graph
from voxseg.baselines.nequip import NequIPBlock, Places
from voxseg.evaluation.power_law import LearningCurve, fit_power_law
from voxseg.report.learning_curves import draw_learning_curves

LANDMARKS = 6
NEAREST, FARTHEST = 1.0, 2.2
RADIUS = 3.0
PANEL = "any pose"
DEGREES = (0, 1, 2)
MEAN, DEVIATION = 2.24, 0.97
"""About those of E, so that the target is of unit size."""


def structures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions ``[count, 7, 3]`` of the place, at 0, and its landmarks; targets ``[count]``."""
    directions = F.normalize(torch.randn(count, LANDMARKS, 3, generator=generator), dim=-1)
    distances = NEAREST + (FARTHEST - NEAREST) * torch.rand(count, LANDMARKS, generator=generator)
    weights = torch.exp(-(distances - 1))
    first, second = torch.tensor(list(itertools.combinations(range(LANDMARKS), 2))).T
    cosines = (directions[:, first] * directions[:, second]).sum(-1)
    energy = (weights[:, first] * weights[:, second] * (cosines + 1 / 3).square()).sum(1)
    positions = F.pad(distances[..., None] * directions, (0, 0, 1, 0))
    return positions, (energy - MEAN) / DEVIATION


def graph_of(positions: Tensor) -> Graph:
    """All pairs of points of a structure, and each point with itself."""
    count, points = positions.shape[:2]
    numbers = torch.arange(count * points).view(count, points)
    target = numbers[:, :, None].expand(-1, -1, points).flatten()
    source = numbers[:, None, :].expand(-1, points, -1).flatten()
    flat = positions.flatten(0, 1)
    return Graph(source, target, flat[source] - flat[target], count * points)


class Energy(nn.Module):
    """Two interactions, and a readout of the scalars at the place.

    Args:
        copies: of the irreps of degree 0, 1, ... between them.
    """

    def __init__(self, copies: list[int]) -> None:
        super().__init__()
        field, scalars = field_type(copies), 16
        degree = len(copies) - 1
        shared = {"radius": RADIUS, "degree": degree, "bessel": 4}
        self.blocks = nn.ModuleList(
            [NequIPBlock("2x0e", field, **shared), NequIPBlock(field, f"{scalars}x0e", **shared)]
        )
        self.readout = nn.Sequential(nn.Linear(scalars, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, positions: Tensor) -> Tensor:
        """``[N, 7, 3]`` to ``[N]``."""
        count, points = positions.shape[:2]
        graph = graph_of(positions)
        kinds = F.one_hot((torch.arange(count * points) % points > 0).long(), 2).to(positions)
        places = Places(kinds[:, :0], torch.ones(len(kinds), 1).to(positions))
        x = kinds
        for block in self.blocks:
            x = block.on_points(x, graph, places)
        energies: Tensor = self.readout(x[::points])[:, 0]
        return energies


def weights_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def trained(network: Energy, positions: Tensor, targets: Tensor, steps: int, generator: torch.Generator) -> Energy:
    """AdamW with a cosine, batches of at most 16 at random."""
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randperm(len(positions), generator=generator)[:16]
        loss = (network(positions[chosen]) - targets[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def relative_error(network: Energy, positions: Tensor, targets: Tensor) -> float:
    return float((network(positions) - targets).square().mean().sqrt() / targets.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512], help="training structures")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", type=int, default=3000, help="of a network, at most")
    parser.add_argument("--tests", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, help="a PNG to draw the curves into")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    test = structures(options.tests, torch.Generator().manual_seed(10**6))
    curves = []
    print(f"{options.steps} steps, {options.seeds} seed(s); error over that of predicting the mean, mean over seeds")
    heads = " | ".join(f"{size} structures" for size in options.sizes)
    print(f"| features | weights | {heads} | exponent b | what stays, c |\n" + "|---" * (4 + len(options.sizes)) + "|")
    for degree in DEGREES:
        copies = multiplicities(degree, options.weights, lambda copies: weights_of(Energy(list(copies))))
        errors: dict[int, list[float]] = {}
        runs = list(itertools.product(options.sizes, range(options.seeds)))
        for size, seed in tqdm(runs, f"degree {degree}", disable=None, leave=False):
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            network = trained(Energy(copies), *structures(size, generator), options.steps, generator)
            errors.setdefault(size, []).append(min(1.0, relative_error(network, *test)))
        fit = fit_power_law(errors)
        curves.append(LearningCurve(f"degree {degree}", f"features of degree {degree}", PANEL, errors, fit))
        cells = [f"{sum(values) / len(values):.3f}" for values in errors.values()]
        for name in ("b", "c"):
            value = "-" if fit.law is None else f"{getattr(fit.law, name):.2f}"
            bounds = fit.intervals.get(name)
            cells.append(value if bounds is None else f"{value} ({bounds[0]:.2f} to {bounds[1]:.2f})")
        print(f"| {field_type(copies)} | {weights_of(Energy(copies)):,} | " + " | ".join(cells) + " |", flush=True)
        for note in fit.notes:
            print(f"degree {degree}: {note}", file=sys.stderr)
    if options.output:
        subtitle = "points: each seed, hollow: their mean, line: a n^-b + c, band: 95 % interval"
        panels, error = [(PANEL, "two interactions, about 3,000 weights")], "error over that of the mean"
        draw_learning_curves(options.output, curves, "a three-body energy", subtitle, panels, error)


if __name__ == "__main__":
    main()
