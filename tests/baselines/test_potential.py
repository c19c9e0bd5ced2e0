"""A scalar potential and its gradient: finite differences, no curl, turns, and a signed distance learned."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.nequip import NequIPBlock, TissueClasses
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


@pytest.mark.slow
def test_learns_a_signed_distance_and_its_normals() -> None:
    """Of balls of any size and place, from their image; values and directions both teach."""
    torch.manual_seed(0)
    block = NequIPBlock("1x0e", "8x0e+4x1e", radius=2.5, spacing=1.0)
    classes, head = TissueClasses(1, 1), ScalarPotential("8x0e+4x1e", 16, radius=2.5)
    optimiser = torch.optim.Adam([*block.parameters(), *head.parameters()], 1e-2)
    axis = torch.arange(11.0)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)

    def errors() -> tuple[torch.Tensor, torch.Tensor]:
        centre, radius = 5 + torch.rand(3) - 0.5, 2.5 + torch.rand(1)
        image = torch.sigmoid(3 * (radius - (grid - centre).norm(dim=-1)))[None, None]
        directions = torch.nn.functional.normalize(torch.randn(200, 3), dim=1)
        distances = 2 * torch.rand(200) - 1
        points = centre + (radius + distances)[:, None] * directions
        places = classes.on_voxels(image)
        energy, force = head.with_force(block(image, places, places)[0], points)
        return energy - distances, -force - directions

    for _ in range(150):
        for_energy, for_force = errors()
        loss = for_energy.square().mean() + for_force.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for_energy, for_force = errors()
    assert for_energy.square().mean().sqrt() < 0.15
    assert for_force.norm(dim=1).mean() < 0.4
