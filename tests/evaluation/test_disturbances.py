from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from grids import make_affine
from voxseg.data.geometry import Geometry
from voxseg.evaluation import disturbances as disturb
from voxseg.evaluation.subject import Levels, Subject, _levels

SHAPE = (40, 44, 36)


def head(air: float = 0.0, seed: int = 0) -> np.ndarray:
    """A grey ball with a bright core and a dark hole, in air of one value or with noise."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    data = np.select([radius < 0.15, radius < 0.4, radius < 0.75], [20.0, 200.0, 100.0], 0.0)
    random = np.random.default_rng(seed)
    data += np.where(radius < 0.75, random.normal(0, 3, SHAPE), air * np.abs(random.normal(0, 1, SHAPE)))
    return data.astype(np.float32)


@pytest.fixture(scope="module")
def stripped() -> tuple[np.ndarray, Levels]:
    return head(), _levels(head())


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_levels_find_the_ball_without_its_air_and_with_its_hole() -> None:
    for data, empty in ((head(), 0.0), (head(air=4.0), None)):
        levels = _levels(data)
        assert levels.empty == empty
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
        ball = sum(a**2 for a in axes) < 0.75**2
        assert (levels.tissue != ball).mean() < 0.005
        assert levels.tissue[20, 22, 18]
        assert 150 < levels.range < 230
        assert all(abs(s.start - n * 0.125) < 2 for s, n in zip(levels.box, SHAPE, strict=True))


def test_noise_has_the_stated_size_and_leaves_the_background(stripped: tuple[np.ndarray, Levels]) -> None:
    data, levels = stripped
    bright = data > 180
    noisy = disturb.add_noise(data, levels, 0.1, rng())
    assert abs(np.std((noisy - data)[bright]) / (0.1 * levels.range) - 1) < 0.05
    assert (noisy[data == 0] == 0).all()
    # In air, which is no background of one value, the noise of a magnitude has a Rayleigh distribution.
    air = head(air=0.01)
    noisy = disturb.add_noise(air, _levels(air), 0.1, rng())[:8, :8, :8]
    sigma = 0.1 * _levels(air).range
    assert abs(noisy.mean() / (sigma * np.sqrt(np.pi / 2)) - 1) < 0.1
    # Below empty space there is no magnitude.
    scores = data.astype(np.float32) - 500 * (data > 0) * (data < 50)
    assert (disturb.add_noise(scores, _levels(scores), 0.1, rng()) < 0).any()


def test_noise_of_more_is_the_same_noise_enlarged(stripped: tuple[np.ndarray, Levels]) -> None:
    data, levels = stripped
    bright = data > 180
    one, two = (disturb.add_noise(data, levels, f, rng())[bright] - data[bright] for f in (0.01, 0.02))
    assert np.corrcoef(one, two)[0, 1] > 0.999
    assert np.array_equal(disturb.add_noise(data, levels, 0.1, rng()), disturb.add_noise(data, levels, 0.1, rng()))


def test_shading_reaches_the_stated_gain_both_ways_and_is_smooth(stripped: tuple[np.ndarray, Levels]) -> None:
    data, levels = stripped
    grid = Geometry(SHAPE, np.diag([5.0, 5, 5, 1]))
    shaded = disturb.shade(data, grid, levels, 0.5, rng())
    gain = shaded[levels.tissue] / data[levels.tissue]
    assert gain.max() == pytest.approx(1.5, rel=1e-3)
    assert gain.min() == pytest.approx(1 / 1.5, rel=1e-3)
    whole = np.ones(SHAPE, dtype=bool)
    flat = disturb.shade(np.full(SHAPE, 100.0), grid, Levels(0, 100, None, whole), 0.5, rng())
    assert max(np.abs(np.diff(flat, axis=a)).max() for a in range(3)) < 15
    assert (shaded[data == 0] == 0).all()


def test_blur_has_the_stated_width_along_every_axis() -> None:
    spacing = (1.0, 1.5, 0.8)
    point = np.zeros((41, 31, 51))
    point[20, 15, 25] = 1
    blurred = disturb.blur(point, Geometry(point.shape, np.diag([*spacing, 1.0])), 6.0)
    for axis, step in enumerate(spacing):
        place = (np.arange(point.shape[axis]) - (point.shape[axis] - 1) / 2) * step
        profile = blurred.sum(axis=tuple(a for a in range(3) if a != axis))
        deviation = np.sqrt((profile * place**2).sum() / profile.sum())
        assert deviation * 2 * np.sqrt(2 * np.log(2)) == pytest.approx(6.0, rel=0.02)


def test_inversion_reverses_the_order_of_tissues_and_keeps_air() -> None:
    for air in (0.0, 4.0):
        data = head(air)
        levels = _levels(data)
        inverted = disturb.invert(data, levels)
        before, after = data[levels.tissue], inverted[levels.tissue]
        assert np.corrcoef(before, after)[0, 1] < -0.99
        assert after.min() > levels.low
        assert np.array_equal(inverted[~levels.tissue], data[~levels.tissue])
        # The hole is dark no more.
        assert inverted[20, 22, 18] > inverted[27, 22, 18]


def test_gamma_bends_between_fixed_ends(stripped: tuple[np.ndarray, Levels]) -> None:
    data, levels = stripped
    top = np.float32(levels.high)
    for gamma, brighter in ((0.5, True), (2.0, False)):
        bent = disturb.bend(np.append(data, top), Levels(levels.low, levels.high, 0.0, np.ones(1, bool)), gamma)
        assert bent[-1] == pytest.approx(top, rel=1e-5)
        middle = data.ravel()[(data.ravel() > 90) & (data.ravel() < 110)].mean()
        found = bent[:-1][(data.ravel() > 90) & (data.ravel() < 110)].mean()
        assert (found > middle) == brighter
        assert found == pytest.approx(levels.range * (middle / levels.range) ** gamma, rel=0.01)
    assert np.allclose(disturb.bend(data, levels, 1.0), data, atol=1e-3)


@pytest.mark.parametrize("orientation", ["RAS", "LIP"])
def test_thick_slices_have_the_right_header(orientation: str) -> None:
    """A blob stays at its place in the world, and the new grid covers the old field of view."""
    affine = make_affine(orientation, "oblique", "anisotropic")
    grid = Geometry((60, 40, 21), affine)
    axes = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    centre = np.array([31.2, 17.8, 9.6])
    distance = sum(((a - c) * h) ** 2 for a, c, h in zip(axes, centre, grid.spacing, strict=True))
    blob = np.exp(-distance / 2 / 5.0**2)
    size = (5.0, 0.0, 7.0)
    coarse, new = disturb.coarsen_image(blob, grid, size), disturb.coarsen_grid(grid, size)
    assert coarse.shape == new.shape
    assert np.allclose(new.spacing, (5.0, grid.spacing[1], 7.0))
    assert np.allclose(new.axes, grid.axes)
    mass = np.array(ndimage.center_of_mass(coarse))
    assert np.allclose(new.to_world(mass), grid.to_world(centre), atol=0.05)
    lengths = np.array(new.shape) * new.spacing - np.array(grid.shape) * grid.spacing
    assert (lengths > -0.1).all()
    assert (lengths < new.spacing).all()


def test_a_thick_slice_is_the_mean_of_what_it_covers() -> None:
    data = np.random.default_rng(0).random((9, 4, 5)).astype(np.float32)
    grid = Geometry(data.shape, np.diag([1.0, 1, 1, 1]))
    assert np.allclose(disturb.coarsen_image(data, grid, (3.0, 0, 0)), data.reshape(3, 3, 4, 5).mean(1), atol=1e-6)
    # 9 mm in slices of 2 mm: five of them, half of the first and of the last beyond the scan.
    uneven = disturb.coarsen_image(data, grid, (2.0, 0, 0))
    assert np.allclose(uneven[0], (data[0] + 0.5 * data[1]) / 1.5, atol=1e-6)
    assert np.allclose(uneven[2], (0.5 * data[3] + data[4] + 0.5 * data[5]) / 2, atol=1e-6)
    assert np.array_equal(disturb.coarsen_image(data, grid, (0.5, 1.0, 1.0)), data)


def test_labels_of_larger_voxels_are_those_of_most_of_their_volume() -> None:
    labels = np.zeros((6, 2, 2), dtype=np.uint8)
    labels[:, 0] = [[0, 0], [2, 2], [2, 1], [1, 1], [1, 1], [2, 0]]
    coarse = disturb.coarsen_labels(labels, Geometry(labels.shape, np.eye(4)), (3.0, 0, 0))
    assert coarse[:, 0].tolist() == [[2, 0], [1, 1]] or coarse[:, 0, 0].tolist() == [2, 1]
    assert coarse[0, 0, 0] == 2  # 0, 2, 2
    assert coarse[1, 0, 0] == 1  # 1, 1, 2
    assert not coarse[:, 1].any()


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SLA"])
@pytest.mark.parametrize("side", list(disturb.SIDES))
def test_cutting_takes_the_stated_part_of_the_tissue_on_the_stated_side(orientation: str, side: str) -> None:
    grid = Geometry((30, 34, 38), make_affine(orientation))
    box = (slice(5, 25), slice(4, 24), slice(10, 30))
    part = disturb.cut_box(grid, grid, box, side, 0.3)
    new = disturb.crop_grid(grid, part)
    assert new.shape == tuple(s.stop - s.start for s in part)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in new.shape), indexing="ij"), -1).reshape(-1, 3)
    world = new.to_world(index)
    axis, upper = disturb.SIDES[side]
    tissue = grid.to_world(np.array(np.meshgrid(*((s.start, s.stop - 1) for s in box))).reshape(3, -1).T)
    low, high = tissue[:, axis].min() - 0.5, tissue[:, axis].max() + 0.5
    # 6 of the 20 mm of tissue are gone on that side, and nothing on the others.
    assert (high - (world[:, axis].max() + 0.5) if upper else world[:, axis].min() - 0.5 - low) == pytest.approx(6.0)
    whole = grid.to_world(np.array(np.meshgrid(*((0, n - 1) for n in grid.shape))).reshape(3, -1).T)
    for other in range(3):
        if other != axis:
            assert world[:, other].min() == pytest.approx(whole[:, other].min())
            assert world[:, other].max() == pytest.approx(whole[:, other].max())
    assert np.array_equal(new.affine[:3, 3], grid.to_world(np.array([s.start for s in part])))


def test_the_frame_of_a_subject_is_right_handed_and_along_its_grid() -> None:
    from pathlib import Path

    from voxseg.data.volume import Volume

    grid = Geometry(SHAPE, make_affine("LAS", "oblique"))
    subject = Subject("a", (Volume(Path("a"), head(), grid, None, SHAPE),))
    assert np.linalg.det(subject.frame) == pytest.approx(1)
    along = np.abs(subject.frame.T @ grid.axes)
    assert np.allclose(along, np.rint(along), atol=1e-9)
