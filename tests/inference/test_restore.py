import numpy as np
import pytest
import torch

from grids import ORIENTATIONS, SPACINGS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import covering_grid
from voxseg.data.resample import affine_points, axis_matrix, axis_positions, interpolate_at
from voxseg.inference import restore as module
from voxseg.inference.restore import keep_largest, restore

SHAPE = (30, 34, 26)


def random_probabilities(shape, classes=5, smooth=2.0):
    torch.manual_seed(0)
    noise = torch.nn.functional.avg_pool3d(torch.randn(1, classes, *(n + 4 for n in shape)), 5, stride=1)
    return (noise[0] * 30 * smooth).softmax(0)


def inner_grid(scan, spacing, left_out=1):
    """A working grid that leaves out a few voxels at the edge of the scan."""
    grid = covering_grid(scan, spacing)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(np.full(3, left_out))
    return Geometry(tuple(n - 2 * left_out for n in grid.shape), affine)


def everything_interpolated(probabilities, grid, scan):
    """All classes at the scan's resolution, point by point: the slow way."""
    to_grid = np.linalg.inv(grid.affine) @ scan.affine
    points = affine_points(to_grid, tuple(range(n) for n in scan.shape))
    return interpolate_at(probabilities[None], points)


def assert_same_classes(result, values):
    """Equal but where the two best classes are as good as tied."""
    best = values.sort(0, descending=True).values
    clear = ((best[0] - best[1] > 1e-4) | (best.sum(0) == 0)).numpy()
    assert clear.mean() > 0.95
    assert np.array_equal(result[clear], values.argmax(0).numpy()[clear])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("orientation", "layout"),
    [*((o, (2, 1, 0)) for o in ORIENTATIONS), *((o, (0, 1, 2)) for o in ORIENTATIONS[::7])],
)
def test_equals_interpolating_everything(orientation, layout, spacing, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 4000)
    scan = Geometry(SHAPE, make_affine(orientation, "oblique", spacing))
    grid = inner_grid(scan, 4.0)
    probabilities = random_probabilities(grid.shape)
    result = restore(probabilities, grid, scan, layout)
    assert result.shape == scan.shape
    assert result.dtype == np.uint8
    assert result.transpose(layout).flags.c_contiguous
    assert_same_classes(result, everything_interpolated(probabilities, grid, scan))


def test_small_structures_are_not_lost_to_the_boxes(monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 4000)
    scan = Geometry(SHAPE, make_affine("LPS"))
    grid = covering_grid(scan, 2.0)
    logits = torch.full((40, *grid.shape), -8.0)
    logits[0] = 0
    places = torch.randint(1, 11, (39, 3), generator=torch.Generator().manual_seed(1))
    for k, (x, y, z) in enumerate(places, start=1):
        logits[k, x : x + 2, y : y + 2, z : z + 2] = 2 + k / 40
    probabilities = logits.softmax(0)
    result = restore(probabilities, grid, scan)
    assert_same_classes(result, everything_interpolated(probabilities, grid, scan))
    assert len(np.unique(result)) > 30


def test_thick_slices_take_the_mean_over_their_thickness():
    scan = Geometry((20, 20, 9), np.diag([1, 1, 6, 1]))
    grid = covering_grid(scan, 1.0)
    probabilities = random_probabilities(grid.shape, smooth=0.5)
    matrices = [
        axis_matrix(p, n, beyond=False) for (_, p), n in zip(axis_positions(grid, scan), grid.shape, strict=True)
    ]
    expected = torch.einsum("kabc,ia,jb,lc->kijl", probabilities, *matrices)
    assert_same_classes(restore(probabilities, grid, scan), expected)


@pytest.mark.parametrize("layout", [(2, 1, 0), (0, 2, 1)])
def test_sheared_grids(layout, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 8000)
    scan = Geometry(SHAPE, make_affine("PSR", "oblique", "isotropic", shear=12))
    grid = inner_grid(scan, 2.0)
    probabilities = random_probabilities(grid.shape)
    result = restore(probabilities, grid, scan, layout)
    assert_same_classes(result, everything_interpolated(probabilities, grid, scan))


