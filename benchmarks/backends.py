"""The brain network in other runtimes, side by side: torch.compile, ONNX Runtime, OpenVINO.

    python benchmarks/backends.py [--size 64] [--threads 2] [--rounds 5] [--forms separable dense] [--backends NAME ...]

What runs in voxseg goes through a volume in slabs and blocks that stay in the cache, which no exchange format knows.
The others get the folded network as a graph of plain operators, in two forms: `separable`, 1-D depthwise convolutions
and one 1x1x1 convolution for each layer, and `dense`, one convolution of 5 or 6 voxels for each layer. Rounds
alternate, medians count; "ready" is what exporting and compiling takes, the difference the largest of a probability.
Needs `pip install onnx onnxscript onnxruntime openvino` for those; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measuring import alternating
from voxseg.cli._allocator import keep_freed_memory
from voxseg.inference.model import load_model
from voxseg.networks.layers import Block
from voxseg.steerable import FoldedConv3d
from voxseg.steerable.separable import MOMENTS, symmetric_padding

Run = Callable[[Tensor], Tensor]
NEEDS = {"voxseg": "torch", "torch.compile": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


class PlainConvolution(nn.Module):
    """A folded convolution as `Conv3d` operators alone; halved axes have to be even."""

    def __init__(self, folded: FoldedConv3d, separable: bool) -> None:
        super().__init__()
        self.stride, self.bias, self.separable = folded.stride, folded.bias, separable
        mix = folded.mix_0  # of the first lattice, that of even axes
        x, y, z = folded.taps_0_0, folded.taps_0_1, folded.taps_0_2
        self.channels = mix.shape[1]
        # [3 moments, C_in, 1, n, 1, 1] and so on
        self.taps = [
            taps.view(3, 1, 1, *shape).repeat(1, self.channels, 1, 1, 1, 1)
            for taps, shape in ((x, (-1, 1, 1)), (y, (1, -1, 1)), (z, (1, 1, -1)))
        ]
        self.mix = mix.flatten(0, 1).T[:, :, None, None, None].contiguous()
        kernels = torch.stack([torch.einsum("x,y,z->xyz", x[a], y[b], z[c]) for a, b, c in MOMENTS])
        self.kernel = torch.einsum("mio,mxyz->oixyz", mix, kernels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X', Y', Z']``."""
        if not self.separable:
            padding = [symmetric_padding(n, s) for n, s in zip(self.kernel.shape[2:], self.stride, strict=True)]
            return F.conv3d(x, self.kernel, self.bias, self.stride, padding)
        along_x = [self._along(x, 0, a) for a in range(3)]
        along_xy = {(a, b): self._along(along_x[a], 1, b) for a in range(3) for b in range(3 - a)}
        responses = [self._along(along_xy[a, b], 2, c) for a, b, c in MOMENTS]
        return F.conv3d(torch.cat(responses, 1), self.mix, self.bias)

    def _along(self, x: Tensor, axis: int, moment: int) -> Tensor:
        weight = self.taps[axis][moment]
        stride, padding = [1, 1, 1], [0, 0, 0]
        stride[axis] = self.stride[axis]
        padding[axis] = symmetric_padding(weight.shape[2 + axis], stride[axis])
        return F.conv3d(x, weight, None, stride, padding, 1, self.channels)


class PlainBlock(nn.Module):
    """A block of the network with norm and gate one after the other."""

    def __init__(self, block: Block, separable: bool) -> None:
        super().__init__()
        convolution, self.norm, self.gate = block
        self.convolution = PlainConvolution(convolution, separable)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """As `Block`."""
        result: Tensor = self.gate(self.norm(self.convolution(x)))
        return result


def brain() -> nn.Module:
    """The packaged network, folded."""
    return load_model("brain").network


def plain_brain(form: str) -> nn.Module:
    """The same as plain operators, for sizes that are halved evenly on every level."""
    network = brain()
    for stage in (*network.encoder, *network.decoder):  # type: ignore[misc]
        for index, block in enumerate(stage):
            stage[index] = PlainBlock(block, form == "separable")
    return network


def exported(form: str, x: Tensor, folder: Path) -> str:
    """The network as an ONNX file for inputs of this size."""
    path = str(folder / f"{form}.onnx")
    if not Path(path).exists():
        torch.onnx.export(plain_brain(form), (x,), path, dynamo=False, input_names=["image"])
    return path


def prepare(backend: str, form: str, x: Tensor, threads: int, folder: Path) -> Run:
    """What runs the network."""
    if backend == "voxseg":
        return brain()
    if backend == "torch.compile":
        return torch.compile(plain_brain(form).to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload, no-any-return]
    path = exported(form, x, folder)
    if backend == "ONNX Runtime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: torch.from_numpy(model(image.numpy())[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis, a multiple of 8")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", choices=["separable", "dense"], default=["separable", "dense"])
    parser.add_argument("--backends", nargs="+", choices=list(NEEDS), default=list(NEEDS))
    parser.add_argument("--cpu-time", action="store_true", help="of the process, for machines that others use")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    x = torch.rand(1, 1, *(arguments.size,) * 3)
    runs: dict[str, Run] = {}
    ready: dict[str, float] = {}
    results: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for backend in arguments.backends:
            if importlib.util.find_spec(NEEDS[backend]) is None:
                print(f"{backend} is not installed")
                continue
            for form in arguments.forms if backend != "voxseg" else ["as it is"]:
                started, name = time.perf_counter(), f"{backend}, {form}"
                runs[name] = prepare(backend, form, x, arguments.threads, Path(folder))
                results[name] = torch.softmax(runs[name](x), 1)
                ready[name] = time.perf_counter() - started
        seconds = alternating({n: lambda run=r: run(x) for n, r in runs.items()}, arguments.rounds, arguments.cpu_time)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians))
    print(f"{arguments.size}^3 voxels, {arguments.threads} threads, float32, medians of {arguments.rounds} rounds\n")
    print(f"| runtime, form | ready s | forward s | of {first} | difference |\n|---|---|---|---|---|")
    for name, took in medians.items():
        difference = (results[name] - results[first]).abs().max().item()
        print(f"| {name} | {ready[name]:.1f} | {took:.3f} | {took / medians[first]:.2f} | {difference:.0e} |")


if __name__ == "__main__":
    main()
