"""How long processes that train on whole cases wait for each other, and how much padding is computed.

    python benchmarks/load_balancing.py [--cases 2000] [--processes 8] [--batch 4] [--sigma 0.8] [--epochs 5]
    python benchmarks/load_balancing.py --network mace --side 32   # in seconds of MACE's own steps

The sizes of the cases are log-normal (the deviation of their logarithm is `--sigma`), shapes are cubes. The work of a
process in a step is the number of voxels that it computes, padding included; the straggler ratio is the sum over the
steps of the largest work divided by the sum of the mean, the padding ratio the voxels that are computed divided by
those of the cases. "random": batches of random cases, padded to the largest of each batch. "balanced":
`voxseg.training.balance`, each case by itself and padded to a multiple of 8 along each axis, as `windows.size: whole`
does. Mean and worst of the epochs.

With `--network`, the work is what a step of that network takes on one core: cubes from the smallest case to the largest
are run forward and backward, and times between them are interpolated. The sampler still knows of voxels alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from voxseg.data.preparation import MULTIPLE
from voxseg.networks import HOSTED
from voxseg.training.balance import epoch_plan, padding_ratio, straggler_ratio


def padded(sides: np.ndarray) -> np.ndarray:
    """Voxels of cubes of these sides, filled up to what a network halves evenly."""
    return (-(-sides // MULTIPLE) * MULTIPLE) ** 3


def measured_seconds(name: str, sides: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Processor time of a step of a hosted network on one image, as a function of its voxels."""
    import torch
    import yaml

    from voxseg.networks import NetworkConfig, build_network
    from voxseg.training.config_file import find_network

    torch.set_num_threads(1)
    block = yaml.safe_load(find_network(name).read_text(encoding="utf-8"))["network"]
    network = build_network(NetworkConfig(**block, in_channels=1, out_channels=3)).train()
    steps = np.unique(padded(np.linspace(sides.min(), sides.max(), 5)).astype(int))
    seconds = []
    for voxels in [steps[0], *steps]:  # once more in the beginning, to warm up
        image = torch.randn(1, 1, *(round(voxels ** (1 / 3)),) * 3)
        started = time.process_time()
        network(image).square().mean().backward()
        seconds.append(time.process_time() - started)
    told = ", ".join(f"{voxels ** (1 / 3):.0f}³: {s:.2f} s" for voxels, s in zip(steps, seconds[1:], strict=True))
    print(f"step of {name}: {told}")
    return lambda voxels: np.interp(voxels, steps, seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--side", type=float, default=100, help="median side of a case in voxels")
    parser.add_argument("--network", choices=list(HOSTED), help="measure its steps; by default work is voxels")
    arguments = parser.parse_args()
    n, processes, batch = arguments.cases, arguments.processes, arguments.batch
    random = np.random.default_rng(0)
    logarithms = arguments.sigma * random.normal(size=n)
    sides = np.maximum(16, arguments.side * np.exp(logarithms) ** (1 / 3)).round().astype(int)
    sizes, filled = sides**3, padded(sides)
    work = measured_seconds(arguments.network, sides) if arguments.network else lambda voxels: voxels.astype(float)
    rows: dict[str, list[tuple[float, float]]] = {"random": [], "balanced": []}
    for _ in range(arguments.epochs):
        whole = random.permutation(n)[: n // (processes * batch) * processes * batch].reshape(-1, processes, batch)
        largest = sizes[whole].max(-1)
        straggler = straggler_ratio(batch * work(largest))
        rows["random"].append((straggler, padding_ratio(batch * largest.sum(), sizes[whole].ravel())))
        plan = epoch_plan(filled.tolist(), processes, batch, random)
        loads = np.array([[work(filled[cases]).sum() for cases in step] for step in plan])
        rows["balanced"].append((straggler_ratio(loads), padding_ratio(filled.sum(), sizes)))
    print(
        f"{n} cases, log-normal sizes (sigma {arguments.sigma}), {processes} processes, {batch} cases a step and "
        f"process on average; {arguments.epochs} epochs"
    )
    print(f"{'batches':10s} {'straggler ratio':>16s} {'(worst)':>9s} {'padding ratio':>14s}")
    for name, figures in rows.items():
        stragglers, padding = zip(*figures, strict=True)
        print(f"{name:10s} {np.mean(stragglers):16.3f} {max(stragglers):9.3f} {np.mean(padding):14.3f}")


if __name__ == "__main__":
    main()
