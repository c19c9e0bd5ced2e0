import numpy as np
import pytest
import torch

from voxseg.data.geometry import Geometry
from voxseg.data.resample import apply_axes, axis_matrix, axis_positions, memory_order


def centred_positions(count, step, source_count):
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * step + (source_count - 1) / 2


@pytest.mark.parametrize(("count", "source", "step"), [(10, 20, 2.0), (11, 20, 1.9), (27, 11, 0.4), (8, 8, 1.0)])
def test_rows_sum_to_one_and_ends_are_alike(count, source, step):
    matrix = axis_matrix(centred_positions(count, step, source), source, beyond=True)
    assert matrix.shape == (count, source)
    assert torch.allclose(matrix.sum(1), torch.ones(count), atol=1e-6)
    assert torch.allclose(matrix, matrix.flip(0, 1), atol=1e-6)


def test_the_same_grid_stays_bit_for_bit():
    assert torch.equal(axis_matrix(centred_positions(7, 1.0, 7), 7, beyond=True), torch.eye(7))


@pytest.mark.parametrize("step", [0.3, 0.5, 1.3, 2.0, 2.7])
def test_straight_lines_stay_straight(step):
    positions = centred_positions(9, step, 60)
    values = axis_matrix(positions, 60, beyond=True) @ torch.arange(60.0)
    assert torch.allclose(values, positions.float(), atol=1e-4)


def test_upsampling_is_torchs_linear_interpolation():
    signal = torch.randn(1, 1, 12)
    expected = torch.nn.functional.interpolate(signal, scale_factor=2, mode="linear", align_corners=False)[0, 0]
    matrix = axis_matrix(centred_positions(24, 0.5, 12), 12, beyond=True)
    assert torch.allclose(matrix @ signal[0, 0], expected, atol=1e-6)


def test_what_is_too_fine_for_the_new_grid_is_blurred_away():
    alternating = torch.tensor([1.0, -1.0]).repeat(32)
    matrix = axis_matrix(centred_positions(21, 3.0, 64), 64, beyond=True)
    assert (matrix @ alternating)[2:-2].abs().max() < 0.06
    constant = matrix @ torch.ones(64)
    assert torch.allclose(constant, torch.ones(21), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.25, 0.5])
def test_the_blur_does_not_depend_on_where_samples_lie(shift):
    """The mean and variance of every row are those of the kernel, whatever the fraction of a voxel."""
    positions = centred_positions(9, 2.0, 60) + shift
    matrix = axis_matrix(positions, 60, beyond=True).double()
    source = torch.arange(60.0, dtype=torch.float64)
    mean = matrix @ source
    variance = matrix @ source**2 - mean**2
    assert torch.allclose(mean, positions, atol=1e-3)
    assert torch.allclose(variance, torch.full((9,), 0.25**2 * 3 + 1 / 6, dtype=torch.float64), rtol=0.03)


def test_outside_is_nothing():
    positions = torch.tensor([-2.0, -0.5, 0.0, 3.25, 5.0])
    falling = axis_matrix(positions, 4, beyond=False, step=0.5)
    assert torch.allclose(falling.sum(1), torch.tensor([0.0, 0.5, 1.0, 0.75, 0.0]))
    holding = axis_matrix(positions, 4, beyond=True, step=0.5)
    assert torch.allclose(holding.sum(1), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))
    assert holding[3, 3] == 1


def test_positions_between_grids():
    source = Geometry((10, 20, 30), np.array([[0, 0, -2, 5], [1, 0, 0, 6], [0, 3, 0, 7], [0, 0, 0, 1.0]]))
    target = Geometry((4, 5, 6), np.diag([1.0, 2.0, 1.5, 1]))
    places = axis_positions(source, target)
    assert [along for along, _ in places] == [2, 0, 1]
    assert torch.allclose(places[0][1], (5 - torch.arange(4, dtype=torch.float64)) / 2)
    assert torch.allclose(places[1][1], torch.arange(5, dtype=torch.float64) * 2 - 6)
    turned = Geometry((4, 5, 6), np.array([[1, 0.1, 0, 0], [-0.1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert axis_positions(source, turned) is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, ">i2"])
def test_axes_are_taken_through_their_matrices(order, dtype, monkeypatch):
    monkeypatch.setattr("voxseg.data.resample.SLAB_BYTES", 4 * 13 * 11 * 3)  # several slabs
    array = np.asarray(np.random.default_rng(0).integers(0, 200, (13, 11, 17)), dtype=dtype, order=order)
    matrices = [torch.randn(m, n) for m, n in zip((5, 19, 4), array.shape, strict=True)]
    expected = torch.einsum("abc,ia,jb,kc->ijk", torch.from_numpy(array.astype(np.float32)), *matrices)
    for values, size, axes in (
        (apply_axes(array, matrices), (5, 19, 4), (0, 1, 2)),
        (apply_axes(array.transpose(2, 0, 1), [matrices[2], matrices[0], matrices[1]]), (4, 5, 19), (2, 0, 1)),
    ):
        assert values.shape == size
        assert torch.allclose(values, expected.permute(axes), rtol=1e-4, atol=1e-2)


def test_memory_order():
    assert memory_order(np.zeros((2, 3, 4))) == (0, 1, 2)
    assert memory_order(np.zeros((2, 3, 4), order="F")) == (2, 1, 0)
    assert memory_order(np.zeros((2, 3, 4)).transpose(1, 2, 0)[::-1]) == (2, 0, 1)
