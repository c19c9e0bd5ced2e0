import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from grids import ORIENTATIONS, SPACINGS, TURNS, make_affine
from voxseg.data import preparation as module
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import (
    PreparationConfig,
    covering_grid,
    head_grid,
    prepare,
    prepare_labels,
    sample,
)
from voxseg.data.volume import read_volume

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
    prepared = prepare([(data, Geometry(data.shape, np.eye(4) * [2, 2, 2, 1]))], PreparationConfig(spacing=2.0))
    beyond = prepared.grid.to_world(np.array([0, 0, 0]))
    assert (beyond < -6).all()
    assert (prepared.image[0, 0] == 0).all()
    assert (prepared.image[..., -1] == 0).all()
    assert prepared.image.max() > 0.9


def test_without_crop_the_whole_grid_is_taken():
    scan = Geometry((40, 30, 20), np.eye(4))
    data = np.random.default_rng(0).random((40, 30, 20))
    prepared = prepare([(data, scan)], PreparationConfig(spacing=2.0, crop=False))
    assert tuple(prepared.image.shape) == (1, *prepared.grid.shape) == (1, 20, 15, 10)


@pytest.mark.parametrize("width", [((16, 12), (8, 4), (0, 20)), ((15, 0), (0, 7), (3, 10))])
def test_empty_space_around_a_scan_changes_next_to_nothing(width):
    config = PreparationConfig(spacing=2.0)
    data = ndimage.gaussian_filter(head().astype(np.float32), 1.5)
    one = prepare([(data, Geometry(data.shape, np.eye(4)))], config)
    padded = np.pad(data, width)
    affine = np.eye(4)
    affine[:3, 3] = [-w[0] for w in width]
    other = prepare([(padded, Geometry(padded.shape, affine))], config)
    assert one.grid.displacement(other.grid) < 0.25  # of 2 mm, on noise with hard edges
    assert torch.allclose(one.image, other.image, atol=0.15)


@pytest.mark.parametrize("scan", ["oasis_manual/validation/1003/t1.nii.gz", "whole_heads/t1.nii.gz"])
def test_empty_space_around_a_real_scan(shared_data, scan):
    config = PreparationConfig(spacing=2.0)
    volume = read_volume(shared_data / scan)
    one = prepare([(volume.data, volume.geometry)], config)
    width = ((81, 0), (20, 21), (7, 40))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world(-np.array(width)[:, 0])
    padded = np.pad(volume.data, width)
    other = prepare([(padded, Geometry(padded.shape, affine))], config)
    # One grid may reach 8 voxels further where the head ends just there, but the voxels of both coincide.
    steps = (one.grid.affine[:3, 3] - other.grid.affine[:3, 3]) / (8 * config.spacing)
    assert np.abs(steps - np.round(steps)).max() * 8 * config.spacing < 0.3
    assert np.abs(steps).max() < 1.5


def test_sheared_scans_are_cut_out_too():
    scan = Geometry((60, 64, 56), make_affine("PSR", "oblique", shear=12))
    prepared = prepare([(head(), scan)], PreparationConfig(spacing=2.0))
    assert all(n % 8 == 0 for n in prepared.grid.shape)
    assert prepared.image.max() > 0.9
    assert (prepared.image[0, 0] == 0).all()


def stripped(seed=0, shape=(40, 44, 36)):
    """A stripped scan: smooth tissue in an ellipsoid, exactly `0` around it, and which voxels are tissue."""
    axes = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in shape), indexing="ij")
    tissue = (axes[0] / 1.0) ** 2 + (axes[1] / 0.9) ** 2 + (axes[2] / 0.8) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.where(tissue, 400 + 900 * texture, 0).astype(np.float32), tissue


ZSCORES = {"t1": {"scale": "zscore"}, "flair": {"scale": "zscore"}}


