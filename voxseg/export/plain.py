"""A trained U-Net as nothing but plain operations, from prepared images to probabilities, at every size of the input.

Two things in the network depend on whether an axis has an even or an odd number of voxels: the taps of a strided
convolution (between voxels or on them), and the upsampling that mirrors it. A graph that is recorded once cannot
branch, so neither does this form:

- The kernels of both cases lie in one larger kernel, zero where a case has no tap, about voxel 2k. A stride of 2 with
  even zeros at both ends gives ``ceil(n / 2)`` samples for both, and which kernel is used is an index, ``n mod 2``.
- Upsampling makes the samples at even and at odd places by weights of two neighbours. The weights are numbers that
  follow from ``n mod 2``; where the finer axis is odd, the last sample is cut off.

Kernels are dense, norms and gates are products with constant matrices: what any runtime has fast code for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.networks.layers import Block, PlainConv3d
from voxseg.networks.unet import UNet
from voxseg.steerable import FieldNorm, Gate
from voxseg.steerable.convolution import FoldedConv3d
from voxseg.steerable.separable import MOMENTS

__all__ = ["PlainUNet"]

Placed = tuple[Tensor, tuple[int, int, int]]
"""A kernel `[C_out, C_in, nx, ny, nz]`, and where its first tap lies from voxel `stride * k` of output sample k."""


class PlainUNet(nn.Module):
    """What `UNet.fold` computes, for `torch.export` and `torch.jit.script`; heads and deep supervision are left out.

    Args:
        network: a folded U-Net.
        overlapping: whether its outputs are regions that may overlap, and not classes that exclude each other.

    Shape:
        ``[B, in_channels, X, Y, Z]`` to probabilities ``[B, out_channels, X, Y, Z]``, for any X, Y, Z.
    """

    def __init__(self, network: UNet, overlapping: bool = False) -> None:
        super().__init__()
        self.overlapping = overlapping
        self.encoder = nn.ModuleList(_stage(stage) for stage in network.encoder)
        # From the coarsest level up, in the order in which they run.
        self.narrow = nn.ModuleList(_pointwise(layer) for layer in reversed(network.narrow))
        self.decoder = nn.ModuleList(_stage(stage) for stage in reversed(network.decoder))
        strides = [_convolution(stage[0]).stride for stage in list(network.encoder)[:0:-1]]  # type: ignore[index]
        self.upsample = nn.ModuleList(_Upsample(stride) for stride in strides)
        self.logits = _pointwise(network.logits[0])
        self.coarse_logits = None if network.coarse_logits is None else _pointwise(network.coarse_logits)
        self.upsample_logits = _Upsample(strides[-1] if strides else (1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities; see the class for shapes."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        coarser = x
        for narrow, upsample, stage in zip(self.narrow, self.upsample, self.decoder):  # noqa: B905 - not in TorchScript
            skip = skips.pop()
            coarser = x
            x = stage(torch.cat([skip, upsample(narrow(x), skip)], 1))
        x = self.logits(x)
        if self.coarse_logits is not None:
            x = x + self.upsample_logits(self.coarse_logits(coarser), x)
        return torch.sigmoid(x) if self.overlapping else torch.softmax(x, 1)


class _Convolution(nn.Module):
    """A convolution whose kernel depends on whether the strided axes are even or odd."""

    def __init__(self, kernels: dict[tuple[bool, ...], Placed], bias: Tensor, stride: Sequence[int]) -> None:
        """Kernels by whether each axis is odd; for an axis of stride 1 both are the same."""
        super().__init__()
        reach = [0, 0, 0]
        for kernel, first in kernels.values():
            for axis in range(3):
                last = first[axis] + kernel.shape[2 + axis] - 1
                reach[axis] = max(reach[axis], -first[axis], last)
        self.stride, self.padding = list(stride), reach
        parts = []
        for odd in itertools.product((False, True), repeat=3):
            kernel, first = kernels[odd]
            pads: list[int] = []
            for axis in reversed(range(3)):
                before = first[axis] + reach[axis]
                pads += [before, 2 * reach[axis] + 1 - before - kernel.shape[2 + axis]]
            parts.append(F.pad(kernel, pads))
        self.strided = max(stride) > 1
        self.kernels: Tensor
        self.bias: Tensor
        self.register_buffer("kernels", torch.stack(parts) if self.strided else parts[0])
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernels
        if self.strided:
            odd = (x.shape[2] % 2) * 4 + (x.shape[3] % 2) * 2 + x.shape[4] % 2
            kernel = torch.select(kernel, 0, odd)
        return F.conv3d(x, kernel, self.bias, self.stride, self.padding)


class _GatedNorm(nn.Module):
    """Norm and gate; the formulas are those of `voxseg.steerable.gated_norm`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        _, norm, gate = block
        assert isinstance(norm, FieldNorm)
        assert isinstance(gate, Gate)
        self.epsilon = norm.epsilon
        self.controls, self.gates = len(gate._source), gate.gates
        self.mean: Tensor
        self.scales: Tensor
        self.source: Tensor
        self.shifts: Tensor
        self.register_buffer("mean", _as_kernel(norm._mean))
        self.register_buffer("scales", _as_kernel(norm.scales()))
        self.register_buffer("source", _as_kernel(gate._source))
        self.register_buffer("shifts", norm.shifts().detach().reshape(1, -1, 1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        inverse = torch.rsqrt(F.conv3d(x * x, self.mean) + self.epsilon)
        normed = x * F.conv3d(inverse, self.scales) + self.shifts
        multiplier = F.conv3d(torch.sigmoid(normed[:, : self.controls]), self.source)
        return normed[:, self.gates :] * multiplier


class _Upsample(nn.Module):
    """Linear interpolation by 2 along the strided axes, onto the grid of another volume."""

    def __init__(self, stride: Sequence[int]) -> None:
        super().__init__()
        self.x, self.y, self.z = (s == 2 for s in stride)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        if self.x:
            coarse = _finer(coarse, 2, fine.shape[2])
        if self.y:
            coarse = _finer(coarse, 3, fine.shape[3])
        if self.z:
            coarse = _finer(coarse, 4, fine.shape[4])
        return coarse


def _finer(x: Tensor, axis: int, size: int) -> Tensor:
    """Twice as many samples along an axis, or one less if the size is odd.

    Even: samples lie at quarters of the way to both neighbours, the outermost ones are repeated. Odd: on the samples
    and halfway between them. As `voxseg.steerable.upsample`.
    """
    odd = size % 2
    before = 0.25 - 0.25 * odd
    after = 0.25 + 0.25 * odd
    count = x.shape[axis]
    left = torch.cat([torch.narrow(x, axis, 0, 1), torch.narrow(x, axis, 0, count - 1)], axis)
    right = torch.cat([torch.narrow(x, axis, 1, count - 1), torch.narrow(x, axis, count - 1, 1)], axis)
    pair = torch.stack([x + (left - x) * before, x + (right - x) * after], axis + 1)
    return torch.narrow(pair.flatten(axis, axis + 1), axis, 0, size)


def _stage(stage: nn.Module) -> nn.Sequential:
    """A level's blocks as plain layers."""
    layers: list[nn.Module] = []
    for block in stage.children():
        assert isinstance(block, Block)
        layers += [_convolution(block), _GatedNorm(block)]
    return nn.Sequential(*layers)


def _convolution(block: nn.Module) -> _Convolution:
    convolution = next(block.children())
    assert isinstance(convolution, (FoldedConv3d, PlainConv3d))
    cases = itertools.product((False, True), repeat=3)
    if isinstance(convolution, PlainConv3d):
        stride: tuple[int, ...] = convolution.stride
        weight, bias = convolution.weight.detach(), convolution.bias
        placed = {odd: (weight, _first_of_plain(convolution, odd)) for odd in cases}
        return _Convolution(placed, weight.new_zeros(len(weight)) if bias is None else bias.detach(), stride)
    return _Convolution({odd: _folded(convolution, odd) for odd in cases}, convolution.bias, convolution.stride)


def _folded(convolution: FoldedConv3d, odd: tuple[bool, ...]) -> Placed:
    """The dense kernel of a folded steerable convolution for axes that are odd or even."""
    centred = tuple(o or s == 1 for o, s in zip(odd, convolution.stride, strict=True))
    index = [lattice.centred for lattice in convolution._lattices].index(centred)  # type: ignore[arg-type]
    if convolution.separable:
        x, y, z = (getattr(convolution, f"taps_{index}_{axis}") for axis in range(3))
        products = torch.stack([torch.einsum("a,b,c->abc", x[a], y[b], z[c]) for a, b, c in MOMENTS])
        kernel = torch.einsum("mio,mabc->oiabc", getattr(convolution, f"mix_{index}"), products)
    else:
        kernel = getattr(convolution, f"kernel_{index}")
    # Symmetric about voxel 2k, or about the middle between it and the next one.
    x0, y0, z0 = (-((n - 1) // 2) for n in kernel.shape[2:])
    return kernel, (x0, y0, z0)


def _first_of_plain(convolution: PlainConv3d, odd: tuple[bool, ...]) -> tuple[int, int, int]:
    """Where the first tap of a plain convolution lies: it pads one zero less before than behind where it has to."""
    first = []
    for kernel, stride, is_odd in zip(convolution.kernel_size, convolution.stride, odd, strict=True):
        missing = kernel - 1 if stride == 1 or is_odd else kernel - 2
        first.append(-(max(missing, 0) // 2))
    return first[0], first[1], first[2]


def _pointwise(layer: nn.Module) -> nn.Conv3d:
    """A 1x1x1 convolution that is run as one."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    result = nn.Conv3d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    with torch.no_grad():
        result.weight.copy_(weight)
        if bias is not None and result.bias is not None:
            result.bias.copy_(bias)
    return result


def _as_kernel(matrix: Tensor) -> Tensor:
    """``[C_in, C_out]``, by which rows are multiplied, as weights of a 1x1x1 convolution."""
    return matrix.detach().T[:, :, None, None, None].contiguous()
