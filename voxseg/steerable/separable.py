"""Separable convolution: ten Gaussian-moment responses from 1-D convolutions, mixed by one matrix each.

A kernel in the span of the ten products ``k_a(x) k_b(y) k_c(z)`` with ``a + b + c <= 2``, where ``k_0, k_1, k_2`` are a Gaussian and its
first two moments, never has to be built: ``y = sum_m R_m(x) M_m`` with ``R_m`` a chain of three depthwise 1-D convolutions and ``M_m`` a
``[C_in, C_out]`` matrix. Chains share their first steps, so ten responses take 19 one-dimensional convolutions. The steps along X, whose
neighbours lie furthest apart in memory, come first, because only three of the 19 are along it then.

The backward pass is written by hand: autograd would keep the ten responses of every layer alive. With ``T_m`` the transposed chain,
``dL/dx = sum_m T_m(g) M_m^T`` and ``dL/dM_m = x^T T_m(g)``: one tree of 19 convolutions over the gradient gives both, and only the input is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Moments (a, b, c) along x, y, z of the ten responses, in the order in which every basis and mix matrix lists them.
MOMENTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (0, 1, 1), (1, 0, 1))
_INDEX = {moment: index for index, moment in enumerate(MOMENTS)}
# Floats that the temporary volumes of one slab may hold during inference (64 MiB in float32).
_SLAB_ELEMENTS = 2**24


@dataclass(frozen=True)
class AxisTaps:
    """The three 1-D kernels of one axis and how they step along it.

    Attributes:
        kernels: ``[3, n]``: Gaussian, first moment, second moment.
        stride: 1 or 2.
        padding: zeros added at both ends.
    """

    kernels: Tensor
    stride: int
    padding: int

    @property
    def length(self) -> int:
        """Number of taps."""
        return self.kernels.shape[1]

    def output_size(self, size: int) -> int:
        """Samples that come out of ``size`` samples."""
        return (size + 2 * self.padding - self.length) // self.stride + 1

    def to(self, like: Tensor) -> AxisTaps:
        """The same taps in the dtype and on the device of ``like``."""
        return AxisTaps(self.kernels.to(like), self.stride, self.padding)


Taps = tuple[AxisTaps, AxisTaps, AxisTaps]


def separable_convolution(x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """Sum over the ten responses of ``x``, each mixed over channels by its own matrix.

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
    return _slabwise(x, mix, bias, taps)


