import math

import pytest
import torch

from voxseg.steerable import (
    contract,
    expand,
    fractional_anisotropy,
    main_axis,
    representation,
    symmetric_from_fields,
    symmetric_to_fields,
    wigner_d,
)
from voxseg.testing import grid_rotations, rotation_matrix

DEGREES = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("l1", "l2"), DEGREES)
def test_expansion_and_contraction_undo_each_other_and_keep_the_norm(l1, l2):
    matrices = random(5, 2 * l1 + 1, 2 * l2 + 1)
    fields = contract(matrices, l1, l2)
    assert fields.shape == (5, (2 * l1 + 1) * (2 * l2 + 1))
    assert torch.allclose(expand(fields, l1, l2), matrices, atol=1e-12)
    assert torch.allclose(fields.norm(dim=1), matrices.flatten(1).norm(dim=1))


@pytest.mark.parametrize(("l1", "l2"), DEGREES)
def test_turned_fields_expand_to_turned_matrices(l1, l2):
    rotation = rotation_matrix((1, -2, 3), 77)
    degrees = "+".join(f"1x{degree}e" for degree in range(abs(l1 - l2), l1 + l2 + 1))
    matrices = random(4, 2 * l1 + 1, 2 * l2 + 1)
    turned = wigner_d(l1, rotation) @ matrices @ wigner_d(l2, rotation).T
    fields = contract(matrices, l1, l2) @ representation(degrees, rotation).T
    assert torch.allclose(expand(fields, l1, l2), turned, atol=1e-12)


def test_symmetric_tensors_have_the_basis_of_e3nn():
    e3nn_io = pytest.importorskip("e3nn.io")
    basis = e3nn_io.CartesianTensor("ij=ji").reduced_tensor_products().change_of_basis.double()  # [6, 3, 3]
    ours = symmetric_from_fields(torch.eye(6, dtype=torch.float64))
    assert torch.allclose(ours, basis, atol=1e-6)
    tensors = random(7, 3, 3)
    tensors = tensors + tensors.mT
    assert torch.allclose(symmetric_from_fields(symmetric_to_fields(tensors)), tensors, atol=1e-12)
    assert float(symmetric_to_fields(torch.eye(3, dtype=torch.float64))[0]) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("rotation", [*grid_rotations(improper=True)[::7], rotation_matrix((2, 1, 0), 33)])
def test_symmetric_tensors_turn_from_both_sides(rotation):
    tensors = random(3, 3, 3)
    tensors = tensors + tensors.mT
    turned = symmetric_to_fields(tensors) @ representation("1x0e+1x2e", rotation).T
    assert torch.allclose(symmetric_from_fields(turned), rotation @ tensors @ rotation.T, atol=1e-10)


def test_anisotropy_and_main_axis_of_known_tensors():
    rotation = rotation_matrix((3, 1, -2), 50)
    eigenvalues = torch.tensor([1.7, 0.3, 0.2], dtype=torch.float64)
    tensor = rotation @ torch.diag(eigenvalues) @ rotation.T
    mean = eigenvalues.mean()
    expected = math.sqrt(1.5 * float((eigenvalues - mean).square().sum() / eigenvalues.square().sum()))
    assert float(fractional_anisotropy(tensor)) == pytest.approx(expected)
    length, axis = main_axis(tensor)
    assert float(length) == pytest.approx(1.7)
    assert float((axis @ rotation[:, 0]).abs()) == pytest.approx(1)
    assert float(axis[axis.abs().argmax()]) > 0
    round_and_none = torch.stack([torch.eye(3), torch.zeros(3, 3)])
    assert torch.equal(fractional_anisotropy(round_and_none), torch.zeros(2))
    flat = torch.zeros(3, 3)
    flat[2, 2] = 4.0
    assert float(fractional_anisotropy(flat)) == pytest.approx(1)
