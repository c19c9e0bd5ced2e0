"""The steerable layer and U-Net beside those of others: time, memory, weights and equivariance in one run.

    python benchmarks/peers.py [--size 64] [--threads 2] [--rounds 3] [--part layers networks] [--rows NAME ...]

All layers go between fields of the same types, 30 channels; all networks have one image, 17 classes and about as many
channels on each level as the fields of the brain model have components (20, 44, 88, 88). The steerable convolutions of
others stand in voxseg's skeleton (`peer_models.py`): the published one, e3nn's and escnn's. MONAI's networks are built
with 3 voxels wide kernels; its UNet computes nothing on the finest grid but the output.

Rounds alternate, medians count. "Forward" is inference, without gradients and with constant weights folded where the
implementation can; "with backward" is a training pass without the optimiser. Each runs in the memory layout (channels
first or last) that is faster for it. Memory is that of a process of its own above what it held before. Errors of
equivariance are those of random weights: the largest difference of the 24 rotations of the grid, relative to the
largest output, on noise, and the relative L2 error of a turn by 40 degrees about an odd axis on a smooth input. What
cannot be imported is told in its row: escnn wants `lie_learn`, whose wheels want numpy 1, so an environment of its own
(``pip install 'numpy<2' escnn lie_learn einops``). The published form and
e3nn's add a self-connection, which turns exactly and with fresh weights outweighs their kernels: what those do shows in
the row without it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from measuring import alternating, in_child, peak_above
from peer_models import EscnnConvolution, PublishedConvolution, e3nn_convolution, peer_unet
from voxseg.cli._allocator import keep_freed_memory
from voxseg.networks import NetworkConfig, build_network
from voxseg.steerable import FieldType, SolidHarmonicBasis, SteerableConv3d
from voxseg.testing import exact_error, grid_rotations, interpolated_error, rotation_matrix

FIELD = FieldType("8x0e+4x1e+2x2e")
CLASSES = 17
CONFIG = NetworkConfig(out_channels=CLASSES, deep_supervision=False)
CHANNELS = tuple(FieldType(level).channels for level in CONFIG.levels)
ROTATION = rotation_matrix((1, 2, 3), 40.0)
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last_3d}


def steerable_layer(dense: bool = False) -> nn.Module:
    return SteerableConv3d(FIELD, FIELD, SolidHarmonicBasis(0.8, 1.0), dense=dense)


def plain_layer(width: int) -> nn.Module:
    return nn.Conv3d(FIELD.channels, FIELD.channels, width, padding=width // 2)


def voxseg_network(**options: object) -> nn.Module:
    return build_network(CONFIG.model_copy(update=options))


def monai_network(name: str) -> nn.Module:
    """One of MONAI's, with about the channels of :data:`CHANNELS`."""
    from monai.networks import nets

    if name == "UNet":
        return nets.UNet(3, 1, CLASSES, CHANNELS, (2, 2, 2))
    if name == "SegResNet":
        return nets.SegResNet(3, CHANNELS[0], 1, CLASSES, num_groups=4, norm=("GROUP", {"num_groups": 4}))
    if name == "DynUNet":
        return nets.DynUNet(3, 1, CLASSES, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=CHANNELS)
    return nets.SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=24)


Rows = dict[str, Callable[[], nn.Module]]
LAYERS: Rows = {
    "voxseg": steerable_layer,
    "voxseg, run densely": partial(steerable_layer, dense=True),
    "published form": partial(PublishedConvolution, FIELD, FIELD),
    "published form, kernel alone": partial(PublishedConvolution, FIELD, FIELD, kernel_alone=True),
    "e3nn voxel convolution": partial(e3nn_convolution, FIELD, FIELD),
    "escnn R3Conv": partial(EscnnConvolution, FIELD, FIELD),
    "Conv3d, 3 voxels": partial(plain_layer, 3),
    "Conv3d, 5 voxels": partial(plain_layer, 5),
}
NETWORKS: Rows = {
    "voxseg": voxseg_network,
    "voxseg, plain twin": partial(voxseg_network, architecture="plain_unet"),
    "published form": partial(peer_unet, PublishedConvolution, CONFIG),
    "e3nn voxel convolution": partial(peer_unet, e3nn_convolution, CONFIG),
    "escnn R3Conv": partial(peer_unet, EscnnConvolution, CONFIG),
    "MONAI UNet": partial(monai_network, "UNet"),
    "MONAI SegResNet": partial(monai_network, "SegResNet"),
    "MONAI DynUNet": partial(monai_network, "DynUNet"),
    "MONAI SwinUNETR": partial(monai_network, "SwinUNETR"),
}
PARTS = {"layers": LAYERS, "networks": NETWORKS}
# What an input has, and what comes out.
FIELDS = {"layers": (FIELD, FIELD), "networks": (FieldType("1x0e"), FieldType(f"{CLASSES}x0e"))}
TURNED = {"layers": 24, "networks": 32}
"""Voxels along each axis of what is turned."""
SMALLEST = {"layers": 8, "networks": 32}
"""Voxels along each axis of a first pass, which loads what is loaded once."""
LEAST = {"MONAI SwinUNETR": 64}
"""Voxels along each axis that a row needs: this one normalises over a grid of a 32nd, where one voxel is too few."""


def needed(size: int, name: str) -> int:
    """So many voxels along each axis, or as many as a row needs."""
    return max(size, LEAST.get(name, 0))


