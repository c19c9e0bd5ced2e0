"""Transforms and correlations on the sphere and the rotation group, against sums written out."""

import math

import pytest
import torch
from torch import Tensor

from voxseg.baselines.spherical_signals import (
    EulerGrid,
    OctahedralGrid,
    coefficients_of_samples,
    correlate_so3,
    correlate_sphere,
    degrees_so3,
    harmonics,
    rotation_by_angles,
    wigner_row,
)
from voxseg.steerable import wigner_d
from voxseg.testing import grid_rotations, rotation_matrix

DIRECT = 1e-10


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def size_so3(lmax: int) -> int:
    return sum((2 * n + 1) ** 2 for n in range(lmax + 1))


@pytest.mark.parametrize(("lmax", "resolution"), [(0, 1), (1, 3), (2, 6), (3, 8), (3, 9)])
def test_the_fast_transform_is_the_direct_sum(lmax: int, resolution: int) -> None:
    grid = EulerGrid(lmax, resolution)
    rows = torch.stack([wigner_row(lmax, rotation) for rotation in grid.rotations()])  # [n^3, coefficients]
    coefficients = randn(2, 3, size_so3(lmax))
    torch.testing.assert_close(grid.synthesise(coefficients), coefficients @ rows.T, atol=DIRECT, rtol=0)
    samples = randn(2, grid.samples, seed=1)
    weights = grid.weights.view(1, -1, 1).expand(grid.n, grid.n, grid.n).flatten() / grid.n**2
    torch.testing.assert_close(grid.analyse(samples), (samples * weights) @ rows, atol=DIRECT, rtol=0)
    torch.testing.assert_close(grid.analyse(grid.synthesise(coefficients)), coefficients, atol=DIRECT, rtol=0)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_correlations_are_the_integrals_that_define_them(lmax: int) -> None:
    """At a few rotations, by quadrature over the sphere and over the group."""
    grid = EulerGrid(lmax)
    over_group, n = grid.rotations(), grid.n
    weights = grid.weights.view(1, -1, 1).expand(n, n, n).flatten() / n**2
    # What a rotation does to y: with the weights of the group these directions cover the sphere evenly.
    directions = over_group[:, :, 1]
    f, psi = randn(1, 2, (lmax + 1) ** 2), randn(3, 2, (lmax + 1) ** 2, seed=1)
    found = correlate_sphere(f, psi)
    g, chi = randn(1, 2, size_so3(lmax), seed=2), randn(3, 2, size_so3(lmax), seed=3)
    found_so3 = correlate_so3(g, chi)
    rows = torch.stack([wigner_row(lmax, rotation) for rotation in over_group])
    for angles in ((0.3, 1.1, 2.0), (4.0, 2.5, 0.1)):
        rotation = rotation_by_angles(*angles)
        row = wigner_row(lmax, rotation)
        turned = psi @ harmonics(lmax, directions @ rotation).T  # psi(R^-1 x): rows of x @ R are R^T x
        signal = f @ harmonics(lmax, directions).T
        expected = torch.einsum("bix,oix,x->bo", signal, turned, weights)
        torch.testing.assert_close(found @ row, expected, atol=DIRECT, rtol=0)
        turned = chi @ torch.stack([wigner_row(lmax, rotation.T @ q) for q in over_group]).T
        expected = torch.einsum("biq,oiq,q->bo", g @ rows.T, turned, weights)
        torch.testing.assert_close(found_so3 @ row, expected, atol=DIRECT, rtol=0)


def test_turning_the_signal_turns_the_left_index() -> None:
    lmax, rotation = 2, rotation_matrix((1, 2, 3), 50)
    turn_sphere = torch.block_diag(*[wigner_d(n, rotation) for n in range(lmax + 1)])
    f, psi = randn(1, 1, 9), randn(2, 1, 9, seed=1)
    turned = correlate_sphere(f @ turn_sphere.T, psi)
    expected = correlate_sphere(f, psi)
    for degree, part in enumerate(degrees_so3(lmax)):
        block = expected[..., part].unflatten(-1, (2 * degree + 1,) * 2)
        torch.testing.assert_close(turned[..., part], (wigner_d(degree, rotation) @ block).flatten(2))


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_the_octahedral_grid_is_a_quadrature_that_the_24_rotations_keep(lmax: int) -> None:
    grid = OctahedralGrid(lmax)
    assert grid.samples == {1: 24, 2: 96, 3: 216}[lmax]
    coefficients = randn(4, size_so3(lmax))
    torch.testing.assert_close(grid.analyse(grid.synthesise(coefficients)), coefficients, atol=DIRECT, rtol=0)
    for g in grid_rotations():
        distances = ((g @ grid.rotations)[:, None] - grid.rotations).abs().amax((-1, -2))
        nearest = distances.min(1)
        assert nearest.values.max() < 1e-9
        torch.testing.assert_close(grid.weights[nearest.indices], grid.weights)
        assert len(nearest.indices.unique()) == grid.samples


def test_samples_at_any_directions_give_the_signal_again() -> None:
    points = torch.nn.functional.normalize(randn(60, 3), dim=1)
    coefficients = randn(2, 25, seed=1)
    values = coefficients @ harmonics(4, points).T
    torch.testing.assert_close(coefficients_of_samples(values, points, 4), coefficients, atol=1e-9, rtol=0)
    even = coefficients_of_samples(values, points, 4, even=True)
    assert even[..., 1:4].abs().max() == 0
    assert even[..., 9:16].abs().max() == 0


def test_gradients_through_the_fast_transform() -> None:
    grid = EulerGrid(1, 4)
    assert torch.autograd.gradcheck(
        lambda c: grid.analyse(torch.tanh(grid.synthesise(c))), (randn(2, 10).requires_grad_(),)
    )


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7"):
        EulerGrid(3, 6)
    assert math.isclose(float(EulerGrid(3).weights.sum()), 1)
