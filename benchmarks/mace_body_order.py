"""What one layer can tell apart by the order of its products: two tasks whose labels need body order 3, then 4.

    python benchmarks/mace_body_order.py             # about two minutes on one core
    python benchmarks/mace_body_order.py --steps 5

Six blobs at the corners of an octahedron around a place, in any pose, a little out of place, with intensities. In
"angles" two of them are there, opposite each other or not: the same distances, told apart by pairs of neighbours
(order 2). In "triples" all are there, with intensities that stretch or flatten the arrangement by opposite quadrupoles:
the same distances and the same power of every degree up to 2, told apart by triples (order 3). Networks are layers of
MACE between the points (blobs in every pose, with no error of a grid), read at the centre. All have about the same
number of weights; the more layers, the fewer channels. Accuracy on new poses, where one half is chance.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from voxseg.baselines.mace import MACEBlock
from voxseg.baselines.messages import Graph
from voxseg.baselines.nequip import TissueClasses

ARRANGEMENTS = {
    "angles": ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)),
    "triples": ((0.5, 0.5, 2.0) * 2, (1.5, 1.5, 0.0) * 2),
}
NETWORKS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (5, 1)]
"""Layers and order."""

WEIGHTS = 1000


def batch(task: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Places ``[count, 7, 3]``, the centre first, intensities ``[count, 7]`` and labels ``[count]``."""
    labels = torch.randint(2, (count,), generator=generator)
    turns = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator)).Q
    corners = torch.cat([torch.eye(3), -torch.eye(3)]) @ turns
    corners = corners + 0.01 * torch.randn(corners.shape, generator=generator)
    intensities = torch.tensor(ARRANGEMENTS[task])[labels]
    intensities = intensities + 0.01 * torch.randn(intensities.shape, generator=generator)
    centre = torch.zeros(count, 1, 3)
    return torch.cat([centre, corners], 1), torch.cat([torch.ones(count, 1), intensities], 1), labels


def graph_of(places: Tensor, star: bool) -> Graph:
    """All pairs of an arrangement's points, or only those with the centre."""
    count, size = places.shape[:2]
    target, source = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pairs = torch.stack([target.flatten(), source.flatten()])
    if star:
        pairs = pairs[:, (pairs[0] == 0) | (pairs[1] == 0) | (pairs[0] == pairs[1])]
    offsets = places[:, pairs[1]] - places[:, pairs[0]]
    first = size * torch.arange(count)[:, None]
    return Graph((pairs[1] + first).flatten(), (pairs[0] + first).flatten(), offsets.flatten(0, 1), count * size)


class Stack(nn.Module):
    """Layers of MACE and a linear map of the centre's scalars, without any other non-linearity."""

    def __init__(self, layers: int, order: int, channels: int) -> None:
        super().__init__()
        hidden = f"{channels}x0e+{channels}x1e+{channels}x2e"
        fields = ["1x0e", *[hidden] * (layers - 1), f"{channels}x0e"]
        self.blocks = nn.ModuleList(
            MACEBlock(a, b, order=order, channels=channels, norm=False, radius=2.5, spacing=1.5)
            for a, b in itertools.pairwise(fields)
        )
        self.classes = TissueClasses(1, 1)
        self.last = nn.Linear(channels, 2)

    def forward(self, places: Tensor, intensities: Tensor, star: bool) -> Tensor:
        """Logits ``[count, 2]``."""
        graph, x = graph_of(places, star), intensities.reshape(-1, 1)
        known = self.classes.on_points(x)
        for block in self.blocks:
            x = block.on_points(x, graph, known)
        logits: Tensor = self.last(x.unflatten(0, intensities.shape)[:, 0])
        return logits


def sized(layers: int, order: int) -> Stack:
    """The network with the number of channels that comes nearest to `WEIGHTS`."""
    counts = {c: sum(p.numel() for p in Stack(layers, order, c).parameters()) for c in range(2, 33)}
    return Stack(layers, order, min(counts, key=lambda c: abs(counts[c] - WEIGHTS)))


def accuracy(network: Stack, task: str, star: bool) -> float:
    places, intensities, labels = batch(task, 1000, torch.Generator().manual_seed(10**6))
    with torch.no_grad():
        found = network(places, intensities, star).argmax(1)
    return (found == labels).float().mean().item()


def train(layers: int, order: int, task: str, star: bool, steps: int, seed: int) -> tuple[float, int]:
    torch.manual_seed(seed)
    network, generator = sized(layers, order), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in tqdm(range(steps), f"{layers} x {order}, {task}", leave=False, disable=None):
        places, intensities, labels = batch(task, 32, generator)
        loss = F.cross_entropy(network(places, intensities, star), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return accuracy(network, task, star), sum(p.numel() for p in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--networks", type=int, default=len(NETWORKS), help="only the first so many")
    options = parser.parse_args()
    print(f"{options.steps} steps of 32 arrangements, {options.seeds} seed(s); accuracy on 1000 new ones")
    print(
        "corners hear the centre alone / each other too\n"
        "| layers | order | weights | angles, centre alone | angles, all | triples, centre alone | triples, all |"
    )
    print("|---" * 7 + "|")
    started = time.process_time()
    for layers, order in NETWORKS[: options.networks]:
        cells, weights = [], 0
        for task in ARRANGEMENTS:
            for star in (True, False):
                if layers == 1 and not star:  # what corners hear does not reach the centre
                    cells.append(cells[-1])
                    continue
                runs = [train(layers, order, task, star, options.steps, seed) for seed in range(options.seeds)]
                cells.append(f"{sum(score for score, _ in runs) / len(runs):.3f}")
                weights = runs[0][1]
        print(f"| {layers} | {order} | {weights:,} | " + " | ".join(cells) + " |", flush=True)
    print(f"  ({time.process_time() - started:.0f} s of one core)")


if __name__ == "__main__":
    main()