def test_outside_the_grid_is_background():
    scan = Geometry(SHAPE, np.eye(4))
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 10.5
    probabilities = torch.zeros(3, 5, 5, 5)
    probabilities[2] = 1
    done = []
    result = restore(probabilities, Geometry((5, 5, 5), affine), scan, progress=done.append)
    found = np.argwhere(result == 2)
    assert (result > 0).sum() == len(found)
    # The voxels' centres reach from 10.5 to 18.5 mm, and interpolation fades out within 2 mm beyond.
    assert found.min(axis=0).tolist() == [9, 9, 9]
    assert found.max(axis=0).tolist() == [20, 20, 20]
    assert done[-1] == 1


def test_only_the_largest_piece_is_kept():
    probabilities = torch.zeros(3, 20, 20, 20)
    probabilities[0] = 1
    for k, place in ((1, slice(2, 8)), (2, slice(8, 12)), (1, slice(15, 17))):
        probabilities[:, place, place, place] = 0
        probabilities[k, place, place, place] = 1
    kept = keep_largest(probabilities.clone())
    classes = kept.argmax(0)
    assert (classes == 1).sum() == 6**3  # touches class 2 at a corner only, and belongs with it
    assert (classes == 2).sum() == 4**3
    assert torch.equal(kept[0, 15:17, 15:17, 15:17], torch.ones(2, 2, 2))
    empty = torch.zeros(3, 4, 4, 4)
    empty[0] = 1
    assert torch.equal(keep_largest(empty.clone()), empty)


@pytest.mark.parametrize("shear", [0, 12])
def test_regions_are_painted_in_their_order(shear, monkeypatch):
    """The last region that holds a voxel gives it its class, whatever the numbers of the classes."""
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 4000)
    scan = Geometry(SHAPE, make_affine("PSR", "oblique", "isotropic", shear=shear))
    grid = inner_grid(scan, 2.0)
    probabilities = random_probabilities(grid.shape, 3).logit().mul(0.3).sigmoid()
    values = everything_interpolated(probabilities, grid, scan)
    painted = [4, 1, 9]
    expected = np.zeros(SHAPE, dtype=np.uint8)
    for label, inside in zip(painted, (values > 0.5).numpy(), strict=True):
        expected[inside] = label
    clear = ((values - 0.5).abs() > 1e-4).all(0).numpy()
    result = restore(probabilities, grid, scan, (2, 0, 1), painted=painted)
    assert result.transpose((2, 0, 1)).flags.c_contiguous
    assert clear.mean() > 0.99
    assert np.array_equal(result[clear], expected[clear])
    assert set(np.unique(result)) == {0, 4, 1, 9}


def test_a_region_of_one_voxel_is_not_lost():
    scan = Geometry(SHAPE, np.eye(4))
    probabilities = torch.zeros(2, *SHAPE)
    probabilities[1, 3, 4, 5] = 0.51
    probabilities[0, 6, 7, 8] = 0.5
    result = restore(probabilities, scan, scan, painted=[2, 1])
    assert np.argwhere(result).tolist() == [[3, 4, 5]]
    assert result[3, 4, 5] == 1


def test_only_the_largest_piece_of_all_regions_is_kept():
    probabilities = torch.full((2, 20, 20, 20), 0.2)
    probabilities[0, 2:8, 2:8, 2:8] = 0.9
    probabilities[1, 8:12, 8:12, 8:12] = 0.8  # touches at a corner
    probabilities[1, 15:17, 15:17, 15:17] = 0.9
    kept = keep_largest(probabilities.clone(), regions=True)
    assert torch.equal(kept[:, :14], probabilities[:, :14])
    assert not (kept[:, 14:] > 0.5).any()
    empty = torch.full((2, 4, 4, 4), 0.5)
    assert torch.equal(keep_largest(empty.clone(), regions=True), empty)
