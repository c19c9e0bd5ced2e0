import itertools

import numpy as np
import pytest
import torch
from grids import ORIENTATIONS, SPACINGS, TURNS, make_affine

from voxseg.data.geometry import Geometry
from voxseg.inference import prepare as module
from voxseg.inference.model import PreparationConfig
from voxseg.inference.prepare import head_box, prepare, working_grid

SHAPE = (30, 34, 26)


def ramp(geometry, direction=(1.0, -2.0, 0.5)):
    """A scan whose intensity is a linear function of where a voxel lies in the world."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    return (geometry.to_world(index) @ np.array(direction)).astype(np.float32)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_samples_lie_where_the_grid_says(orientation, turn, spacing):
    scan = Geometry(SHAPE, make_affine(orientation, turn, spacing))
    grid = working_grid(scan, 2.0)
    values = module._sample(ramp(scan), scan, grid, 2.0)
    assert tuple(values.shape) == grid.shape
    inner = (slice(4, -4),) * 3
    assert torch.allclose(values[inner], torch.from_numpy(ramp(grid))[inner], atol=2e-3)


@pytest.mark.parametrize("orientation", ["RAS", "LIA", "PSR", "ILP"])
@pytest.mark.parametrize("shear", [1.0, 15.0])
def test_sheared_samples_lie_where_the_grid_says(orientation, shear):
    scan = Geometry(SHAPE, make_affine(orientation, "oblique", "isotropic", shear))
    grid = working_grid(scan, 2.0)
    values = module._sample(ramp(scan), scan, grid, 2.0)
    inside = np.linalg.inv(scan.affine) @ grid.affine
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    places = index @ inside[:3, :3].T + inside[:3, 3]
    inner = ((places > 4) & (places < np.array(SHAPE) - 5)).all(-1)
    assert inner.sum() > 200
    assert np.allclose(values.numpy()[inner], ramp(grid)[inner], atol=2e-3)
    axes = grid.affine[:3, :3] / 2
    assert np.allclose(axes.T @ axes, np.eye(3))


def test_both_ways_of_sampling_agree():
    scan = Geometry(SHAPE, make_affine("PSR", "oblique", "anisotropic"))
    grid = working_grid(scan, 2.0)
    data = np.random.default_rng(0).random(SHAPE)
    one, other = module._sample(data, scan, grid, 2.0), module._sample_sheared(data, scan, grid, 2.0)
    inner = (slice(2, -2),) * 3
    assert torch.allclose(one[inner], other[inner], atol=1e-4)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_grid_turns_with_the_storage(orientation):
    """However a volume is stored, the samples are the same."""
    canonical = Geometry(SHAPE, make_affine("RAS", "oblique", "anisotropic"))
    data = np.random.default_rng(0).random(SHAPE)
    stored = restore_in(orientation, canonical, data)
    grid, reference = working_grid(stored[0], 3.0), working_grid(canonical, 3.0)
    assert grid.displacement(reference) < 1e-9
    values = module._sample(stored[1], stored[0], grid, 3.0)
    assert torch.allclose(values, module._sample(data, canonical, reference, 3.0), atol=1e-5)


def restore_in(orientation, canonical, data):
    """The same volume with its axes stored in another order and direction."""
    import nibabel as nib

    codes = nib.orientations.axcodes2ornt(orientation)
    change = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), codes)
    affine = canonical.affine @ nib.orientations.inv_ornt_aff(change, canonical.shape)
    turned = nib.orientations.apply_orientation(data, change)
    return Geometry(turned.shape, affine), turned


def test_the_grid_is_symmetric_and_covers_the_scan():
    for shape, spacing in itertools.product(((30, 31, 32), (256, 256, 130)), (0.9, 1.0, 2.0, 3.3)):
        scan = Geometry(shape, np.diag([spacing, spacing, spacing, 1]))
        grid = working_grid(scan, 2.0)
        middle = [(np.array(g.shape) - 1) / 2 for g in (scan, grid)]
        assert np.allclose(scan.to_world(middle[0]), grid.to_world(middle[1]))
        assert all(n * 2.0 > m * spacing - 0.05 for n, m in zip(grid.shape, shape, strict=True))


def test_rounding_in_a_header_does_not_add_a_voxel():
    scan = Geometry((100, 100, 100), np.diag([1.0000001, 1, 0.9999999, 1]))
    assert working_grid(scan, 2.0).shape == (50, 50, 50)


def test_the_head_is_cut_out_and_empty_space_beyond_the_scan_is_zero():
    values = torch.zeros(40, 40, 40)
    values[10:30, 5:38, 20:30] = 100 + torch.rand(20, 33, 10)
    values[2:4, 2:4, 2:4] = 100  # a speck
    box = head_box(values, 6)
    assert box == (slice(4, 36), slice(-1, 44), slice(14, 36))
    scan = Geometry((40, 40, 40), np.eye(4) * [2, 2, 2, 1])
    prepared = prepare(values.numpy(), scan, PreparationConfig(spacing=2.0, margin=12.0))
    assert prepared.box == box
    assert tuple(prepared.image.shape) == (32, 45, 22)
    assert (prepared.image[:, 0] == 0).all()
    assert (prepared.image[:, -4:] == 0).all()
    assert prepared.image.max() > 0.9


def test_without_crop_the_whole_grid_is_taken():
    scan = Geometry((40, 30, 20), np.eye(4))
    data = np.random.default_rng(0).random((40, 30, 20))
    prepared = prepare(data, scan, PreparationConfig(spacing=2.0, crop=False))
    assert tuple(prepared.image.shape) == prepared.grid.shape == (20, 15, 10)


def test_empty_space_around_a_scan_changes_nothing():
    data = np.zeros((60, 64, 56), dtype=np.int16)
    inner = np.random.default_rng(0).integers(300, 900, (40, 44, 36))
    data[10:50, 10:54, 10:46] = inner
    config = PreparationConfig(spacing=2.0)
    one = prepare(data, Geometry(data.shape, np.eye(4)), config)
    padded = np.pad(data, ((16, 12), (8, 4), (0, 20)))
    other = prepare(padded, Geometry(padded.shape, np.eye(4)), config)
    assert one.image.shape == other.image.shape
    assert torch.allclose(one.image, other.image, atol=1e-5)
