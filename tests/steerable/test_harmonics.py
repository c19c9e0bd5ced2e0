"""Harmonics, Clebsch-Gordan coefficients and Wigner matrices against e3nn, and the laws that they obey."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from e3nn import o3

from voxseg.steerable import solid_harmonics, wigner_3j, wigner_d
from voxseg.testing import grid_rotations, rotation_matrix


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """e3nn makes some of its constants in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


ROTATION = rotation_matrix((0.3, -1.1, 0.7), 71.0)


@pytest.mark.parametrize("degree", range(6))
def test_solid_harmonics_equal_e3nn(degree: int) -> None:
    points = torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(degree))
    expected = o3.spherical_harmonics(degree, points, normalize=False, normalization="component")
    torch.testing.assert_close(solid_harmonics(degree, points), expected, rtol=1e-10, atol=1e-10)


def test_degree_one_is_xyz() -> None:
    points = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(solid_harmonics(1, points), 3**0.5 * points)


@pytest.mark.parametrize(
    "degrees", [d for d in itertools.product(range(5), repeat=3) if abs(d[0] - d[1]) <= d[2] <= d[0] + d[1]]
)
def test_wigner_3j_equals_e3nn(degrees: tuple[int, int, int]) -> None:
    expected = o3.wigner_3j(*degrees, dtype=torch.float64)
    torch.testing.assert_close(wigner_3j(*degrees), expected, rtol=0, atol=1e-10)


def test_wigner_3j_refuses_degrees_that_do_not_couple() -> None:
    with pytest.raises(ValueError, match="1, 1, 3"):
        wigner_3j(1, 1, 3)


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("parity", [1, -1])
def test_wigner_d_equals_e3nn(degree: int, parity: int) -> None:
    for rotation in (ROTATION, -ROTATION, *grid_rotations(improper=True)[::7]):
        expected = o3.Irrep(degree, parity).D_from_matrix(rotation)
        torch.testing.assert_close(wigner_d(degree, rotation, parity), expected, rtol=0, atol=1e-10)


def test_wigner_3j_is_invariant() -> None:
    d1, d2, d3 = (wigner_d(degree, ROTATION) for degree in (2, 1, 2))
    tensor = wigner_3j(2, 1, 2)
    torch.testing.assert_close(torch.einsum("ijk,ai,bj,ck->abc", tensor, d1, d2, d3), tensor, rtol=0, atol=1e-12)
