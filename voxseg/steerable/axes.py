"""One-dimensional convolutions along the axes of a volume, and their adjoints.

Volumes are ``[X, Y, Z, C]`` here, one sample with its channels last in memory. All run as depthwise 2-D convolutions
over views of that memory: PyTorch's depthwise 3-D convolution has no fast path for ``n x 1 x 1`` kernels in float32 on
CPUs (ten times slower on one thread).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

# Channels of the views: whole vector registers. What lies beside an axis in memory is cut into such lanes, whatever the
# number of channels is: for one channel this is 30 times as fast, for 20 or 44 up to twice.
_LANES = (32, 16)


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


def symmetric_padding(taps: int, stride: int) -> int:
    """Zeros on both sides such that ``ceil(n / stride)`` samples come out, symmetric about the centre."""
    return (taps - 1) // 2 if taps % 2 else (taps - stride) // 2


def along(
    volume: Tensor, kernel: Tensor, axis: int, stride: int = 1, padding: int = 0, bias: Tensor | None = None
) -> Tensor:
    """Convolve every channel along one axis.

    Args:
        volume: ``[X, Y, Z, C]``.
        kernel: ``[n]``.
        axis: 0, 1 or 2.
        stride: 1 or 2.
        padding: zeros at both ends.
        bias: ``[C]``, added to what comes out; along the last axis only.

    Returns:
        ``[X, Y, Z, C]`` with the axis at its new length.
    """
    shape = list(volume.shape)
    if axis == 2:
        image, window, step, border = volume, (1, len(kernel)), (1, stride), (0, padding)
    else:
        beside = shape[1] * shape[2] * shape[3] if axis == 0 else shape[2] * shape[3]
        lanes = next((n for n in _LANES if beside % n == 0), shape[3])
        image = volume.reshape(1 if axis == 0 else shape[0], shape[axis], -1, lanes)
        window, step, border = (len(kernel), 1), (stride, 1), (padding, 0)
    channels = image.shape[3]
    weight = kernel.view(1, 1, *window).expand(channels, 1, *window).contiguous()
    result = F.conv2d(image.permute(0, 3, 1, 2), weight, bias, step, border, 1, channels)
    shape[axis] = result.shape[3] if axis == 2 else result.shape[2]
    return result.permute(0, 2, 3, 1).reshape(shape)


def adjoint(volume: Tensor, kernel: Tensor, axis: int, stride: int, padding: int, size: int) -> Tensor:
    """The adjoint of :func:`along`: every sample spreads the kernel over ``size`` samples.

    With stride 2 the even and the odd samples that come out each meet every second tap, so that they are convolved on
    the coarse grid and then interleaved. A transposed depthwise convolution would do the same, but in bfloat16 it has
    no fast path on CPUs.

    Args:
        volume: ``[X, Y, Z, C]``.
        kernel: ``[n]``, as in :func:`along`.
        axis: 0, 1 or 2.
        stride: 1 or 2.
        padding: as in :func:`along`.
        size: samples along the axis before the convolution.
    """
    if stride == 1:
        return along(volume, kernel.flip(0), axis, 1, len(kernel) - 1 - padding)
    shape = list(volume.shape)
    coarse, shape[axis] = shape[axis], size
    result = volume.new_empty(shape)
    for phase in range(stride):
        count = -(-(size - phase) // stride)
        first = (phase + padding) % stride
        taps = kernel[first::stride]
        # Sample j of this phase is the sum over s of taps[s] times sample j + shift - s.
        shift = (phase + padding - first) // stride
        border = max(len(taps) - 1 - shift, count + shift - coarse, 0)
        part = along(volume, taps.flip(0), axis, 1, border)
        samples = (*(slice(None),) * axis, slice(phase, None, stride))
        result[samples] = part.narrow(axis, border - (len(taps) - 1 - shift), count)
    return result
