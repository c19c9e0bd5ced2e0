from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grids import ORIENTATIONS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume
from voxseg.evaluation.poses import (
    describe_turn,
    move_header,
    permuted,
    signed_permutations,
    store_axes,
    turn_voxels,
)
from voxseg.evaluation.subject import Subject
from voxseg.testing import rotation_matrix

SHAPE = (5, 6, 7)


def numbered(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """A volume in which every voxel has a value of its own."""
    data = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Volume(Path("scan.nii"), data, Geometry(shape, affine), None, shape)


def places(volume: Volume) -> np.ndarray:
    """World position of each value, `[values, 3]`."""
    index = np.stack(np.unravel_index(np.argsort(volume.data, axis=None), volume.data.shape), -1)
    return volume.geometry.to_world(index)


def test_there_are_24_rotations_and_24_reflections_all_different() -> None:
    for improper, determinant in ((False, 1), (True, -1)):
        matrices = signed_permutations(improper)
        assert len({matrix.tobytes() for matrix in matrices}) == 24
        assert all(np.isclose(np.linalg.det(matrix), determinant) for matrix in matrices)
    assert np.array_equal(signed_permutations(False)[0], np.eye(3))


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PIR"])
@pytest.mark.parametrize("turn", ["straight", "oblique"])
def test_turning_voxels_moves_every_voxel_to_the_turned_place(orientation: str, turn: str) -> None:
    volume = numbered(make_affine(orientation, turn, "anisotropic"))
    subject = Subject("case", (volume,))
    for improper in (False, True):
        for matrix in signed_permutations(improper):
            world = subject.in_frame(matrix)
            turned, permutation = turn_voxels(volume, world, subject.centre)
            expected = (places(volume) - subject.centre) @ world.T + subject.centre
            assert np.allclose(places(turned), expected, atol=1e-9)
            assert np.allclose(turned.geometry.axes, volume.geometry.axes, atol=1e-9)  # the patient is what turned
            assert np.array_equal(permuted(volume.data, permutation), turned.data)


def test_an_image_that_is_oblique_to_the_turn_is_moved_by_its_header() -> None:
    first = Subject("case", (numbered(make_affine("RAS")),))
    other = numbered(make_affine("RAS", "oblique"))
    world = first.in_frame(rotation_matrix((0, 0, 1), 90).numpy())
    turned, _ = turn_voxels(other, world, first.centre)
    assert np.allclose(places(turned), (places(other) - first.centre) @ world.T + first.centre)
    assert np.array_equal(turned.data, other.data)


def test_storing_along_other_axes_moves_nothing_and_gives_all_48_orientations() -> None:
    volume = numbered(make_affine("LAS", spacing="anisotropic"))
    found = set()
    for matrix in (*signed_permutations(False), *signed_permutations(True)):
        stored = store_axes(volume, matrix)
        assert np.allclose(places(stored), places(volume), atol=1e-9)
        assert stored.geometry.shape == stored.data.shape
        found.add(stored.geometry.orientation)
    assert found == set(ORIENTATIONS)


def test_another_header_moves_the_same_voxels() -> None:
    volume = numbered(make_affine("PIR", "oblique", "anisotropic"))
    subject = Subject("case", (volume,))
    orientations = set()
    for improper in (False, True):
        for matrix in signed_permutations(improper):
            world = subject.in_frame(matrix)
            moved = move_header(volume, world, subject.centre)
            assert np.array_equal(moved.data, volume.data)
            assert np.allclose(places(moved), (places(volume) - subject.centre) @ world.T + subject.centre)
            assert np.allclose(moved.geometry.spacing, volume.geometry.spacing)
            assert (moved.geometry.handedness == volume.geometry.handedness) != improper
            orientations.add(moved.geometry.orientation)
    assert orientations == set(ORIENTATIONS)


@pytest.mark.parametrize(
    ("axis", "angle", "words"),
    [
        ((1, 0, 0), 90, "90° about x"),
        ((0, 1, 0), -90, "90° about -y"),
        ((0, 0, 1), 180, "180° about z"),
        ((1, 1, 1), 120, "120° about (1, 1, 1)"),
        ((1, -1, 1), 240, "120° about (-1, 1, -1)"),
    ],
)
def test_turns_have_names(axis: tuple[int, int, int], angle: float, words: str) -> None:
    assert describe_turn(np.rint(rotation_matrix(axis, angle).numpy())) == words


def test_names_of_turns_tell_them_apart() -> None:
    assert len({describe_turn(matrix) for matrix in signed_permutations(False)}) == 24
