"""How long processes that train on whole cases wait for each other, and how much padding is computed.

    python benchmarks/load_balancing.py [--cases 2000] [--processes 8] [--batch 4] [--sigma 0.8] [--epochs 5]

The sizes of the cases are log-normal (the deviation of their logarithm is `--sigma`), shapes are cubes. The work of a
process in a step is the number of its voxels; the straggler ratio is the sum over the steps of the largest work divided
by the sum of the mean, the padding ratio the voxels that are computed divided by those of the cases. "random": batches
of random cases, padded to the largest of each batch. "balanced": `voxseg.training.balance`, each case by itself and
padded to a multiple of 8 along each axis, as `windows.size: whole` does. Mean and worst of the epochs.
"""

from __future__ import annotations

import argparse

import numpy as np

from voxseg.data.preparation import MULTIPLE
from voxseg.training.balance import epoch_plan, padding_ratio, straggler_ratio


def padded(sides: np.ndarray) -> np.ndarray:
    """Voxels of cubes of these sides, filled up to what a network halves evenly."""
    return (-(-sides // MULTIPLE) * MULTIPLE) ** 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    n, processes, batch = arguments.cases, arguments.processes, arguments.batch
    random = np.random.default_rng(0)
    sides = np.maximum(16, 100 * np.exp(arguments.sigma * random.normal(size=n)) ** (1 / 3)).round().astype(int)
    sizes = sides**3
    rows: dict[str, list[tuple[float, float]]] = {"random": [], "balanced": []}
    for _ in range(arguments.epochs):
        whole = random.permutation(n)[: n // (processes * batch) * processes * batch].reshape(-1, processes, batch)
        computed = sizes[whole].max(-1) * batch
        rows["random"].append(
            (straggler_ratio(sizes[whole].sum(-1).astype(float)), padding_ratio(computed.sum(), sizes[whole].ravel()))
        )
        plan = epoch_plan(sizes.tolist(), processes, batch, random)
        loads = np.array([[sizes[cases].sum() for cases in step] for step in plan], dtype=float)
        rows["balanced"].append((straggler_ratio(loads), padding_ratio(padded(sides).sum(), sizes)))
    print(
        f"{n} cases, log-normal sizes (sigma {arguments.sigma}), {processes} processes, {batch} cases a step and "
        f"process on average; {arguments.epochs} epochs"
    )
    print(f"{'batches':10s} {'straggler ratio':>16s} {'(worst)':>9s} {'padding ratio':>14s}")
    for name, figures in rows.items():
        straggler, padding = zip(*figures, strict=True)
        print(f"{name:10s} {np.mean(straggler):16.3f} {max(straggler):9.3f} {np.mean(padding):14.3f}")


if __name__ == "__main__":
    main()
