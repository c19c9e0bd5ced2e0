"""Couplings from generators alone: Wigner's 3j, and counts known from characters."""

import pytest
import torch
from e3nn import o3

from voxseg.baselines.generators import Representation, canonical_basis, clebsch_gordan, invariants, representation_on
from voxseg.baselines.groups import GROUPS, group

TRIANGLES = [(a, b, c) for a in range(4) for b in range(4) for c in range(5) if abs(a - b) <= c <= a + b]


@pytest.mark.parametrize(("a", "b", "c"), TRIANGLES)
def test_couplings_of_so3_are_wigners(a: int, b: int, c: int) -> None:
    rotations = group("SO3")
    found = clebsch_gordan(*(rotations.irrep(degree, 1) for degree in (a, b, c)))
    assert found.shape[0] == 1
    expected = o3.wigner_3j(a, b, c, dtype=torch.float64)
    sign = torch.sign((found[0] * expected).sum())
    torch.testing.assert_close(sign * found[0], expected, atol=1e-8, rtol=0)


def test_no_coupling_outside_the_triangle_or_against_parity() -> None:
    rotations, orthogonal = group("SO3"), group("O3")
    assert len(clebsch_gordan(rotations.irrep(1, 1), rotations.irrep(1, 1), rotations.irrep(3, 1))) == 0
    odd, even = orthogonal.irrep(1, -1), orthogonal.irrep(1, 1)
    assert len(clebsch_gordan(odd, odd, even)) == 1  # the cross product of two vectors is a pseudovector
    assert len(clebsch_gordan(odd, odd, odd)) == 0


@pytest.mark.parametrize("name", GROUPS)
def test_irreps_are_irreducible_and_orthogonal(name: str) -> None:
    """Schur: what commutes with an irrep are numbers, real ones, or complex ones for frequencies without mirror."""
    of = group(name)
    for degree in range(3):
        irrep = of.irrep(degree, 1)
        commutant = len(invariants(irrep, irrep))
        complex_type = name in ("SO2_z", "SO2_z_mirror", "U1") and degree > 0
        assert commutant == (2 if complex_type else 1), (name, degree)
        torch.testing.assert_close(irrep.algebra, -irrep.algebra.mT)
        eye = torch.eye(irrep.dimension, dtype=torch.float64).expand_as(irrep.finite)
        torch.testing.assert_close(irrep.finite @ irrep.finite.mT, eye)


@pytest.mark.parametrize(
    ("name", "a", "b", "c", "count"),
    [
        ("SO2_z", 1, 1, 2, 2),  # e^{i 2 a}: a complex number times the product
        ("SO2_z", 1, 1, 0, 2),  # scalar and cross product
        ("SO2_z", 1, 2, 2, 0),
        ("O2_z", 1, 1, 2, 1),
        ("O2_z", 1, 1, 0, 1),
        ("U1", 1, 1, 0, 2),
        ("U1", 1, 1, 1, 0),
    ],
)
def test_couplings_of_frequencies_and_charges(name: str, a: int, b: int, c: int, count: int) -> None:
    of = group(name)
    assert len(clebsch_gordan(*(of.irrep(degree, 1) for degree in (a, b, c)))) == count


def test_a_finite_group_by_two_generators() -> None:
    """The octahedral group: a quarter turn about z and a third of a turn about the diagonal."""
    turns = torch.tensor([[[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    vector = Representation(torch.zeros(0, 3, 3, dtype=torch.float64), turns)
    # Invariants of two vectors: the scalar product; of three: the triple product; of four: 4 (3 of SO(3), one cubic).
    assert [len(invariants(*[vector] * n)) for n in (1, 2, 3, 4)] == [0, 1, 1, 4]


def test_functions_that_do_not_turn_into_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="does not map the span"):
        representation_on(lambda points: points[:, :2], group("SO3").spatial)


def test_canonical_basis_forgets_which_vectors_spanned_it() -> None:
    generator = torch.Generator().manual_seed(1)
    frame = torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=torch.float64))[0]
    turned = frame @ torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    one, other = canonical_basis(frame @ frame.T), canonical_basis(turned @ turned.T)
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    torch.testing.assert_close(one @ one.T, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)
