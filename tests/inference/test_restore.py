import numpy as np
import pytest
import torch

from grids import ORIENTATIONS, SPACINGS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import covering_grid
from voxseg.data.resample import affine_points, axis_matrix, axis_positions, interpolate_at
from voxseg.inference import restore as module
from voxseg.inference.pieces import found, keep_largest, largest_and_others
from voxseg.inference.restore import Restorer, restore, sweep_axis

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


def evidence(probabilities):
    """The logarithm of probabilities, from 0 at one in a thousand on."""
    return probabilities.clamp(min=1e-3).log() - np.log(1e-3)


def everything_interpolated(values, grid, scan):
    """All classes at the scan's resolution, point by point: the slow way."""
    to_grid = np.linalg.inv(grid.affine) @ scan.affine
    points = affine_points(to_grid, tuple(range(n) for n in scan.shape))
    return interpolate_at(values[None], points)


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
    assert_same_classes(result, everything_interpolated(evidence(probabilities), grid, scan))


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
    assert_same_classes(result, everything_interpolated(evidence(probabilities), grid, scan))
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
    sink = Kept(5, scan)
    restorer = in_pieces(probabilities, grid, scan, sweep_axis(grid, scan, 2), 5, sink=sink)
    assert np.array_equal(sink.values.argmax(0).transpose(2, 1, 0), restorer.result)
    # The outermost slices reach beyond the grid: what it holds of them counts, not more background.
    assert expected.sum(0).min() < 0.98
    assert np.allclose(sink.values.transpose(0, 3, 2, 1), expected / expected.sum(0), atol=1e-4)


@pytest.mark.parametrize("layout", [(2, 1, 0), (0, 2, 1)])
def test_sheared_grids(layout, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 8000)
    scan = Geometry(SHAPE, make_affine("PSR", "oblique", "isotropic", shear=12))
    grid = inner_grid(scan, 2.0)
    probabilities = random_probabilities(grid.shape)
    result = restore(probabilities, grid, scan, layout)
    assert_same_classes(result, everything_interpolated(evidence(probabilities), grid, scan))


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


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, classes, scan):
        self.values = np.full((classes, *scan.shape[::-1]), np.nan, np.float32)

    def write(self, start, probabilities):
        self.values[:, start : start + probabilities.shape[1]] = probabilities

    def clear(self, start, removed, background):
        part = self.values[:, start : start + len(removed)]
        part[:, removed] = 0
        part[0, removed] = float(background)


def in_pieces(probabilities, grid, scan, axis, step, layout=(2, 1, 0), painted=None, sink=None):
    """What `Restorer` makes of planes that come a few at a time, as `in_planes` gives them."""
    restorer = Restorer(grid, scan, axis, layout, painted, sink)
    planes = probabilities.movedim(axis + 1, 1)
    for start in range(0, planes.shape[1], step):
        piece = planes[:, start : start + step].clone()
        restorer.feed(piece)
        piece.fill_(7)  # it is overwritten when the next one comes
    return restorer


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("orientation", "spacing", "shear"),
    [("RAS", "isotropic", 0), ("PSR", "anisotropic", 0), ("ILA", "isotropic", 0), ("LPS", "isotropic", 12)],
)
def test_planes_that_come_in_pieces_say_the_same(axis, orientation, spacing, shear, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 3000)
    scan = Geometry(SHAPE, make_affine(orientation, "oblique", spacing, shear=shear))
    grid = inner_grid(scan, 2.0)
    probabilities = random_probabilities(grid.shape)
    values = everything_interpolated(evidence(probabilities), grid, scan)
    if not shear:  # blurred, where the scan is the coarser one
        places = axis_positions(grid, scan)
        turned = evidence(probabilities).permute(0, *(1 + along for along, _ in places))
        matrices = [axis_matrix(p, grid.shape[along], beyond=False) for along, p in places]
        values = torch.einsum("kabc,ia,jb,lc->kijl", turned, *matrices)
    whole = restore(probabilities, grid, scan)
    for step in (1, 3, 8):
        restorer = in_pieces(probabilities, grid, scan, axis, step)
        assert_same_classes(restorer.result, values)
        assert (restorer.result != whole).mean() < 1e-4
    painted = [3, 1, 2, 5, 4]
    regions = in_pieces(probabilities, grid, scan, axis, 5, painted=painted).result
    assert (regions != restore(probabilities, grid, scan, painted=painted)).mean() < 1e-4


