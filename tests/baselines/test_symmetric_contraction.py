"""The symmetric contraction: spans e3nn's reduced tensor products, turns, and is what its definition says."""

from __future__ import annotations

import itertools

import pytest
import torch
from e3nn import o3

from voxseg.baselines.symmetric_contraction import SymmetricContraction, monomials, symmetric_basis
from voxseg.steerable import FieldType
from voxseg.testing import representation, rotation_matrix

FORMULAS = {2: "ij=ji", 3: "ijk=jik=ikj"}


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("single", ["0e+1e+2e", "0e+1o+2e"])
def test_spans_the_reduced_tensor_products_of_e3nn(order: int, single: str) -> None:
    """The same number of polynomials of each kind, and theirs are combinations of ours."""
    kinds = [irrep.name for irrep in FieldType(single).irreps]
    theirs = o3.ReducedTensorProducts(FORMULAS[order], i=single, filter_ir_out=kinds)
    dimension = FieldType(single).channels
    change = theirs.change_of_basis.double().reshape(-1, dimension**order)
    names = monomials(dimension, order)
    where = torch.tensor(
        [names.index(tuple(sorted(index))) for index in itertools.product(range(dimension), repeat=order)]
    )
    polynomials = change.new_zeros(len(change), len(names)).index_add(1, where, change)
    for (count, irrep), channels in zip(theirs.irreps_out, theirs.irreps_out.slices(), strict=True):
        ours = symmetric_basis(FieldType(single), str(irrep), order)
        total = sum(n for n, other in theirs.irreps_out if other == irrep)
        assert len(ours) == total
        block = polynomials[channels].unflatten(0, (count, irrep.dim))
        basis = ours.flatten(1).T
        residual = basis @ torch.linalg.lstsq(basis, block.flatten(1).T).solution - block.flatten(1).T
        assert residual.norm() < 1e-5 * block.norm()  # e3nn's are of single precision


def test_no_pseudoscalar_from_three_equal_factors() -> None:
    assert len(symmetric_basis(FieldType("0e+1o+2e"), "0o", 3)) == 0
    with pytest.raises(ValueError, match="no product of up to 3 of '1x0e\\+1x1o\\+1x2e' makes 0o"):
        SymmetricContraction(2, "0e+1o+2e", "0o", 3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_turns_under_any_rotation(order: int) -> None:
    torch.manual_seed(0)
    contraction = SymmetricContraction(3, "0e+1e+2e", "0e+1e+2e", order, classes=2).double()
    rows, classes = torch.randn(5, 27, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    turn = representation(contraction.field_in, rotation_matrix((1, 2, 3), 40))
    with torch.no_grad():
        expected = contraction(rows, classes) @ turn.T
        found = contraction(rows @ turn.T, classes)
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()


def test_channels_stay_apart_and_orders_add_up() -> None:
    """Without the mixing of channels, and homogeneous order by order."""
    torch.manual_seed(0)
    contraction = SymmetricContraction(2, "0e+1e", "0e+1e", 3).double()
    rows, one = torch.randn(4, 8, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    with torch.no_grad():
        whole = contraction(rows, one)
        other = rows.clone()
        other[:, 1] += 1  # the second scalar
        changed = (contraction(other, one) - whole).abs().amax(0) > 1e-9
        assert changed.tolist() == [False, True] + [False] * 3 + [True] * 3
        values = torch.stack([contraction(s * rows, one) for s in (1.0, 2.0, 3.0)])
        powers = torch.tensor([[s, s**2, s**3] for s in (1.0, 2.0, 3.0)], dtype=torch.float64)
        parts = torch.einsum("sk,knc->snc", torch.linalg.inv(powers), values)
        s = 0.7
        predicted = s * parts[0] + s**2 * parts[1] + s**3 * parts[2]
    torch.testing.assert_close(contraction(s * rows, one).detach(), predicted, rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing_and_gradients_are_right() -> None:
    torch.manual_seed(0)
    contraction = SymmetricContraction(2, "0e+1e", "0e+1e", 3, classes=2, chunk=3).double()
    rows = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    classes = torch.rand(7, 2, dtype=torch.float64, requires_grad=True)
    whole = SymmetricContraction(2, "0e+1e", "0e+1e", 3, classes=2).double()
    whole.load_state_dict(contraction.state_dict())
    torch.testing.assert_close(contraction(rows, classes), whole(rows, classes), rtol=1e-12, atol=1e-12)

    def run(rows: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(contraction, {"weights": weights}, (rows, classes))

    weights = contraction.weights.detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (rows, classes, weights), fast_mode=True)


def test_at_most_a_chunk_of_products_is_held() -> None:
    """Between the passes no products are kept at all: what autograd holds does not grow faster than the rows."""
    contraction = SymmetricContraction(4, "0e+1e+2e", "0e+1e+2e", 3, chunk=64)
    rows, classes = torch.randn(512, 36, requires_grad=True), torch.ones(512, 1)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        contraction(rows, classes).sum()
    products = 4 * 512 * 4 * (219 + 101)
    assert sum(kept.values()) < 0.1 * products