def test_images_of_other_grids_are_sampled_onto_the_first_ones():
    first = Geometry((40, 44, 36), make_affine("RAS", "oblique"))
    second = Geometry((30, 26, 34), make_affine("LSA", "straight", "anisotropic"))
    config = PreparationConfig(
        spacing=2.0,
        images={name: {"scale": "window", "low": -200, "high": 200} for name in ("a", "b")},
        crop=False,
    )
    prepared = prepare([(ramp(first), first), (ramp(second), second)], config)
    assert prepared.image.shape == (2, *prepared.grid.shape)
    assert prepared.grid == covering_grid(first, 2.0)
    expected = torch.from_numpy(((ramp(prepared.grid) + 200) / 400).clip(0, 1))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in prepared.grid.shape), indexing="ij"), -1)
    for channel, scan in enumerate((first, second)):
        places = (prepared.grid.to_world(index) - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
        inner = ((places > 3) & (places < np.array(scan.shape) - 4)).all(-1)
        outer = ((places < -1) | (places > np.array(scan.shape))).any(-1)
        assert inner.sum() > 500
        assert torch.allclose(prepared.image[channel][inner], expected[inner], atol=1e-3)
        assert (prepared.image[channel][outer] == 0).all()


def test_the_number_of_images_is_checked():
    scan = Geometry((9, 9, 9), np.eye(4))
    with pytest.raises(ValueError, match="1 images were given, the configuration has 2"):
        prepare([(np.ones((9, 9, 9)), scan)], PreparationConfig(spacing=1.0, images=ZSCORES))


@pytest.mark.parametrize("affine", [np.eye(4), make_affine("PSR", "oblique", "anisotropic"), make_affine(shear=10)])
@pytest.mark.parametrize("empty", [0.0, -7.3])
@pytest.mark.parametrize("crop", [True, False])
def test_outside_a_stripped_brain_is_nothing(affine, empty, crop):
    data, tissue = stripped()
    data = np.where(tissue, data - 400, empty).astype(np.float32)  # negative values within
    data[tissue & (data == 0)] = 1
    data[~tissue] = min(empty, data.min() - 1) if empty else 0.0
    config = PreparationConfig(spacing=1.5, images={"t1": {"scale": "zscore"}}, crop=crop)
    prepared = prepare([(data, Geometry(data.shape, affine))], config)
    scan = Geometry(data.shape, affine)
    share, inside = sample(tissue, scan, prepared.grid)
    outside = (share * inside) < 1e-6
    assert 0.2 < outside.float().mean() < 0.99
    assert (prepared.image[0][outside] == 0).all()
    within = prepared.image[0][(share > 0.999) & inside]
    assert abs(within.mean()) < 0.15
    assert 0.6 < within.std() < 1.1


def test_levels_come_from_the_whole_image():
    """Cropping changes which voxels there are, not what they are."""
    data, _ = stripped()
    scan = Geometry(data.shape, np.diag([2.0, 2, 2, 1]))
    images = [(data, scan), (data.max() - data, scan)]
    whole = prepare(images, PreparationConfig(spacing=2.0, images=ZSCORES, crop=False))
    moved = prepare(images, PreparationConfig(spacing=2.0, images=ZSCORES, crop=True, margin=2))
    again, inside = sample(whole.image[1].numpy(), whole.grid, moved.grid)
    assert torch.allclose(again * inside, moved.image[1], atol=1e-4)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_are_copied_where_the_grids_coincide(orientation):
    canonical = Geometry(SHAPE, make_affine("RAS", "oblique", "isotropic"))
    classes = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    stored, turned = restore_in(orientation, canonical, classes)
    result = prepare_labels(turned, stored, canonical)
    assert result.dtype == np.uint8
    assert np.array_equal(result, classes)
    # The grid that training uses, which is the canonical one at the scan's own spacing.
    assert np.array_equal(prepare_labels(turned, stored, covering_grid(stored, 1.0)), classes)


def test_labels_on_a_shifted_and_larger_grid_of_the_same_voxels():
    scan = Geometry((9, 8, 10), np.eye(4))
    classes = np.random.default_rng(0).integers(0, 3, scan.shape).astype(np.uint8)
    affine = np.eye(4)
    affine[:3, 3] = [-2, 3, -1]
    result = prepare_labels(classes, scan, Geometry((14, 4, 11), affine))
    expected = np.zeros((14, 4, 11), dtype=np.uint8)
    expected[2:11, :, 1:11] = classes[:, 3:7]
    assert np.array_equal(result, expected)


def test_labels_go_to_the_largest_share():
    scan = Geometry((20, 9, 9), np.diag([1.0, 1, 1, 1]))
    classes = np.zeros(scan.shape, dtype=np.uint8)
    classes[5:8], classes[8:12] = 2, 1
    # Twice as fine, from -0.25: sample k lies at (k - 0.5) / 2.
    fine = Geometry((40, 9, 9), np.array([[0.5, 0, 0, -0.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert np.array_equal(prepare_labels(classes, scan, fine)[:, 4, 4], classes[:, 4, 4].repeat(2))
    # Three voxels of one half each: none outweighs the background, equal shares go to the lower index.
    half = Geometry((20, 9, 9), np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    line = prepare_labels(classes, scan, half)[:, 4, 4]
    assert line[4] == 0
    assert line[5] == line[6] == 2
    assert line[7] == 1
    assert line[11] == 0


@pytest.mark.parametrize("target", ["oblique", "coarse"])
def test_labels_on_another_grid_lie_where_they_should(target):
    scan = Geometry((40, 44, 36), make_affine("LPS", "straight"))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan.shape), indexing="ij"), -1)
    centre = scan.to_world((np.array(scan.shape) - 1) / 2)
    away = np.linalg.norm(scan.to_world(index) - centre, axis=-1)
    classes = np.select([away < 6, away < 13], [3, 1], 0).astype(np.uint8)
    other = make_affine("RAS", "oblique") if target == "oblique" else np.diag([2.0, 2, 2, 1])
    other[:3, 3] = centre - other[:3, :3] @ np.array([14.5, 14.5, 14.5])
    grid = Geometry((30, 30, 30), other)
    result = prepare_labels(classes, scan, grid)
    index = np.stack(np.meshgrid(*(np.arange(30),) * 3, indexing="ij"), -1)
    away = np.linalg.norm(grid.to_world(index) - centre, axis=-1)
    for low, high, k in ((0, 5, 3), (7, 12, 1), (14, 99, 0)):
        assert (result[(away > low) & (away < high)] == k).all()


def test_real_tumour_cases(shared_data):
    folder = shared_data / "brats" / "BraTS20_Training_001"
    volumes = [read_volume(folder / f"{folder.name}_{name}.nii.gz") for name in ("flair", "t1ce")]
    config = PreparationConfig(spacing=1.0, images=ZSCORES, crop=False)
    prepared = prepare([(v.data, v.geometry) for v in volumes], config)
    brain = prepared.image != 0
    assert 0.1 < brain.float().mean() < 0.25
    for channel, volume in enumerate(volumes):
        empty = volume.geometry.to_canonical(volume.data) == 0
        assert (prepared.image[channel][torch.from_numpy(empty.copy())] == 0).all()
        scores = prepared.image[channel][torch.from_numpy(~empty)].double()
        assert abs(float(scores.mean())) < 1e-4
        assert abs(float(scores.std()) - 1) < 1e-3
