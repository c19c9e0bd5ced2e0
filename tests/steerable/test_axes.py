"""One-dimensional convolutions along the axes of a volume, against `conv3d`, and their adjoints."""

import pytest
import torch
import torch.nn.functional as F

from voxseg.steerable.axes import AxisTaps, adjoint, along, symmetric_padding

SHAPE = (7, 8, 9)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def reference(volume: torch.Tensor, kernel: torch.Tensor, axis: int, stride: int, padding: int) -> torch.Tensor:
    """The same with a depthwise `conv3d`."""
    channels = volume.shape[3]
    window, step, border = [1, 1, 1], [1, 1, 1], [0, 0, 0]
    window[axis], step[axis], border[axis] = len(kernel), stride, padding
    weight = kernel.view(1, 1, *window).repeat(channels, 1, 1, 1, 1)
    result = F.conv3d(volume.permute(3, 0, 1, 2)[None], weight, None, step, border, groups=channels)
    return result[0].permute(1, 2, 3, 0)


# One lane of 16 or 32 channels, channels that no lane divides, and a single one.
@pytest.mark.parametrize("channels", [1, 3, 16, 32])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("taps", "stride", "padding"), [(5, 1, 2), (5, 1, 0), (6, 2, 2), (5, 2, 2), (5, 2, 0)])
def test_along_equals_conv3d(channels: int, axis: int, taps: int, stride: int, padding: int) -> None:
    volume, kernel = random(*SHAPE, channels), random(taps)
    expected = reference(volume, kernel, axis, stride, padding)
    torch.testing.assert_close(along(volume, kernel, axis, stride, padding), expected, rtol=0, atol=1e-13)


def test_bias_is_added_along_the_last_axis() -> None:
    volume, kernel, bias = random(*SHAPE, 5), random(5), random(5)
    expected = reference(volume, kernel, 2, 1, 2) + bias
    torch.testing.assert_close(along(volume, kernel, 2, 1, 2, bias), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [7, 8, 13, 16])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("taps", "stride"), [(5, 1), (7, 1), (5, 2), (6, 2), (3, 2), (4, 2)])
@pytest.mark.parametrize("padded", [True, False])
def test_adjoint(size: int, axis: int, taps: int, stride: int, padded: bool) -> None:
    """``<A x, y> = <x, A^T y>``, without zeros at the ends too, as slabs of a volume have it."""
    shape = [4, 4, 4, 2]
    shape[axis] = size
    padding = symmetric_padding(taps, stride) if padded else 0
    volume, kernel = random(*shape), random(taps)
    result = along(volume, kernel, axis, stride, padding)
    cotangent = random(*result.shape)
    back = adjoint(cotangent, kernel, axis, stride, padding, size)
    assert back.shape == volume.shape
    torch.testing.assert_close((result * cotangent).sum(), (volume * back).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("taps", "stride"), [(5, 1), (7, 1), (5, 2), (6, 2)])
@pytest.mark.parametrize("size", [8, 9, 16, 17])
def test_symmetric_padding_keeps_the_centre(taps: int, stride: int, size: int) -> None:
    if stride == 2 and (taps % 2 == 0) != (size % 2 == 0):
        pytest.skip("taps between voxels go with even sizes alone")
    axis = AxisTaps(torch.ones(3, taps, dtype=torch.float64), stride)
    assert axis.output_size(size) == -(-size // stride)
    volume, kernel = random(3, 3, size, 2), random(taps)
    mirrored = along(volume.flip(2), kernel.flip(0), 2, stride, axis.padding)
    torch.testing.assert_close(mirrored.flip(2), along(volume, kernel, 2, stride, axis.padding), rtol=0, atol=1e-14)
