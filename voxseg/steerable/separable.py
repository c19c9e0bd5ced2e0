"""Separable convolution: kernels of ten products of 1-D kernels, run as 1-D convolutions and small matrix products.

Every kernel in the span of the products ``k_a(x) k_b(y) k_c(z)`` with ``a + b + c <= 2``, where ``k_0, k_1, k_2`` are a
Gaussian and its first two moments, is given by ten matrices ``M_abc`` of ``[C_in, C_out]`` and never has to be built.
With ``X_a, Y_b, Z_c`` the depthwise 1-D convolutions along the axes, the output is

    y = sum_c Z_c ( sum_ab (Y_b X_a x) M_abc ),

which takes 3 + 6 + 3 one-dimensional convolutions and ten products, because channels are mixed before the last axis.
Ten taps in place of 125.

The backward pass is written by hand: autograd would keep all intermediate volumes alive, this keeps the input alone.
With ``g_bc = Y_b^T Z_c^T g``,

    dL/dM_abc = (X_a x)^T g_bc,        dL/dx = sum_a X_a^T ( sum_bc g_bc M_abc^T ),

so that 15 one-dimensional convolutions give both gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layout import as_rows, as_volume

# Moments (a, b, c) along x, y, z of the ten products, in the order in which every basis and every mix lists them.
MOMENTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (0, 1, 1), (1, 0, 1))
_INDEX = {moment: index for index, moment in enumerate(MOMENTS)}
# Elements of an intermediate volume: the fastest of 2^20 to 2^23 for 30 channels and 64^3 voxels.
_SLAB_ELEMENTS = 2**20
# Thinner slabs would spend more on the planes that neighbours share than they gain.
_THINNEST_SLAB = 4


@dataclass(frozen=True)
class AxisTaps:
    """The three 1-D kernels of one axis and how they step along it.

    Attributes:
        kernels: ``[3, n]``: Gaussian, first moment, second moment.
        stride: 1 or 2.
    """

    kernels: Tensor
    stride: int

    @property
    def length(self) -> int:
        """Number of taps."""
        return self.kernels.shape[1]

    @property
    def padding(self) -> int:
        """Zeros added at both ends, see :func:`symmetric_padding`."""
        return symmetric_padding(self.length, self.stride)

    def output_size(self, size: int) -> int:
        """Samples that come out of ``size`` samples."""
        return (size + 2 * self.padding - self.length) // self.stride + 1


Taps = tuple[AxisTaps, AxisTaps, AxisTaps]


def symmetric_padding(taps: int, stride: int) -> int:
    """Zeros on both sides such that ``ceil(n / stride)`` samples come out, symmetric about the centre."""
    return (taps - 1) // 2 if taps % 2 else (taps - stride) // 2


def separable_convolution(x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """Convolve with the kernels ``sum_abc M_abc k_a(x) k_b(y) k_c(z)``.

    Args:
        x: ``[B, C_in, X, Y, Z]``, best in ``channels_last_3d``.
        mix: ``[10, C_in, C_out]``, in the order of :data:`MOMENTS`.
        bias: ``[C_out]``, added at every voxel.
        taps: the 1-D kernels along X, Y and Z.

    Returns:
        ``[B, C_out, X', Y', Z']`` in ``channels_last_3d``.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, mix, bias)):
        output: Tensor = _SeparableConvolution.apply(x, mix, bias, taps)
        return output
    return _forward(x, mix, bias, taps)


class _SeparableConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, mix)
        ctx.taps = taps
        return _forward(x, mix, bias, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, mix = ctx.saved_tensors
        for_x, for_mix, for_bias, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        bias_gradient = _column_sums(as_rows(gradient)) if for_bias else None
        mix_gradient = torch.zeros_like(mix) if for_mix else None
        x_gradient = _backward(x, gradient, mix, mix_gradient, ctx.taps, for_x) if for_x or for_mix else None
        return x_gradient, mix_gradient, bias_gradient, None


def _forward(x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """The convolution, sample by sample and slab by slab along X, so that intermediate volumes are few."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    size = [t.output_size(n) for t, n in zip(taps, x.shape[2:], strict=True)]
    output = as_volume(x.new_empty(x.shape[0] * math.prod(size), mix.shape[2]), (x.shape[0], *size))
    axis, channels = taps[0], x.shape[1]
    first_kernels = _kernels(taps[0], channels, rows=True)
    kernels = _kernels(taps[1], channels, rows=True), _kernels(taps[2], mix.shape[2], rows=False)
    matrices = list(mix)
    for sample, target in zip(_images(x), _images(output), strict=True):  # [X, C, Y, Z]
        for part in _slabs(size[0], x):
            start, stop = part.start, part.stop
            first, last = start * axis.stride - axis.padding, (stop - 1) * axis.stride - axis.padding + axis.length
            slab = sample[max(first, 0) : last]
            missing = (0, 0, 0, 0, 0, 0, max(-first, 0), max(last - sample.shape[0], 0))
            slab = F.pad(slab, missing) if any(missing) else slab
            along_x = [_along_x(slab, kernel, axis.stride, 0) for kernel in first_kernels]
            _planes(along_x, matrices, bias, kernels, taps, target[part])
    return output


def _planes(
    along_x: list[Tensor],
    mix: list[Tensor],
    bias: Tensor,
    kernels: tuple[list[Tensor], list[Tensor]],
    taps: Taps,
    target: Tensor,
) -> None:
    """Set ``target`` to ``sum_c Z_c (sum_ab (Y_b along_x_a) M_abc)`` for planes ``[n, C, Y, Z]`` convolved along X."""
    _, y, z = taps
    channels, channels_out = along_x[0].shape[1], bias.shape[0]
    mixed: list[Tensor | None] = [None, None, None]  # by moment along Z, whose convolution is still to come
    shape: tuple[int, ...] = ()
    for a in range(3):
        for b in range(3 - a):
            node = F.conv2d(along_x[a], kernels[0][b], None, (y.stride, 1), (y.padding, 0), 1, channels)
            node = node.permute(0, 2, 3, 1)
            shape, rows = node.shape[:3], node.reshape(-1, channels)
            for c in range(3 - a - b):
                mixed[c] = _accumulate(mixed[c], rows, mix[_INDEX[a, b, c]])
    terms = []
    for c, part in enumerate(mixed):
        assert part is not None
        image = part.view(*shape, channels_out).permute(0, 3, 1, 2)
        terms.append(
            F.conv2d(image, kernels[1][c], bias if c == 0 else None, (1, z.stride), (0, z.padding), 1, channels_out)
        )
    torch.add(terms[0].add_(terms[1]), terms[2], out=target)


def _backward(
    x: Tensor, gradient: Tensor, mix: Tensor, mix_gradient: Tensor | None, taps: Taps, for_x: bool
) -> Tensor | None:
    """Gradient of the input, and that of the mix added to ``mix_gradient`` where it is given."""
    turned = [replace(t, kernels=t.kernels.flip(1)) for t in taps]
    channels, channels_out = x.shape[1], gradient.shape[1]
    forward_x, back_x = _kernels(taps[0], channels, rows=True), _kernels(turned[0], channels, rows=True)
    back_y, back_z = _kernels(turned[1], channels_out, rows=True), _kernels(turned[2], channels_out, rows=False)
    size, coarse = x.shape[2:], gradient.shape[2]
    x_gradient = as_volume(torch.empty_like(as_rows(x)), (x.shape[0], *size)) if for_x else None
    results = itertools.repeat(None) if x_gradient is None else _images(x_gradient)
    for sample, cotangent, result in zip(_images(x), _images(gradient), results, strict=False):  # [X, C, Y, Z]
        along_x = []
        if mix_gradient is not None:
            along_x = [_along_x(sample, kernel, taps[0].stride, taps[0].padding) for kernel in forward_x]
        # By moment along X, on the grid that is still coarse along X: what has come back through Z, Y and the mix.
        mixed = [x.new_empty(coarse, size[1], size[2], channels) for _ in range(3)] if for_x else []
        for part in _slabs(coarse, x):
            targets = [volume[part].view(-1, channels) for volume in mixed]
            for c in range(3):
                along_z = _back(cotangent[part], back_z[c], taps[2], size[2], 3)
                for b in range(3 - c):
                    rows = _back(along_z, back_y[b], taps[1], size[1], 2).permute(0, 2, 3, 1).reshape(-1, channels_out)
                    for a in range(3 - b - c):
                        index = _INDEX[a, b, c]
                        if mix_gradient is not None:
                            known = along_x[a][part].permute(0, 2, 3, 1).reshape(-1, channels)
                            mix_gradient[index] += _inner(known, rows)
                        if for_x and b == c == 0:
                            torch.mm(rows, mix[index].T, out=targets[a])
                        elif for_x:
                            targets[a].addmm_(rows, mix[index].T)
        if result is not None:
            terms = []
            for volume, kernel in zip(mixed, back_x, strict=True):
                image = volume.view(1, coarse, -1, channels).permute(0, 3, 1, 2)
                back = _back(image, kernel, taps[0], size[0], 2).permute(0, 2, 3, 1)
                terms.append(back.reshape(*size, channels).permute(0, 3, 1, 2))
            torch.add(terms[0].add_(terms[1]), terms[2], out=result)
    return x_gradient


def _kernels(axis: AxisTaps, channels: int, rows: bool) -> list[Tensor]:
    """Depthwise 2-D kernels ``[channels, 1, n, 1]`` (along rows) or ``[channels, 1, 1, n]`` of the three moments."""
    shape = (1, 1, -1, 1) if rows else (1, 1, 1, -1)
    return [kernel.view(shape).repeat(channels, 1, 1, 1) for kernel in axis.kernels]


def _along_x(planes: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    """Depthwise convolution across planes ``[X, C, Y, Z]``: as a 2-D image, X against YZ.

    All 1-D convolutions run as 2-D convolutions over views of the memory: PyTorch's depthwise 3-D convolution has no
    fast path for ``n x 1 x 1`` kernels in float32 on CPUs (ten times slower on one thread).
    """
    nx, channels, ny, nz = planes.shape
    image = planes.permute(0, 2, 3, 1).reshape(1, nx, ny * nz, channels).permute(0, 3, 1, 2)
    image = F.conv2d(image, kernel, None, (stride, 1), (padding, 0), 1, channels)
    return image.permute(0, 2, 3, 1).reshape(-1, ny, nz, channels).permute(0, 3, 1, 2)


def _back(y: Tensor, turned: Tensor, axis: AxisTaps, size: int, dim: int) -> Tensor:
    """Adjoint of a 1-D convolution along ``dim``: samples set apart by zeros, then the kernel turned round.

    A transposed depthwise convolution would do the same, but in bfloat16 it has no fast path on CPUs.
    """
    padding = axis.length - 1 - axis.padding
    if axis.stride > 1:
        apart = list(y.shape)
        # Zeros up to the size from which the turned kernel gives exactly `size` samples.
        apart[dim] = size + axis.length - 1 - 2 * padding
        spread = torch.zeros(apart, dtype=y.dtype, device=y.device).contiguous(memory_format=torch.channels_last)
        spread[(slice(None),) * dim + (slice(0, y.shape[dim] * axis.stride, axis.stride),)] = y
        y = spread
    return F.conv2d(y, turned, None, 1, (padding, 0) if dim == 2 else (0, padding), 1, y.shape[1])


def _images(volume: Tensor) -> Iterator[Tensor]:
    """Each sample of a channels-last volume ``[B, C, X, Y, Z]`` as images ``[X, C, Y, Z]`` that share its memory."""
    for sample in volume.permute(0, 2, 3, 4, 1):
        yield sample.permute(0, 3, 1, 2)


def _slabs(planes: int, x: Tensor) -> list[slice]:
    """Cut a number of planes across X into slabs."""
    step = max(_THINNEST_SLAB, _SLAB_ELEMENTS // max(x.shape[1] * x.shape[3] * x.shape[4], 1))
    return [slice(start, min(start + step, planes)) for start in range(0, planes, step)]


def _accumulate(total: Tensor | None, rows: Tensor, matrix: Tensor) -> Tensor:
    return rows @ matrix if total is None else total.addmm_(rows, matrix)


def _column_sums(rows: Tensor) -> Tensor:
    """``rows.sum(0)`` as a product, which is five times as fast on a CPU."""
    return torch.mv(rows.T, rows.new_ones(rows.shape[0]))


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """``left^T right`` for two tall matrices, summed in blocks: as one product it would run on a single core."""
    block = 4096
    whole = left.shape[0] // block * block
    if not whole:
        return left.T @ right
    blocks = torch.bmm(left[:whole].view(-1, block, left.shape[1]).mT, right[:whole].view(-1, block, right.shape[1]))
    product = blocks.sum(0)
    return product if whole == left.shape[0] else product.addmm_(left[whole:].T, right[whole:])
