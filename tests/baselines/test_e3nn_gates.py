"""e3nn's gate block on voxels, and that voxseg's separable kernels are e3nn's where they span the same."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from voxseg.baselines.e3nn_gates import E3nnConvolution, E3nnGateBlock
from voxseg.steerable import Lattice, SolidHarmonicBasis, SteerableConv3d
from voxseg.testing import assert_equivariant, interpolated_error, rotation_matrix

FIELD = "2x0e+1x1e+1x2e"


@pytest.mark.parametrize("group", ["SO3", "O3"])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_turn(group: str, stride: int) -> None:
    torch.manual_seed(0)
    odd = group == "O3"
    field_in, field_out = ("2x0e+1x1o", "2x0e+1x1o+1x2e") if odd else ("2x0e+1x1e", "2x0e+1x1e+1x2e")
    block = E3nnGateBlock(field_in, field_out, (stride,) * 3, group=group).double().eval()
    # e3nn's coefficients are of single precision.
    assert_equivariant(
        block, field_in, field_out, size=(8, 9, 8), improper=odd, tolerance=1e-7, bound=None, dtype=torch.float64
    )
    error = interpolated_error(
        block, rotation_matrix((1, 2, 3), 33), field_in, field_out, (16, 16, 16), dtype=torch.float64
    )
    assert error < (0.2 if stride == 1 else 0.3)


def test_unit_size_at_the_start() -> None:
    torch.manual_seed(0)
    convolution = E3nnConvolution("8x0e+4x1e+2x2e", "8x0e+4x1e+2x2e")
    with torch.no_grad():
        inside = convolution(torch.randn(1, 30, 12, 12, 12))[..., 3:-3, 3:-3, 3:-3]
    for part in (inside[:, :8], inside[:, 8:20], inside[:, 20:]):
        assert 0.5 < part.std() < 2.5  # the tensor product and the centre, each of size 1


@pytest.mark.parametrize("group", ["SO3", "O3"])
@pytest.mark.parametrize("centred", [True, False])
def test_separable_kernels_are_those_of_e3nns_tensor_product(group: str, centred: bool) -> None:
    """Both span the same kernels: as many weights, and ours is a combination of e3nn's to 1e-6 of its size."""
    torch.manual_seed(0)
    field = "2x0e+1x1o+1x2e" if group == "O3" else FIELD
    layer = SteerableConv3d(field, field, SolidHarmonicBasis(0.8, 1.0), group=group).double()
    lattice = Lattice((1.0, 1.0, 1.0), (centred,) * 3)
    kernel = layer.dense_kernel(lattice).detach()

    count = kernel.shape[-1]
    axis = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) / 0.8
    radius = points.norm(dim=-1, keepdim=True)
    gaussian = torch.exp(-radius.square() / 2)
    harmonics = o3.Irreps.spherical_harmonics(2, p=-1 if group == "O3" else 1)
    angular = o3.spherical_harmonics(harmonics, points, normalize=True, normalization="component")
    degrees = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
    first = angular * gaussian * radius**degrees  # r^l Y_l g
    second = angular * gaussian * radius.square() * (degrees == 0)  # the trace term's r^2 g
    product = o3.FullyConnectedTensorProduct(field, harmonics, field, shared_weights=False, compile_right=True).double()
    units = torch.eye(product.weight_numel, dtype=torch.float64)
    columns = []
    for radial in (first, second):
        for unit in units:
            column = product.right(radial, unit.expand(*radial.shape[:3], -1))
            columns.append(column.permute(4, 3, 0, 1, 2).flatten())
    basis = torch.stack([column for column in columns if column.abs().max() > 1e-12], 1)

    assert basis.shape[1] == sum(weight.numel() for weight in layer.weights.values())
    assert torch.linalg.matrix_rank(basis) == basis.shape[1]
    weights = torch.linalg.lstsq(basis, kernel.flatten()[:, None]).solution
    residual = (basis @ weights)[:, 0] - kernel.flatten()
    assert residual.norm() < 1e-6 * kernel.norm()
