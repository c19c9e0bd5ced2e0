"""Kernel spaces of finite groups against the character formula, and against the projector itself."""

import itertools

import pytest
import torch

from voxseg.baselines.finite_groups import FINITE_GROUPS, finite_group, irreps, representation
from voxseg.baselines.intertwiners import dimension_by_characters, kernel_space, project

ORDERS = {"C1": 1, "mirror": 2, "C2": 2, "C3": 3, "C4": 4, "C4v": 8, "D2": 4, "D4": 8, "T": 12, "O": 24, "Oh": 48}
FIELDS = {
    "O": [
        "trivial",
        "determinant",
        "vector",
        "regular",
        "quotient:C4",
        "quotient:C3",
        "quotient:D2",
        *(f"irrep:{k}" for k in range(5)),
    ],
    "Oh": ["trivial", "determinant", "regular", "quotient:O", "quotient:C4v", *(f"irrep:{k}" for k in range(10))],
    "mirror": ["trivial", "determinant", "regular", "vector"],
}


@pytest.mark.parametrize("name", FINITE_GROUPS)
def test_groups_and_their_irreps(name: str) -> None:
    of = finite_group(name)
    assert len(of) == ORDERS[name]
    assert torch.equal(of.elements[0], torch.eye(3, dtype=torch.float64))
    for rep in (representation(name, "regular"), *irreps(name)):
        products = rep.matrices[:, None] @ rep.matrices[None]
        torch.testing.assert_close(products, rep.matrices[of.products], atol=1e-12, rtol=0)
    # Real irreps: |G| is the sum of d^2 over those of real type and d^2 / 2 over those of complex type.
    squares = [(r.characters.square().mean(), r.dimension) for r in irreps(name)]
    assert sum(d**2 / norm for norm, d in squares) == pytest.approx(len(of))


def test_the_irreps_of_the_octahedral_groups() -> None:
    assert [r.dimension for r in irreps("O")] == [1, 1, 2, 3, 3]
    assert [r.dimension for r in irreps("Oh")] == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert [r.dimension for r in irreps("C4")] == [1, 1, 2]  # the last of complex type


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("size", [3, 5])
def test_dimensions_are_those_of_the_character_formula(name: str, size: int) -> None:
    for into, out in itertools.product(FIELDS[name], repeat=2):
        assert kernel_space(name, into, out, size).dimension == dimension_by_characters(name, into, out, size)


def test_regular_fields_of_all_48() -> None:
    for size in (3, 5):
        for other in ("regular", "quotient:C4v", "trivial"):
            space = kernel_space("Oh", "regular", other, size)
            assert space.dimension == dimension_by_characters("Oh", "regular", other, size)
            # Frobenius: from a regular field there is one kernel for each entry of what comes out.
            assert space.dimension == representation("Oh", other).dimension * size**3


@pytest.mark.parametrize(
    ("name", "into", "out", "size"),
    [("O", "irrep:3", "irrep:2", 3), ("O", "quotient:C4", "vector", 2), ("C4", "irrep:2", "irrep:2", 3),
     ("mirror", "regular", "regular", 3), ("O", "quotient:C4", "quotient:C3", 3), ("Oh", "vector", "determinant", 4)],
)  # fmt: skip
def test_the_space_is_the_range_of_the_projector(name: str, into: str, out: str, size: int) -> None:
    space = kernel_space(name, into, out, size)
    basis = space.kernels(torch.eye(space.dimension, dtype=torch.float64)[None])[0].flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(space.dimension, dtype=torch.float64), atol=1e-12, rtol=0)
    shape = (representation(name, out).dimension, representation(name, into).dimension, size, size, size)
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = project(name, into, out, kernel).flatten()
    torch.testing.assert_close(basis.T @ (basis @ kernel.flatten()), expected, atol=1e-12, rtol=0)


def test_what_commutes_on_a_torus_is_a_convolution_with_a_kernel_of_the_space() -> None:
    """The theorem: any linear map of fields on a 3^3 torus, averaged over translations and the group, is one."""
    of, (into, out) = finite_group("O"), (representation("O", "vector"), representation("O", "trivial"))
    generator = torch.Generator().manual_seed(0)
    anything = torch.randn(27, 81, generator=generator, dtype=torch.float64).reshape(3, 3, 3, 3, 3, 3, 3)
    by_translation = torch.zeros(3, 3, 3, 3, dtype=torch.float64)  # [component in, offset]: sum over pairs of places
    for x, y, z in itertools.product(range(3), repeat=3):
        rolled = anything[x, y, z].roll((1 - x, 1 - y, 1 - z), (1, 2, 3))
        by_translation += rolled / 27
    kernel = project("O", "vector", "trivial", by_translation[None])

    def apply(field: torch.Tensor) -> torch.Tensor:  # [3, 3, 3, 3] on the torus
        shifts = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
        return sum(
            torch.einsum("oi,ixyz->oxyz", kernel[:, :, x + 1, y + 1, z + 1], field.roll((-x, -y, -z), (1, 2, 3)))
            for x, y, z in shifts
        )

    field = torch.randn(3, 3, 3, 3, generator=generator, dtype=torch.float64)
    axis = torch.arange(3) - 1
    points = torch.cartesian_prod(axis, axis, axis).double()
    for h in range(len(of)):
        source = ((points @ of.elements[h]).round().long() + 1) @ torch.tensor([9, 3, 1])  # rows are h^-1 p
        turned = (into.matrices[h] @ field.flatten(1)[:, source]).reshape(3, 3, 3, 3)
        expected = (out.matrices[h] @ apply(field).flatten(1)[:, source]).reshape(1, 3, 3, 3)
        torch.testing.assert_close(apply(turned), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["irrep:9", "quotient:C4v", "vectors"])
def test_unknown_representations_are_told(name: str) -> None:
    with pytest.raises(ValueError, match=r"no|not"):
        representation("O", name)
