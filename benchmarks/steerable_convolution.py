"""Time of the separable steerable convolution against its kernel run densely, forward and with backward, in one run.

    python benchmarks/steerable_convolution.py [--threads 2] [--rounds 5] [--cpu-time]

Both run the same weights; rounds alternate between them, a few runs of each in a row, and the fastest counts. Beside it
a plain dense convolution of 3 voxels width, which is not equivariant. On a machine that others use, `--cpu-time` with
one thread counts the time of the process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from voxseg.cli._allocator import keep_freed_memory
from voxseg.steerable import FieldType, SolidHarmonicBasis, SteerableConv3d

CASES = [("8x0e+4x1e+2x2e", 64), ("16x0e+8x1e+4x2e", 32), ("32x0e+16x1e+8x2e", 16)]


def forward(layer: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        layer(x)


def with_backward(layer: nn.Module, x: Tensor) -> None:
    y = layer(x)
    y.backward(torch.ones_like(y))


def fastest(runs: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    times: dict[str, float] = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            for repeat in range(4):  # in a row, as the layers of a network run; the first warms up
                started = clock()
                run()
                if repeat:
                    times[name] = min(times[name], clock() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="of the process; 1 thread")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    print(f"{arguments.threads} threads, float32; seconds, and times as fast as dense 5^3 in brackets")
    print(f"{'channels, grid':16s} {'pass':14s} {'separable':>16s} {'dense 5^3':>10s} {'plain 3^3':>18s}")
    for field, size in CASES:
        channels = FieldType(field).channels
        basis = SolidHarmonicBasis(0.8, 1.0)
        separable, dense = SteerableConv3d(field, field, basis), SteerableConv3d(field, field, basis, dense=True)
        dense.load_state_dict(separable.state_dict())
        plain = nn.Conv3d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        x = torch.randn(1, channels, size, size, size).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        for name, step in (("forward", forward), ("with backward", with_backward)):
            layers = {"separable": separable, "dense": dense, "plain": plain}
            if step is forward:
                layers["separable"], layers["dense"] = separable.fold(), dense.fold()
            runs = {key: partial(step, layer, x) for key, layer in layers.items()}
            times = fastest(runs, arguments.rounds, clock)
            ratios = {key: times["dense"] / seconds for key, seconds in times.items()}
            print(
                f"{channels:4d}, {size:2d}^3{'':6s} {name:14s} {times['separable']:8.4f} ({ratios['separable']:4.1f}x)"
                f" {times['dense']:10.4f} {times['plain']:10.4f} ({ratios['plain']:4.1f}x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