class _SeparableConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, mix)
        ctx.taps = taps  # type: ignore[attr-defined]
        return _mixed(x, mix, bias, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, mix = ctx.saved_tensors  # type: ignore[attr-defined]
        taps: Taps = ctx.taps  # type: ignore[attr-defined]
        for_x, for_mix, for_bias, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        bias_gradient = _rows(gradient).sum(0) if for_bias else None
        if any(axis.stride > 1 for axis in taps):
            # The gradient's grid is up to eight times coarser: work there, and go to the fine grid once at the end.
            mix_gradient = _mix_gradient(_responses(x, taps), gradient, mix) if for_mix else None
            return _to_fine_grid(gradient, mix, taps, x.shape) if for_x else None, mix_gradient, bias_gradient, None
        if not for_x:
            return None, _mix_gradient(_responses(x, taps), gradient, mix) if for_mix else None, bias_gradient, None
        x_rows, x_gradient, mix_gradient = _rows(x), torch.empty_like(_rows(x)), torch.empty_like(mix)
        for index, response in _responses(gradient, _transposed(taps)):
            rows = _rows(response)
            if index:
                x_gradient.addmm_(rows, mix[index].T)
            else:
                torch.mm(rows, mix[0].T, out=x_gradient)
            if for_mix:
                mix_gradient[index] = _inner(x_rows, rows)
        return _volume(x_gradient, (x.shape[0], *x.shape[2:])), mix_gradient if for_mix else None, bias_gradient, None


def _mixed(x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    size = [axis.output_size(n) for axis, n in zip(taps, x.shape[2:], strict=True)]
    flat = x.new_empty(x.shape[0] * size[0] * size[1] * size[2], mix.shape[2])
    for index, response in _responses(x, taps):
        torch.addmm(flat if index else bias, _rows(response), mix[index], out=flat)
    return _volume(flat, (x.shape[0], *size))


def _slabwise(x: Tensor, mix: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """The same sum without gradients, in slabs along X so that the temporaries stay small and in cache."""
    axis = taps[0]
    size = [t.output_size(n) for t, n in zip(taps, x.shape[2:], strict=True)]
    plane = max(1, x.shape[0] * x.shape[1] * x.shape[3] * x.shape[4] * 4)
    thickness = max(4, _SLAB_ELEMENTS // plane)
    if thickness >= size[0]:
        return _mixed(x, mix, bias, taps)
    output = _volume(x.new_empty(x.shape[0] * size[0] * size[1] * size[2], mix.shape[2]), (x.shape[0], *size))
    unpadded = (AxisTaps(axis.kernels, axis.stride, 0), *taps[1:])
    for start in range(0, size[0], thickness):
        stop = min(start + thickness, size[0])
        first = start * axis.stride - axis.padding
        last = (stop - 1) * axis.stride - axis.padding + axis.length
        slab = x[:, :, max(first, 0) : last]
        missing = (0, 0, 0, 0, max(-first, 0), max(last - x.shape[2], 0))
        slab = F.pad(slab, missing) if any(missing) else slab
        slab = slab.contiguous(memory_format=torch.channels_last_3d)
        output[:, :, start:stop] = _mixed(slab, mix, bias, unpadded)
    return output


def _responses(x: Tensor, taps: Taps) -> Iterator[tuple[int, Tensor]]:
    """The ten responses, depth first in the tree of shared 1-D convolutions: at most three volumes are alive at a time.

    The response (0, 0, 0) comes first, so that whoever accumulates can start with it.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    for a in range(3):
        along_x = _convolve(x, taps, 0, a)
        for b in range(3 - a):
            along_y = _convolve(along_x, taps, 1, b)
            for c in range(3 - a - b):
                yield _INDEX[a, b, c], _convolve(along_y, taps, 2, c)


def _transposed(taps: Taps) -> Taps:
    """Taps of the adjoint of a convolution with stride 1: the kernels turned round."""
    x, y, z = (AxisTaps(axis.kernels.flip(1), 1, axis.length - 1 - axis.padding) for axis in taps)
    return x, y, z


def _mix_gradient(responses: Iterator[tuple[int, Tensor]], gradient: Tensor, mix: Tensor) -> Tensor:
    mix_gradient, rows = torch.empty_like(mix), _rows(gradient)
    for index, response in responses:
        mix_gradient[index] = _inner(_rows(response), rows)
    return mix_gradient


def _to_fine_grid(gradient: Tensor, mix: Tensor, taps: Taps, shape: torch.Size) -> Tensor:
    """Gradient of the input of a strided convolution: the tree of :func:`_responses` from its leaves to its root."""
    rows, grid = _rows(gradient), (gradient.shape[0], *gradient.shape[2:])
    total: Tensor | None = None
    for a in range(3):
        along_x: Tensor | None = None
        for b in range(3 - a):
            along_y: Tensor | None = None
            for c in range(3 - a - b):
                leaf = _volume(rows @ mix[_INDEX[a, b, c]].T, grid)
                along_y = _add(along_y, _convolve_transposed(leaf, taps, 2, c, shape[4]))
            assert along_y is not None
            along_x = _add(along_x, _convolve_transposed(along_y, taps, 1, b, shape[3]))
        assert along_x is not None
        total = _add(total, _convolve_transposed(along_x, taps, 0, a, shape[2]))
    assert total is not None
    return total


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """``left^T right`` for two tall matrices, summed in blocks: as one product it would run on a single core."""
    block = 4096
    whole = left.shape[0] // block * block
    product = left[whole:].T @ right[whole:]
    if whole:
        blocks = torch.bmm(left[:whole].view(-1, block, left.shape[1]).mT, right[:whole].view(-1, block, right.shape[1]))
        product = product + blocks.sum(0)
    return product


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _convolve(x: Tensor, taps: Taps, axis: int, moment: int) -> Tensor:
    """Depthwise 1-D convolution along one spatial axis of a channels-last volume.

    Run as a 2-D convolution over a view of the memory: PyTorch's depthwise 3-D convolution has no fast path for ``n x 1 x 1`` kernels in float32 on
    CPUs (ten times slower on one thread).
    """
    batch, channels, nx, ny, nz = x.shape
    step = taps[axis]
    # Rows and columns of the 2-D image: X against YZ for the first axis, Y against Z for the others.
    image = (batch, nx, ny * nz, channels) if axis == 0 else (batch * nx, ny, nz, channels)
    along_rows = axis < 2
    kernel = step.kernels[moment].view((1, 1, -1, 1) if along_rows else (1, 1, 1, -1)).repeat(channels, 1, 1, 1)
    y = F.conv2d(
        x.permute(0, 2, 3, 4, 1).reshape(image).permute(0, 3, 1, 2),
        kernel,
        stride=(step.stride, 1) if along_rows else (1, step.stride),
        padding=(step.padding, 0) if along_rows else (0, step.padding),
        groups=channels,
    )
    size = [nx, ny, nz]
    size[axis] = step.output_size(size[axis])
    return y.permute(0, 2, 3, 1).reshape(batch, *size, channels).permute(0, 4, 1, 2, 3)


def _convolve_transposed(y: Tensor, taps: Taps, axis: int, moment: int, size: int) -> Tensor:
    """Adjoint of :func:`_convolve`: samples set apart by zeros, then the kernel turned round.

    A transposed depthwise convolution would do the same, but in bfloat16 it has no fast path on CPUs.
    """
    step, dim = taps[axis], axis + 2
    turned = _transposed(taps)
    if step.stride > 1:
        apart = list(y.shape)
        # Zeros up to the size from which the turned kernel gives exactly `size` samples.
        apart[dim] = size + step.length - 1 - 2 * turned[axis].padding
        spread = torch.zeros(apart, dtype=y.dtype, device=y.device).contiguous(memory_format=torch.channels_last_3d)
        spread[(slice(None),) * dim + (slice(0, y.shape[dim] * step.stride, step.stride),)] = y
        y = spread
    return _convolve(y, turned, axis, moment)


def _rows(volume: Tensor) -> Tensor:
    """``[B, C, X, Y, Z]`` in channels-last order as a matrix ``[B X Y Z, C]`` (a view where the memory allows)."""
    return volume.permute(0, 2, 3, 4, 1).reshape(-1, volume.shape[1])


def _volume(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    return rows.view(*shape, rows.shape[1]).permute(0, 4, 1, 2, 3)
