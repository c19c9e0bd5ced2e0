import math

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grids import ORIENTATIONS, SHAPE, SPACINGS, TURNS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.errors import UserError


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_and_exactly_back(orientation, turn, spacing):
    geometry = Geometry(SHAPE, make_affine(orientation, turn, spacing))
    array = np.random.default_rng(0).integers(0, 1000, SHAPE)
    canonical = geometry.to_canonical(array)
    assert np.array_equal(geometry.from_canonical(canonical), array)
    assert canonical.base is not None  # a view
    assert canonical.shape == geometry.canonical.shape
    assert geometry.canonical.handedness == "right"
    assert geometry.canonical.orientation == "RAS"
    # Every voxel lies where it lay.
    index = np.array(list(np.ndindex(*SHAPE)))
    assert geometry.canonical.shape == canonical.shape
    stored_world = geometry.to_canonical(geometry.to_world(index).reshape(*SHAPE, 3))
    canonical_index = np.array(list(np.ndindex(*canonical.shape)))
    assert np.allclose(geometry.canonical.to_world(canonical_index), stored_world.reshape(-1, 3), atol=1e-9)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_agrees_with_nibabel(orientation, turn):
    affine = make_affine(orientation, turn, "anisotropic")
    geometry = Geometry(SHAPE, affine)
    assert geometry.orientation == "".join(nib.aff2axcodes(affine))
    assert geometry.spacing == pytest.approx(nib.affines.voxel_sizes(affine))
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    image = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int32), affine))
    assert np.array_equal(geometry.to_canonical(array), image.get_fdata())
    assert np.allclose(geometry.canonical.affine, image.affine)


def test_orientation_of_a_plain_grid_is_its_name():
    assert len(ORIENTATIONS) == 48
    for orientation in ORIENTATIONS:
        geometry = Geometry(SHAPE, make_affine(orientation))
        assert geometry.orientation == orientation
        assert geometry.obliqueness == pytest.approx(0, abs=1e-5)


def test_handedness():
    assert Geometry(SHAPE, make_affine("RAS")).handedness == "right"
    assert Geometry(SHAPE, make_affine("LAS")).handedness == "left"
    assert sum(Geometry(SHAPE, make_affine(o)).handedness == "left" for o in ORIENTATIONS) == 24


def test_obliqueness_and_shear():
    affine = make_affine()
    affine[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    assert Geometry(SHAPE, affine).obliqueness == pytest.approx(20)
    assert Geometry(SHAPE, affine).shear == pytest.approx(0, abs=1e-5)
    sheared = Geometry(SHAPE, make_affine(shear=15))
    assert sheared.shear == pytest.approx(15)
    assert np.allclose(sheared.rigid_axes @ sheared.rigid_axes.T, np.eye(3))


def test_random_grids_are_right_handed_in_canonical_axes():
    rng = np.random.default_rng(1)
    for matrix in Rotation.random(200, random_state=2).as_matrix():
        affine = np.eye(4)
        affine[:3, :3] = matrix * rng.choice([-1.0, 1.0], 3)
        geometry = Geometry(SHAPE, affine)
        assert geometry.canonical.handedness == "right"
        array = rng.random(SHAPE)
        assert np.array_equal(geometry.from_canonical(geometry.to_canonical(array)), array)


def test_further_axes_ride_along():
    geometry = Geometry(SHAPE, make_affine("SPL"))
    array = np.random.default_rng(0).random((*SHAPE, 3))
    canonical = geometry.to_canonical(array)
    assert np.array_equal(canonical[..., 1], geometry.to_canonical(array[..., 1]))
    assert np.array_equal(geometry.from_canonical(canonical), array)


def test_from_lps():
    geometry = Geometry.from_lps(SHAPE, (1, 2, 3), (10, 20, 30), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert geometry.orientation == "LPS"
    assert geometry.affine.tolist() == [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]


def test_values():
    affine = make_affine("LIA", "oblique", "anisotropic")
    geometry = Geometry(SHAPE, affine)
    assert geometry == Geometry(SHAPE, affine)
    assert hash(geometry) == hash(Geometry(SHAPE, affine))
    assert geometry != Geometry(SHAPE, make_affine("LIA"))
    assert geometry != "geometry"
    assert geometry.voxel_volume == pytest.approx(0.7 * 1.3 * 4)
    assert "LIA" in repr(geometry)
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 2
    affine[0, 0] = 99
    assert geometry.affine[0, 0] != 99


def test_displacement():
    geometry = Geometry(SHAPE, make_affine("LIA", "oblique"))
    moved = geometry.affine.copy()
    moved[2, 3] += 0.5
    assert geometry.displacement(geometry) == 0
    assert geometry.displacement(Geometry(SHAPE, moved)) == pytest.approx(0.5)
    assert geometry.displacement(Geometry((9, 10, 11), moved)) == math.inf


def test_misuse_is_named():
    with pytest.raises(ValueError, match="4 x 4"):
        Geometry(SHAPE, np.eye(3))
    with pytest.raises(ValueError, match="three axes"):
        Geometry((1, 2), np.eye(4))
    with pytest.raises(ValueError, match="arrays of"):
        Geometry(SHAPE, np.eye(4)).to_canonical(np.zeros((2, 2, 2)))


def coplanar():
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0.5, -0.5], [0, math.sqrt(0.75), math.sqrt(0.75)], [0, 0, 0]])
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "problem"),
    [
        (SHAPE, np.diag([1, 1, np.nan, 1]), "not finite"),
        (SHAPE, np.diag([1, 1, 0, 1]), "spacing is 1 x 1 x 0 mm"),
        (SHAPE, np.diag([1e-3, 1e-3, 1e-3, 1]), "spacing is 0.001"),
        (SHAPE, np.diag([1, 1, 1000, 1]), "spacing is 1 x 1 x 1000 mm"),
        (SHAPE, coplanar(), "singular"),
        (SHAPE, make_affine(shear=50), "singular"),
        ((9, 10, 7), np.eye(4), "too small"),
        ((300, 10, 12), np.diag([15, 1, 1, 1]), "4.5 m"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, problem):
    with pytest.raises(UserError, match=problem) as caught:
        Geometry(shape, affine).check("scan.nii")
    assert str(caught.value).startswith("scan.nii: ")


@pytest.mark.parametrize("shear", [0, 15, 30])
def test_usual_grids_are_accepted(shear):
    for orientation in ORIENTATIONS:
        Geometry(SHAPE, make_affine(orientation, "steep", "anisotropic", shear)).check("scan.nii")