@pytest.mark.parametrize(("orientation", "shear"), [("RAS", 0), ("PIL", 0), ("LPS", 12)])
def test_probabilities_go_to_the_sink(orientation, shear, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 3000)
    scan = Geometry(SHAPE, make_affine(orientation, "oblique", shear=shear))
    grid = inner_grid(scan, 2.0)
    probabilities = random_probabilities(grid.shape)
    sink, axis = Kept(5, scan), sweep_axis(grid, scan, 2)
    restorer = in_pieces(probabilities, grid, scan, axis, 4, (0, 1, 2), sink=sink)
    expected = everything_interpolated(evidence(probabilities), grid, scan).expm1().numpy()
    expected /= expected.sum(0).clip(1e-6)
    expected[0] += 1 - expected.sum(0)
    assert np.array_equal(sink.values.argmax(0).transpose(2, 1, 0), restorer.result)
    assert np.allclose(sink.values.transpose(0, 3, 2, 1), expected, atol=1e-4)
    assert (restorer.result == restore(probabilities, grid, scan)).mean() > 0.9999
    if not shear:
        with pytest.raises(ValueError, match="last axis"):
            Restorer(grid, scan, (axis + 1) % 3, sink=sink)


def pieces_far_and_near(shape, classes):
    """One large structure, and small ones of which some nearly touch it, over a background that is not certain."""
    torch.manual_seed(0)
    logits = torch.randn(classes, *shape) * 0.3
    logits[0] += 1.5
    logits[1, 4:12, 4:12, 3:12] += 4
    logits[2, 13:15, 5:9, 5:7] += 4
    logits[3, 6:9, 13:15, 4:9] += 3
    logits[4, 3:5, 15:16, 11:12] += 5
    return logits.softmax(0) if classes > 2 else logits.sigmoid()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("spacing", "shear"), [(1.0, 0), (0.7, 0), (1.0, 12)])
def test_small_pieces_can_go_after_everything_was_restored(regions, spacing, shear, monkeypatch):
    monkeypatch.setattr(module, "SLAB_ELEMENTS", 2000)
    affine = make_affine("PSR", "oblique", shear=shear) @ np.diag([spacing, spacing, spacing, 1])
    scan = Geometry(tuple(round(n / spacing) for n in (34, 30, 32)), affine)
    grid = covering_grid(scan, 2.0)
    probabilities = pieces_far_and_near(grid.shape, 5)
    painted = [5, 4, 3, 2, 1] if regions else None
    if regions:
        probabilities = (probabilities * 1.4).clamp(0, 1)
        probabilities[0] = probabilities[0] * 0.3
    expected = restore(keep_largest(probabilities.clone(), regions), grid, scan, painted=painted)
    for axis in range(3):
        sink = Kept(5, scan) if axis == sweep_axis(grid, scan, 2) and not regions else None
        restorer = in_pieces(probabilities, grid, scan, axis, 3, painted=painted, sink=sink)
        assert (restorer.result != expected).sum() > 20
        largest, small = largest_and_others(found(probabilities, regions).movedim(axis, 0).numpy())
        restorer.clear(small, largest)
        assert (restorer.result != expected).sum() <= 2  # ties
        if sink is not None:
            assert np.allclose(sink.values.sum(0), 1, atol=1e-4)
            removed = (expected == 0) & (sink.values[0].transpose(2, 1, 0) < 0.2)
            assert removed.sum() < 5


def test_small_pieces_in_a_coarse_scan_go_but_at_the_edge_of_the_largest():
    scan = Geometry((14, 15, 12), np.diag([5.0, 5, 5, 1]))
    grid = covering_grid(scan, 2.0)
    probabilities = pieces_far_and_near(grid.shape, 5)
    expected = restore(keep_largest(probabilities.clone()), grid, scan)
    restorer = in_pieces(probabilities, grid, scan, 0, 5)
    parted = largest_and_others(found(probabilities).numpy())
    restorer.clear(parted[1], parted[0])
    assert (expected > 0).sum() > 10
    assert (restorer.result != expected).sum() <= 0.05 * (expected > 0).sum()
