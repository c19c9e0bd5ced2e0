"""Spherical CNNs: invariance of whole signals, exactness on volumes, and what a block computes."""

import pytest
import torch

from voxseg.baselines.spherical import ShellMoments, Spherical, SphericalBlock, SphericalNet
from voxseg.steerable import wigner_d
from voxseg.testing import assert_equivariant, exact_error, grid_rotations, rotation_matrix


def test_a_turned_signal_gives_the_same_numbers() -> None:
    """But for what the non-linearity adds beyond the grid's degree, which more samples make smaller."""
    rotation = rotation_matrix((1, 2, 3), 50)
    turn = torch.block_diag(*[wigner_d(n, rotation) for n in range(4)])
    f = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for resolution in (2, 4):
        torch.manual_seed(0)
        network = SphericalNet(2, 5, lmax=(3, 2), channels=(4, 6), resolution=resolution).double().eval()
        with torch.no_grad():
            upright, turned = network(f), network(f @ turn.T)
        errors.append(((upright - turned).norm() / upright.norm()).item())
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 10


def test_moments_are_those_of_the_neighbourhood() -> None:
    moments = ShellMoments((1.0,)).double()
    x = torch.zeros(1, 2, 9, 9, 9, dtype=torch.float64)
    x[0, 1, 6, 4, 4] = 1  # two voxels from the centre along x
    at_centre = moments(x)[0, :, 0, :, 4, 4, 4]
    assert at_centre[0].abs().max() == 0
    # Degree 1 in (x, y, z) order; of degree 2 the two harmonics that x alone does not vanish on.
    assert at_centre[1, 1] > 0.01
    assert at_centre[1, 2:4].abs().max() < 1e-12
    assert at_centre[1, [4, 5, 7]].abs().max() < 1e-12


@pytest.mark.parametrize("lmax", [1, 2])
def test_blocks_turn_with_their_input(lmax: int) -> None:
    torch.manual_seed(0)
    block = SphericalBlock(1, 4, signals=3, lmax=lmax)
    # Where smooth signals pass through zero the norms make sharp edges of them, which no grid samples well.
    for module in block.modules():
        if hasattr(module, "epsilon"):
            module.epsilon = 1.0
    assert_equivariant(block, "1x0e", "4x0e", size=(14, 14, 14), bound=0.05)
    strided = SphericalBlock(2, 3, signals=2, lmax=lmax, widths=(1.1, 1.8), stride=(2, 2, 2)).double()
    x = torch.randn(2, 2, 7, 7, 6, dtype=torch.float64)
    for rotation in grid_rotations()[::5]:
        assert exact_error(strided, x, rotation, "2x0e", "3x0e") < 1e-10


def test_the_network() -> None:
    torch.manual_seed(0)
    network = Spherical(in_channels=1, out_channels=2, levels=(2, 3), signals=2, lmax=1)
    assert_equivariant(network.double(), "1x0e", "2x0e", size=(8, 8, 8), bound=None, batch=1, dtype=torch.float64)


def test_many_voxels_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = SphericalBlock(1, 2, signals=2).double()
    x = torch.randn(1, 1, 6, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        whole = block(x)
        monkeypatch.setattr("voxseg.baselines.spherical._CHUNK", 200 * 20)
        torch.testing.assert_close(block(x), whole)


def test_gradients() -> None:
    torch.manual_seed(0)
    block = SphericalBlock(1, 2, signals=1, lmax=1).double()
    x = torch.randn(1, 1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,), atol=1e-6)


def test_degrees_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="lmax is 1 or 2"):
        Spherical(in_channels=1, out_channels=2, lmax=3)
