import numpy as np
import pytest
import torch

from voxseg.inference.resample import apply_axes, axis_matrix, centred_positions, memory_order


@pytest.mark.parametrize(("count", "source", "step"), [(10, 20, 2.0), (11, 20, 1.9), (30, 11, 0.4), (8, 8, 1.0)])
def test_rows_sum_to_one_and_ends_are_alike(count, source, step):
    matrix = axis_matrix(centred_positions(count, step, source), source, step, clamp=True)
    assert matrix.shape == (count, source)
    assert torch.allclose(matrix.sum(1), torch.ones(count), atol=1e-6)
    assert torch.allclose(matrix, matrix.flip(0, 1), atol=1e-6)


def test_the_same_grid_stays_bit_for_bit():
    assert torch.equal(axis_matrix(centred_positions(7, 1.0, 7), 7, 1.0, clamp=True), torch.eye(7))


@pytest.mark.parametrize("step", [0.3, 0.5, 1.3, 2.0, 2.7])
def test_straight_lines_stay_straight(step):
    positions = centred_positions(9, step, 60)
    values = axis_matrix(positions, 60, step, clamp=True) @ torch.arange(60.0)
    assert torch.allclose(values, positions.float(), atol=1e-4)


def test_upsampling_is_torchs_linear_interpolation():
    signal = torch.randn(1, 1, 12)
    expected = torch.nn.functional.interpolate(signal, scale_factor=2, mode="linear", align_corners=False)[0, 0]
    matrix = axis_matrix(centred_positions(24, 0.5, 12), 12, 0.5, clamp=True)
    assert torch.allclose(matrix @ signal[0, 0], expected, atol=1e-6)


def test_what_is_too_fine_for_the_new_grid_is_blurred_away():
    alternating = torch.tensor([1.0, -1.0]).repeat(32)
    matrix = axis_matrix(centred_positions(21, 3.0, 64), 64, 3.0, clamp=True)
    assert (matrix @ alternating)[2:-2].abs().max() < 0.05
    constant = matrix @ torch.ones(64)
    assert torch.allclose(constant, torch.ones(21), atol=1e-6)


def test_outside_is_nothing_without_clamp():
    matrix = axis_matrix(torch.tensor([-2.0, -0.5, 0.0, 3.25, 5.0]), 4, 0.5, clamp=False)
    assert torch.allclose(matrix.sum(1), torch.tensor([0.0, 0.5, 1.0, 0.75, 0.0]))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, ">i2"])
def test_axes_are_taken_through_their_matrices(order, dtype, monkeypatch):
    monkeypatch.setattr("voxseg.inference.resample.SLAB_BYTES", 4 * 13 * 11 * 3)  # several slabs
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
