"""Time and peak memory of training steps: the steerable U-Net against its plain twin and its own kernels run densely.

    python benchmarks/training_step.py [--size 64] [--threads 1] [--precision float32] [--rounds 5] [--network brain]

A step is forward, loss, backward and AdamW, for one window. All variants have the same levels: `plain` has as many
channels as the fields have components and kernels of 3 voxels, `dense 5^3` the steerable network's own weights
multiplied out to dense kernels. Rounds alternate between the variants; the table shows medians, and the ratio to the
steerable network's. Memory is measured in a fresh process for each variant: the highest resident memory of two steps
over that before them, where a step on 8 voxels has loaded all libraries.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from measuring import alternating, in_child, peak_above
from voxseg.cli._allocator import keep_freed_memory
from voxseg.networks import NetworkConfig, build_network
from voxseg.training.config import LossConfig
from voxseg.training.losses import deep_supervision_loss
from voxseg.training.step import forward, to_device

NETWORKS = {
    "brain": NetworkConfig(out_channels=17),
    "tumour": NetworkConfig(
        in_channels=4,
        out_channels=4,
        levels=("8x0e+4x1e+2x2e", "16x0e+8x1e+4x2e", "32x0e+12x1e+4x2e", "32x0e+12x1e+4x2e"),
    ),
}
VARIANTS: dict[str, dict[str, object]] = {
    "steerable": {},
    "plain": {"architecture": "plain_unet"},
    "dense 5^3": {"dense": True},
    "steerable, checkpointing": {"checkpointing": True},
    "plain, checkpointing": {"architecture": "plain_unet", "checkpointing": True},
}


def training_step(variant: str, network: str, size: int, precision: str) -> Callable[[], None]:
    """A function that takes one step of a new network on random numbers."""
    torch.manual_seed(0)
    config = NETWORKS[network].model_copy(update=VARIANTS[variant])
    model = to_device(build_network(config), torch.device("cpu")).train()
    optimiser = torch.optim.AdamW(model.parameters())
    loss_config = LossConfig(deep_supervision=(1.0, 0.4, 0.16))
    image = torch.randn(1, config.in_channels, size, size, size)
    target = torch.randint(0, config.out_channels, (1, size, size, size))

    def step() -> None:
        optimiser.zero_grad()
        # As in `voxseg.training.step`, nothing holds the outputs but the loss.
        deep_supervision_loss(forward(model, image, precision, deep_supervision=True), target, loss_config).backward()
        optimiser.step()

    return step


def times(variants: list[str], arguments: argparse.Namespace, precision: str) -> dict[str, list[float]]:
    """Seconds of the steps of each variant, which take turns."""
    steps = {name: training_step(name, arguments.network, arguments.size, precision) for name in variants}
    for step in steps.values():
        step()
    return alternating(steps, arguments.rounds, arguments.cpu_time)


def peak_memory(variant: str, network: str, size: int, precision: str) -> int:
    """Bytes that two steps hold at their peak, in this process, which has to be fresh."""
    training_step(variant, network, 8, precision)()
    step = training_step(variant, network, size, precision)

    def two_steps() -> None:
        step()
        step()

    return peak_above(two_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis of the window")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=NETWORKS, default="brain")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process, for machines that others use; 1 thread"
    )
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        torch.set_num_threads(arguments.threads[0])
        print(peak_memory(arguments.memory_of, arguments.network, arguments.size, arguments.precision[0]))
        return
    keep_freed_memory()
    clock = "process" if arguments.cpu_time else "wall clock"
    print(f"{arguments.network} network, {arguments.size}^3 voxels, medians of {arguments.rounds} rounds ({clock})")
    for precision in arguments.precision:
        given = ["--network", arguments.network, "--size", str(arguments.size), "--precision", precision]
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            of = [*given, "--threads", str(threads), "--memory-of"]
            memory = {name: int(in_child(__file__, *of, name)) for name in arguments.variants}
            seconds = {
                name: statistics.median(s) for name, s in times(arguments.variants, arguments, precision).items()
            }
            first = arguments.variants[0]
            print(f"\n{precision}, {threads} thread{'s' if threads > 1 else ''}\n")
            print(f"| variant | seconds | of {first} | peak MB | of {first} |\n|---|---|---|---|---|")
            for name in arguments.variants:
                print(
                    f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds[first]:.2f} "
                    f"| {memory[name] / 1e6:.0f} | {memory[name] / memory[first]:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