class Peer:
    """A row of a table: a module with random weights, for training and for inference, in one memory layout."""

    def __init__(self, part: str, name: str, layout: str) -> None:
        self.layout = LAYOUTS[layout]
        self.field_in, self.field_out = FIELDS[part]
        self.module = self._build(PARTS[part][name]).train()
        # A layer stands in the middle of a network: it hands a gradient on.
        self.inside = part == "layers"
        if name.startswith("voxseg"):  # the others do not know of constant weights, but escnn's does when it evaluates
            self.inference: nn.Module = self.module.fold()
        else:
            self.inference = self._build(PARTS[part][name]).eval()

    def _build(self, builder: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        module = builder()
        for weight in module.parameters():
            if weight.dim() == 5:
                weight.data = weight.data.contiguous(memory_format=self.layout)
        return module

    def passes(self, size: int) -> dict[str, Callable[[], None]]:
        """Both passes over one window."""
        x = torch.randn(1, self.field_in.channels, size, size, size).contiguous(memory_format=self.layout)
        image = x.clone().requires_grad_(self.inside)

        def forward() -> None:
            with torch.inference_mode():
                self.inference(x)

        def backward() -> None:
            y = self.module(image)
            y.backward(torch.ones_like(y))
            self.module.zero_grad()
            image.grad = None

        return {"forward": forward, "backward": backward}

    @property
    def weights(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def errors(self, size: int) -> tuple[float, float]:
        """Of the 24 rotations of the grid, and of a turn between them."""
        function = getattr(self.inference, "in_e3nn_basis", self.inference)
        fields = self.field_in, self.field_out
        x = torch.randn(1, self.field_in.channels, size, size, size, generator=torch.Generator().manual_seed(1))
        exact = max(exact_error(function, x, rotation, *fields) for rotation in grid_rotations())
        return exact, interpolated_error(function, ROTATION, *fields, (size,) * 3, blob_width=size / 10)


def peak_memory(part: str, name: str, layout: str, size: int) -> list[int]:
    """Bytes of a forward pass and of a training pass at their peak, in this process, which has to be fresh."""
    peer = Peer(part, name, layout)
    for run in peer.passes(min(size, needed(SMALLEST[part], name))).values():
        run()
    return [peak_above(run) for run in peer.passes(size).values()]


def in_faster_layout(part: str, name: str, size: int) -> tuple[Peer, str]:
    """A row in the memory layout in which a training pass takes less time, warm."""
    candidates = {layout: Peer(part, name, layout) for layout in LAYOUTS}
    runs = {layout: peer.passes(size)["backward"] for layout, peer in candidates.items()}
    alternating(runs, 1)
    seconds = alternating(runs, 1)
    layout = min(seconds, key=lambda layout: seconds[layout][0])
    return candidates[layout], layout


def table(part: str, arguments: argparse.Namespace) -> None:
    """Print the rows of one part."""
    peers: dict[str, tuple[Peer, str]] = {}
    missing: dict[str, str] = {}
    names = [name for name in PARTS[part] if not arguments.rows or name in arguments.rows]
    for name in names:
        try:
            peers[name] = in_faster_layout(part, name, arguments.size)
        except ImportError as error:
            missing[name] = str(error).splitlines()[0]
    runs = {}
    for name, (peer, _) in peers.items():
        for direction, run in peer.passes(arguments.size).items():
            run()
            runs[f"{name}/{direction}"] = run
    seconds = {
        key: statistics.median(all_of)
        for key, all_of in alternating(runs, arguments.rounds, arguments.cpu_time).items()
    }
    print(f"\n| {part} | weights | forward s | | with backward s | | peak MB | | turned 90° | 40° |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    first = next(iter(peers), "")
    for name in names:
        if name in missing:
            print(f"| {name} | not here: {missing[name]} | | | | | | | | |")
            continue
        peer, layout = peers[name]
        memory = in_child(__file__, "--memory-of", part, name, layout, "--size", str(arguments.size)).split()
        cells = [name, f"{peer.weights:,}"]
        for direction in ("forward", "backward"):
            took = seconds[f"{name}/{direction}"]
            cells += [f"{took:.3f}", f"{took / seconds[f'{first}/{direction}']:.1f}"]
        exact, between = peer.errors(min(arguments.size, needed(TURNED[part], name)))
        cells += [*(f"{int(amount) / 1e6:.0f}" for amount in memory), f"{exact:.0e}", f"{between:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, default=64, help="voxels along each axis; networks need a multiple of 32 above 32"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=list(LAYERS | NETWORKS), help="these alone")
    parser.add_argument("--cpu-time", action="store_true", help="of the process, for machines that others use")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="escnn|e3nn|monai|torch")
    if arguments.memory_of:
        torch.set_num_threads(1)
        print(*peak_memory(*arguments.memory_of, arguments.size))
        return
    if "networks" in arguments.part and (arguments.size % 32 or arguments.size < 64):
        parser.error("--size: SwinUNETR takes multiples of 32 above 32 alone; leave it out with --part layers")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    clock = "seconds of the processor" if arguments.cpu_time else "seconds"
    print(f"{arguments.size}^3 voxels, {arguments.threads} threads, {clock}, medians of {arguments.rounds} rounds")
    print("Beside seconds: how many times as long as the first row takes. Peak MB: forward, with backward.")
    for part in arguments.part:
        table(part, arguments)


if __name__ == "__main__":
    main()
