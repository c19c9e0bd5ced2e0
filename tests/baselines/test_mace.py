"""MACE on voxels: turns, on voxels as between points, and the body order of one layer."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.mace import MACE, MACEBlock
from voxseg.baselines.messages import Graph
from voxseg.baselines.nequip import TissueClasses
from voxseg.testing import assert_equivariant, exact_error, grid_rotations

FIELD = "2x0e+2x1e+2x2e"


@pytest.mark.parametrize(("levels", "bound"), [(2, None), (1, 0.05)])
def test_turns_with_its_input(levels: int, bound: float | None) -> None:
    """Between the rotations of the grid where no level is strided: a grid of four voxels holds no smooth input."""
    torch.manual_seed(0)
    network = MACE(1, 2, (FIELD,) * levels, radius=1.8).double().eval()
    assert_equivariant(network, "1x0e", "2x0e", size=(8, 8, 8), dtype=torch.float64, bound=bound)


def test_with_reflections_in_o3() -> None:
    torch.manual_seed(0)
    network = MACE(1, 2, ("2x0e+2x1o+2x2e",) * 2, radius=1.8, group="O3").double().eval()
    x = torch.randn(1, 1, 8, 9, 8, dtype=torch.float64)
    for rotation in (grid_rotations(improper=True)[k] for k in (7, 20, 33)):
        assert exact_error(network, x, rotation, "1x0e", "2x0e") < 1e-9


def arrangement(weights: list[float], turn: torch.Tensor) -> tuple[torch.Tensor, Graph]:
    """Six neighbours at the corners of a turned octahedron, with intensities, around a centre (number 0)."""
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double() @ turn.T
    places = torch.cat([torch.zeros(1, 3, dtype=torch.float64), corners])
    intensities = torch.tensor([1.0, *weights], dtype=torch.float64)[:, None]
    offsets = places[None] - places[:, None]
    target, source = (offsets.norm(dim=-1) < 1.2).nonzero(as_tuple=True)  # corners do not hear each other
    return intensities, Graph(source, target, offsets[target, source], 7)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_body_order_of_one_layer(order: int) -> None:
    """What differs in angles between two neighbours needs order 2, in triples alone order 3."""
    torch.manual_seed(0)
    block = MACEBlock("1x0e", "4x0e", order=order, norm=False, radius=1.5, spacing=1.0).double()
    classes = TissueClasses(1, 1).double()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q

    def centre(weights: list[float]) -> torch.Tensor:
        x, graph = arrangement(weights, turn)
        with torch.no_grad():
            return block.on_points(x, graph, classes.on_points(x))[0]

    straight, bent = centre([1, 0, 0, 1, 0, 0]), centre([1, 1, 0, 0, 0, 0])
    # The quadrupoles are opposite: all powers |A_l|^2 up to degree 2 are equal, the determinants are not.
    long, flat = centre([0.5, 0.5, 2.0] * 2), centre([1.5, 1.5, 0.0] * 2)
    assert ((straight - bent).abs().max() > 1e-3) == (order >= 2)
    assert ((long - flat).abs().max() > 1e-3) == (order >= 3)
    if order < 3:
        torch.testing.assert_close(long, flat, rtol=1e-9, atol=1e-9)
    if order < 2:
        torch.testing.assert_close(straight, bent, rtol=1e-9, atol=1e-9)
