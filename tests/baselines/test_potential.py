"""A scalar potential and its gradient: finite differences, no curl, turns."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.potential import ScalarPotential
from voxseg.testing import grid_rotations, rotate_field

FIELD = "2x0e+1x1e+1x2e"
STEP = 1e-4


@pytest.fixture
def potential() -> ScalarPotential:
    torch.manual_seed(0)
    return ScalarPotential(FIELD, 4, radius=2.2).double()


def points_of(count: int, size: int) -> torch.Tensor:
    """Anywhere, and some exactly at voxels."""
    anywhere = torch.rand(count, 3, dtype=torch.float64) * (size - 1)
    return torch.cat([anywhere, torch.randint(size, (4, 3)).double()])


def test_the_force_is_the_slope_by_finite_differences(potential: ScalarPotential) -> None:
    features, points = torch.randn(10, 6, 6, 6, dtype=torch.float64), points_of(20, 6)
    spacing = (1.0, 0.9, 0.8)
    _, force = potential.with_force(features, points * torch.tensor(spacing), spacing)
    points = points * torch.tensor(spacing)
    with torch.no_grad():
        for axis, step in enumerate(STEP * torch.eye(3, dtype=torch.float64)):
            slope = (potential(features, points + step, spacing) - potential(features, points - step, spacing)) / (
                2 * STEP
            )
            assert (slope + force[:, axis]).abs().max() < 1e-4 * force.abs().max()


def test_the_field_has_no_curl(potential: ScalarPotential) -> None:
    features, points = torch.randn(10, 6, 6, 6, dtype=torch.float64), points_of(10, 6)
    columns = []
    for step in STEP * torch.eye(3, dtype=torch.float64):
        after, before = (potential.with_force(features, points + s * step)[1].detach() for s in (1, -1))
        columns.append((after - before) / (2 * STEP))
    jacobian = torch.stack(columns, -1)
    assert (jacobian - jacobian.mT).abs().max() < 1e-4 * jacobian.abs().max()


def test_potential_stays_and_force_turns(potential: ScalarPotential) -> None:
    features, points = torch.randn(10, 5, 5, 5, dtype=torch.float64), points_of(10, 5)
    energy, force = potential.with_force(features, points)
    for rotation in (grid_rotations()[k] for k in (5, 17)):
        turned = rotate_field(features[None], rotation, FIELD)[0]
        moved = (points - 2) @ rotation.T + 2
        found = potential.with_force(turned, moved)
        torch.testing.assert_close(found[0], energy, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found[1], force @ rotation.T, rtol=1e-9, atol=1e-9)
