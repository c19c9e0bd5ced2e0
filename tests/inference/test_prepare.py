import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from grids import ORIENTATIONS, SPACINGS, TURNS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.volume import read_volume
from voxseg.inference import prepare as module
from voxseg.inference.model import PreparationConfig
from voxseg.inference.prepare import covering_grid, head_grid, prepare, sample

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
    grid = covering_grid(scan, 2.0)
    values, _ = sample(ramp(scan), scan, grid)
    assert tuple(values.shape) == grid.shape
    inner = (slice(4, -4),) * 3
    assert torch.allclose(values[inner], torch.from_numpy(ramp(grid))[inner], atol=2e-3)


@pytest.mark.parametrize("orientation", ["RAS", "LIA", "PSR", "ILP"])
@pytest.mark.parametrize("shear", [1.0, 15.0])
def test_sheared_samples_lie_where_the_grid_says(orientation, shear):
    scan = Geometry(SHAPE, make_affine(orientation, "oblique", "isotropic", shear))
    grid = covering_grid(scan, 2.0)
    values, _ = sample(ramp(scan), scan, grid)
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
    grid = covering_grid(scan, 2.0)
    data = np.random.default_rng(0).random(SHAPE)
    one, other = sample(data, scan, grid)[0], module._sample_points(data, scan, grid)[0]
    inner = (slice(2, -2),) * 3
    # The blur is the same but for how evenly it is spread over fractions of a voxel.
    assert torch.allclose(one[inner], other[inner], atol=0.1)
    assert np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_grid_turns_with_the_storage(orientation):
    """However a volume is stored, the samples are the same."""
    canonical = Geometry(SHAPE, make_affine("RAS", "oblique", "anisotropic"))
    data = np.random.default_rng(0).random(SHAPE)
    stored = restore_in(orientation, canonical, data)
    grid, reference = covering_grid(stored[0], 3.0), covering_grid(canonical, 3.0)
    assert grid.displacement(reference) < 1e-9
    values, inside = sample(stored[1], stored[0], grid)
    assert torch.allclose(values, sample(data, canonical, reference)[0], atol=1e-5)
    assert inside.all()


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
        grid = covering_grid(scan, 2.0)
        middle = [(np.array(g.shape) - 1) / 2 for g in (scan, grid)]
        assert np.allclose(scan.to_world(middle[0]), grid.to_world(middle[1]))
        assert all(n * 2.0 > m * spacing - 0.05 for n, m in zip(grid.shape, shape, strict=True))


def test_rounding_in_a_header_does_not_add_a_voxel():
    scan = Geometry((100, 100, 100), np.diag([1.0000001, 1, 0.9999999, 1]))
    assert covering_grid(scan, 2.0).shape == (50, 50, 50)


def head(shape=(60, 64, 56)):
    """Random tissue in an uneven box, and a speck elsewhere."""
    data = np.zeros(shape, dtype=np.int16)
    data[10:44, 10:54, 14:40] = np.random.default_rng(0).integers(300, 900, (34, 44, 26))
    data[40:44, 10:20, 14:20] = 0
    data[2:5, 2:5, 50:53] = 800
    return data


def test_the_head_is_cut_out_about_its_centre_of_mass():
    data = head()
    whole = Geometry(data.shape, np.diag([2.0, 2, 2, 1]))
    grid = head_grid(torch.from_numpy(data), 0.0, whole, 3)
    inside = data.copy()
    inside[2:5, 2:5, 50:53] = 0
    centre = np.argwhere(inside > 0).mean(axis=0) * 2
    before = (centre - grid.affine[:3, 3]) / 2 + 0.5
    assert np.allclose(before, np.round(before))
    assert all(int(b) % 8 == 0 for b in np.round(before))
    assert all(n % 8 == 0 for n in grid.shape)
    low, high = grid.to_world(np.zeros(3)), grid.to_world(np.array(grid.shape) - 1)
    assert (low <= np.array([10, 10, 14]) * 2 - 6).all()
    assert (high >= np.array([43, 53, 39]) * 2 + 6).all()
    assert (low > np.array([10, 10, 14]) * 2 - 6 - 18).all()


def test_what_lies_beyond_the_scan_is_empty_space():
    data = head()[10:44, 10:54, 14:40] + 1000
    prepared = prepare(data, Geometry(data.shape, np.eye(4) * [2, 2, 2, 1]), PreparationConfig(spacing=2.0))
    beyond = prepared.grid.to_world(np.array([0, 0, 0]))
    assert (beyond < -6).all()
    assert (prepared.image[0] == 0).all()
    assert (prepared.image[:, :, -1] == 0).all()
    assert prepared.image.max() > 0.9


def test_without_crop_the_whole_grid_is_taken():
    scan = Geometry((40, 30, 20), np.eye(4))
    data = np.random.default_rng(0).random((40, 30, 20))
    prepared = prepare(data, scan, PreparationConfig(spacing=2.0, crop=False))
    assert tuple(prepared.image.shape) == prepared.grid.shape == (20, 15, 10)


@pytest.mark.parametrize("width", [((16, 12), (8, 4), (0, 20)), ((15, 0), (0, 7), (3, 10))])
def test_empty_space_around_a_scan_changes_next_to_nothing(width):
    config = PreparationConfig(spacing=2.0)
    data = ndimage.gaussian_filter(head().astype(np.float32), 1.5)
    one = prepare(data, Geometry(data.shape, np.eye(4)), config)
    padded = np.pad(data, width)
    affine = np.eye(4)
    affine[:3, 3] = [-w[0] for w in width]
    other = prepare(padded, Geometry(padded.shape, affine), config)
    assert one.grid.displacement(other.grid) < 0.25  # of 2 mm, on noise with hard edges
    assert torch.allclose(one.image, other.image, atol=0.15)


@pytest.mark.parametrize("scan", ["oasis_manual/validation/1003/t1.nii.gz", "whole_heads/t1.nii.gz"])
def test_empty_space_around_a_real_scan(shared_data, scan):
    config = PreparationConfig(spacing=2.0)
    volume = read_volume(shared_data / scan)
    one = prepare(volume.data, volume.geometry, config)
    width = ((81, 0), (20, 21), (7, 40))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world(-np.array(width)[:, 0])
    padded = np.pad(volume.data, width)
    other = prepare(padded, Geometry(padded.shape, affine), config)
    # One grid may reach 8 voxels further where the head ends just there, but the voxels of both coincide.
    steps = (one.grid.affine[:3, 3] - other.grid.affine[:3, 3]) / (8 * config.spacing)
    assert np.abs(steps - np.round(steps)).max() * 8 * config.spacing < 0.3
    assert np.abs(steps).max() < 1.5


def test_sheared_scans_are_cut_out_too():
    scan = Geometry((60, 64, 56), make_affine("PSR", "oblique", shear=12))
    prepared = prepare(head(), scan, PreparationConfig(spacing=2.0))
    assert all(n % 8 == 0 for n in prepared.image.shape)
    assert prepared.image.max() > 0.9
    assert (prepared.image[0] == 0).all()
