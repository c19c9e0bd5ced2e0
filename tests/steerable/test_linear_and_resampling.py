"""Mixing at a voxel, and upsampling as the mirror of the strided convolution."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from voxseg.steerable import FieldLinear, SolidHarmonicBasis, SteerableConv3d, strides_for, upsample
from voxseg.steerable.layout import sample_rows
from voxseg.steerable.resampling import add_upsample_adjoint, upsample_planes
from voxseg.testing import assert_equivariant

FIELD, OTHER = "3x0e+2x1e+1x2e", "2x0e+1x1e+3x2e"


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 8, 9)])
def test_linear_is_equivariant(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = FieldLinear(FIELD, OTHER)
    torch.nn.init.normal_(layer.bias)
    assert_equivariant(layer, FIELD, OTHER, size=size, bound=None)
    assert_equivariant(layer.double(), FIELD, OTHER, size=size, bound=None, dtype=torch.float64)
    mixed = "2x0e+1x0o+2x1o+1x1e"
    assert_equivariant(FieldLinear(mixed, mixed), mixed, mixed, size=size, bound=None, improper=True)


def test_linear_folds_to_a_plain_convolution() -> None:
    layer = FieldLinear(FIELD, OTHER)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, layer.field_in.channels, 4, 5, 6)
    folded = layer.fold()
    assert isinstance(folded, torch.nn.Conv3d)
    torch.testing.assert_close(folded(x), layer(x))
    plain = torch.nn.functional.conv3d(x, folded.weight, folded.bias)
    torch.testing.assert_close(folded(x), plain, rtol=1e-5, atol=1e-5)


def test_linear_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ValueError, match="holds no 2e"):
        FieldLinear("2x0e+1x1e", "1x2e")


@pytest.mark.parametrize("size", [(12, 12, 12), (13, 13, 13), (12, 13, 10)])
def test_down_and_up_again_is_equivariant(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    down = SteerableConv3d(FIELD, FIELD, SolidHarmonicBasis(1.1, 1.0), stride=(2, 2, 2)).double()
    assert_equivariant(
        lambda x: upsample(down(x), x.shape[2:]), FIELD, FIELD, size=size, bound=None, dtype=torch.float64
    )


def test_even_sizes_are_what_torch_does() -> None:
    x = torch.randn(1, 3, 4, 5, 6)
    expected = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, (8, 10, 12)), expected)


@pytest.mark.parametrize("size", [(16, 16, 16), (15, 15, 15), (16, 15, 13)])
def test_positions_are_those_of_the_fine_grid(size: tuple[int, int, int]) -> None:
    """A linear ramp that a strided convolution averaged comes back as the same ramp away from the border."""
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    ramp = (x + 2 * y - 3 * z)[None, None]
    down = SteerableConv3d("1x0e", "1x0e", SolidHarmonicBasis(1.1, 1.0), stride=(2, 2, 2)).double()
    with torch.no_grad():
        weight = down.weights["0_0"]
        weight.zero_()
        weight[..., 0] = 1  # the Gaussian alone
    gain = down(torch.ones_like(ramp))[0, 0, 3, 3, 3]
    back = upsample(down(ramp) / gain, size)
    inner = (0, 0, slice(5, -5), slice(5, -5), slice(5, -5))
    torch.testing.assert_close(back[inner], ramp[inner], rtol=0, atol=1e-9)


@pytest.mark.parametrize("fine", [10, 9, 5, 1, 2])
def test_planes_of_the_upsampled_volume_and_their_adjoint(fine: int) -> None:
    size, coarse = (fine, 7, 8), (5 if fine > 2 else 1, 4, 4)
    x = torch.randn(1, 3, *coarse, dtype=torch.float64, requires_grad=True)
    whole = upsample(x, size)
    for first, last in itertools.combinations(range(fine + 1), 2):
        planes = upsample_planes(sample_rows(x.detach(), 0), size, first, last)
        torch.testing.assert_close(planes, sample_rows(whole.detach(), 0)[first:last], rtol=0, atol=1e-14)
        cotangent = torch.randn_like(planes)
        (expected,) = torch.autograd.grad(sample_rows(whole, 0)[first:last], x, cotangent, retain_graph=True)
        total = torch.ones(*coarse, 3, dtype=torch.float64)
        add_upsample_adjoint(total, cotangent, size, first)
        torch.testing.assert_close(total, sample_rows(expected, 0) + 1, rtol=0, atol=1e-12)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot come from 9"):
        upsample(torch.zeros(1, 1, 4, 4, 4), (8, 8, 9))


@pytest.mark.parametrize(
    ("spacing", "coarser", "strides"),
    [((2, 2, 2), 4, (2, 2, 2)), ((2, 2, 4), 4, (2, 2, 1)), ((1, 1, 3), 2, (2, 2, 1)), ((1, 1.2, 1.5), 2, (2, 2, 1))],
)
def test_strides_make_voxels_cubic(
    spacing: tuple[float, float, float], coarser: float, strides: tuple[int, int, int]
) -> None:
    assert strides_for(spacing, coarser) == strides
