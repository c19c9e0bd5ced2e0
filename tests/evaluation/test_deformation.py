from __future__ import annotations

import itertools

import numpy as np
import pytest

from grids import make_affine
from voxseg.data.geometry import Geometry
from voxseg.errors import UserError
from voxseg.evaluation.deformation import draw_deformation

SHAPE = (40, 36, 44)
FIELD = Geometry(SHAPE, np.diag([2.0, 2.5, 1.5, 1.0]))
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lattice(geometry: Geometry = FIELD) -> list[np.ndarray]:
    return [np.arange(n, dtype=np.float64) for n in geometry.shape]


def test_size_is_as_stated_and_measured_where_it_is_asked_for() -> None:
    within = EVERYWHERE.copy()
    within[:, :20] = False
    for mask in (EVERYWHERE, within):
        deformation = draw_deformation(FIELD, mask, 1.5, rng())
        lengths = np.linalg.norm(deformation.displacement(lattice()), axis=0)[mask]
        assert np.sqrt((lengths**2).mean()) == pytest.approx(1.5, rel=0.01)
        rms, largest, determinant = deformation.size(mask)
        assert rms == pytest.approx(1.5)
        assert largest == pytest.approx(lengths.max(), rel=0.02)
        assert 0 < determinant < 1


def test_it_vanishes_at_the_faces_and_turns_with_no_axis_in_particular() -> None:
    deformation = draw_deformation(FIELD, EVERYWHERE, 1.0, rng())
    faces = [np.array([-0.5, n - 0.5]) for n in SHAPE]
    for axis in range(3):
        places = lattice()
        places[axis] = faces[axis]
        assert np.abs(deformation.displacement(places)).max() < 1e-12


def test_spectrum_is_that_of_the_gibbs_ensemble() -> None:
    """Each wave has the power 1/k^2 up to the cut-off, all draws the same in total size."""
    cube = Geometry((8, 8, 8), np.diag([3.0, 3, 3, 1]))
    powers = np.zeros((3, 3, 3))
    for seed in range(400):
        coefficients = draw_deformation(cube, np.ones(cube.shape, dtype=bool), 0.1, rng(seed), cutoff=3).coefficients
        powers += (coefficients**2).sum(0) / 400
    order = np.arange(1, 4)
    squares = order[:, None, None] ** 2 + order[:, None] ** 2 + order**2
    kept = squares < 3.5**2
    assert np.allclose(powers[kept] * squares[kept], (powers * squares)[kept].mean(), rtol=0.2)
    assert (powers[~kept] == 0).all()
    # Sines of independent size: <|tau|^2> is an eighth of the sum of their powers.
    assert powers.sum() / 8 == pytest.approx(0.1**2, rel=0.15)


def test_bumps_are_as_wide_along_a_short_axis() -> None:
    slab = Geometry((60, 60, 12), np.diag([3.0, 3, 3, 1]))
    within = np.ones(slab.shape, dtype=bool)
    gradients = np.mean(
        [draw_deformation(slab, within, 0.5, rng(s)).gradient(lattice(slab)) ** 2 for s in range(12)],
        axis=(0, 1, 3, 4, 5),
    )
    assert gradients.max() / gradients.min() < 6  # in waves along each axis it would be 25


def test_gradient_is_the_derivative() -> None:
    deformation = draw_deformation(FIELD, EVERYWHERE, 1.0, rng(1))
    places = [np.array([7.3]), np.array([20.1]), np.array([11.9])]
    gradient = deformation.gradient(places)[:, :, 0, 0, 0]
    for axis in range(3):
        ends = []
        for step in (1e-4, -1e-4):
            moved = [p.copy() for p in places]
            moved[axis] += step
            ends.append(deformation.displacement(moved)[:, 0, 0, 0])
        assert np.allclose((ends[0] - ends[1]) / (2e-4 * FIELD.spacing[axis]), gradient[:, axis], atol=1e-6)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SRP"])
def test_an_image_of_world_coordinates_is_displaced_exactly(orientation: str) -> None:
    """Linear interpolation is exact on a linear image: (tau x)(p) = x(p - tau(p))."""
    grid = Geometry((30, 28, 26), make_affine(orientation, "oblique"))
    canonical = grid.canonical
    deformation = draw_deformation(canonical, np.ones(canonical.shape, dtype=bool), 1.0, rng(2))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    world = grid.to_world(index)
    moved = np.moveaxis(deformation.displacement(lattice(canonical)), 0, -1) @ canonical.rigid_axes.T
    moved = grid.from_canonical(moved)
    inside = tuple(slice(4, -4) for _ in range(3))  # beyond the edge there is nothing to interpolate
    for axis in range(3):
        found = deformation.image(world[..., axis], grid)
        assert np.allclose(found[inside], (world - moved)[..., axis][inside], atol=1e-3)


def test_labels_move_with_the_image() -> None:
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ball = np.linalg.norm((index - np.array(SHAPE) / 2) * FIELD.spacing, axis=-1) < 20
    deformation = draw_deformation(FIELD, ball, 3.0, rng(3))
    labels = deformation.labels(ball.astype(np.uint8), FIELD)
    image = deformation.image(ball.astype(np.float32), FIELD)
    clear = np.abs(image - 0.5) > 0.49
    assert np.array_equal(labels[clear] == 1, image[clear] > 0.5)
    assert (labels != ball).mean() > 0.005


def test_a_deformation_that_folds_is_refused() -> None:
    with pytest.raises(UserError, match="folds over itself"):
        draw_deformation(FIELD, EVERYWHERE, 20.0, rng())


def test_seeds_decide_and_sizes_scale() -> None:
    small, large = (draw_deformation(FIELD, EVERYWHERE, size, rng(5)) for size in (0.5, 1.0))
    assert np.allclose(2 * small.coefficients, large.coefficients)
    other = draw_deformation(FIELD, EVERYWHERE, 1.0, rng(6))
    assert not np.allclose(other.coefficients, large.coefficients)
    assert all(np.isfinite(other.coefficients[k]).all() for k in itertools.islice(itertools.count(), 3))
