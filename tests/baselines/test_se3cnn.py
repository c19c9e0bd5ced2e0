"""3D Steerable CNNs: shells, cut-off, smooth stride, non-linearities."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.se3cnn import GaussianShells, NormNonLinearity, SE3Layers, SmoothStride
from voxseg.steerable import FieldType, Lattice, SteerableConv3d
from voxseg.testing import assert_equivariant, interpolated_error, rotation_matrix

FIELD = "3x0e+2x1e+1x2e"


def test_the_published_cutoffs() -> None:
    assert GaussianShells(7, cutoff="conservative").bounds == [0, 2, 4, 6]
    assert GaussianShells(7).bounds == [0, 3, 5, 7]
    assert GaussianShells(7, cutoff="sfcnn").bounds == [0, 4, 6, 8]
    assert GaussianShells(5, max_degree=1).bounds == [0, 1, 1]
    assert GaussianShells(5).radii(4) == [2]
    with pytest.raises(ValueError, match="odd and at least 3"):
        GaussianShells(4)


def test_shells_are_gaussians_times_harmonics() -> None:
    scalar, vector, *_ = GaussianShells(5, sigma=0.6).filters(Lattice((1.0, 1.0, 1.0)))
    assert scalar.shape == (3, 1, 125)
    assert vector.shape == (2, 3, 125)
    profile = scalar[1, 0].view(5, 5, 5)[2, 2]  # along z, shell of radius 1
    expected = torch.exp(-((torch.tensor([2.0, 1, 0, 1, 2]) - 1) ** 2) / (2 * 0.36)).double()
    torch.testing.assert_close(profile / profile[1], expected, rtol=1e-6, atol=1e-9)
    assert vector[0, :, 62].abs().max() == 0, "the centre has no direction"
    for degree, filters in enumerate(GaussianShells(5).filters(Lattice((1.0, 1.0, 1.0)))):
        gram = torch.einsum("rma,rna->rmn", filters, filters)
        if degree < 3:  # higher degrees are not orthogonal on so few voxels
            torch.testing.assert_close(gram, torch.eye(2 * degree + 1).double().expand_as(gram), rtol=0, atol=0.35)


@pytest.mark.parametrize("nonlinearity", ["gated", "norm"])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_turn(nonlinearity: str, stride: int) -> None:
    torch.manual_seed(0)
    layers = SE3Layers(nonlinearity=nonlinearity)
    block = layers.block(FieldType(FIELD), FieldType(FIELD), (1.0,) * 3, 0, (stride,) * 3).double()
    assert_equivariant(block, FIELD, FIELD, size=(8, 9, 8), bound=None, dtype=torch.float64)
    error = interpolated_error(block, rotation_matrix((1, 2, 3), 33), FIELD, FIELD, (16, 16, 16), dtype=torch.float64)
    assert error < (0.2 if stride == 1 else 0.3)


def test_a_block_of_o3_commutes_with_reflections() -> None:
    torch.manual_seed(0)
    field = "3x0e+2x1o+1x2e"
    block = SE3Layers(group="O3").block(FieldType(field), FieldType(field), (1.0,) * 3, 0, (1, 1, 1)).double()
    assert_equivariant(block, field, field, size=(6, 7, 6), improper=True, bound=None, dtype=torch.float64)


def test_the_cutoff_keeps_high_degrees_from_aliasing() -> None:
    """Degree 4 on the shell of radius 1, where the grid has too few voxels for it, costs equivariance."""
    rotation, errors = rotation_matrix((1, 2, 3), 40), {}
    for name in ("conservative", "none"):
        basis = GaussianShells(3, cutoff="conservative", sigma=0.6)
        if name == "none":
            basis.bounds, basis.max_degree = [0, 4], 4
        torch.manual_seed(0)
        layer = SteerableConv3d("1x2e", "1x2e", basis).double()
        with torch.no_grad():  # each degree equally loud in both
            for weight in layer.weights.values():
                weight.fill_(1.0)
        errors[name] = interpolated_error(layer, rotation, "1x2e", "1x2e", (16, 16, 16), dtype=torch.float64)
    assert errors["conservative"] < 0.8 * errors["none"]


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 8, 7)])
def test_smooth_stride_is_exact_and_keeps_constants(size: tuple[int, int, int]) -> None:
    layer = SmoothStride((2, 2, 2))
    assert_equivariant(layer, FIELD, FIELD, size=size, bound=None, dtype=torch.float64)
    ones = layer(torch.ones(1, 1, 20, 21, 20))
    assert ones.shape == (1, 1, 10, 11, 10)
    torch.testing.assert_close(ones[..., 3:7, 3:7, 3:7], torch.ones(1, 1, 4, 4, 4))
    finest = torch.cos(torch.pi * torch.arange(20)).view(1, 1, 20, 1, 1).expand(1, 1, 20, 20, 20)
    assert SmoothStride((2, 1, 1))(finest)[:, :, 3:7].abs().max() < 0.06, "what a grid of half the voxels cannot show"


def test_the_norm_nonlinearity_has_the_right_gradient_even_where_a_field_vanishes() -> None:
    layer = NormNonLinearity(FieldType("1x0e+2x1e")).double()
    x = torch.randn(1, 7, 2, 1, 1, dtype=torch.float64)
    x[:, 1:4, 0] = 0
    x.requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
