"""Sums over a neighbourhood on coarser grids: exact for polynomials that a kernel of degree 2 answers to."""

import pytest
import torch

from voxseg.baselines.messages import Messages
from voxseg.baselines.quadrature import quadrature, trained_on
from voxseg.steerable import Lattice
from voxseg.steerable.bases import tap_positions

TRAINED = Lattice((1.0, 1.0, 1.0))


def voxels_of(lattice: Lattice, size: tuple[int, ...]) -> torch.Tensor:
    """Offsets of the voxels that send, `[nx, ny, nz, 3]` in mm."""
    axes = []
    for n, h, centred in zip(size, lattice.spacing, lattice.centred, strict=True):
        axes.append(tap_positions(n / 2 - 0.5 if centred else n / 2 - 1, centred) * h)
        assert len(axes[-1]) == n
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def polynomial(points: torch.Tensor) -> torch.Tensor:
    """Of degree 2 along each axis, with mixed terms."""
    x, y, z = points.unbind(-1)
    return (1 + 2 * x - x**2) * (3 - y + 0.5 * y**2) * (1 + z**2)


@pytest.mark.parametrize(
    "lattice",
    [
        Lattice((1.5, 1.5, 1.5)),
        Lattice((1.0, 1.0, 2.0)),
        Lattice((0.5, 1.3, 2.6)),
        Lattice((1.5, 2.0, 1.0), (False, True, False)),
    ],
)
def test_exact_for_quadratic_features(lattice: Lattice) -> None:
    made = quadrature(lattice, TRAINED, 2.5)
    kernel = torch.randn(made.points, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (kernel.flatten() * polynomial(made.offsets)).sum()
    folded = kernel
    for dim, axis in enumerate(made.axes):
        folded = axis.folded(folded, dim)
    assert folded.shape == tuple(axis.taps for axis in made.axes)
    found = (folded * polynomial(voxels_of(lattice, tuple(folded.shape)))).sum()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_grid_of_training_and_finer_ones_are_taken_as_they_are() -> None:
    for spacing in (1.0, 0.4):
        made = quadrature(Lattice((spacing,) * 3), TRAINED, 2.5)
        assert all(axis.weights is None for axis in made.axes)
        assert made.volume == pytest.approx(spacing**3)
        assert made.offsets.abs().max() < 2.5
        assert len(made.axes[0].points) == (5 if spacing == 1.0 else 13)


def test_with_dependence_on_the_data_the_sum_is_the_same() -> None:
    """The loop over offsets, with weights of intensities that are zero, against the convolution."""
    torch.manual_seed(1)
    stride = (2, 2, 1)
    trained = trained_on((1.0, 1.0, 1.0), (2, 2, 2))
    messages = Messages("2x0e+1x1e", "1x0e+1x1e", 4.5, 2.0, intensities=1, trained=trained).double()
    assert messages.radial.ends is not None
    with torch.no_grad():
        messages.radial.ends.zero_()
        x, there = torch.randn(1, 5, 6, 8, 5, dtype=torch.float64), torch.randn(1, 1, 6, 8, 5, dtype=torch.float64)
        here = torch.randn(1, 1, 3, 4, 5, dtype=torch.float64)
        expected = messages(x, (1.5, 1.0, 2.0), stride)
        found = messages(x, (1.5, 1.0, 2.0), stride, here, there)
    assert expected.shape == (1, 4, 3, 4, 5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
