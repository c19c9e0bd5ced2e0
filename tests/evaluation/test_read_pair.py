"""Label files on one grid: orientations reordered exactly, others refused or resampled, ids that have a meaning."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError
from voxseg.evaluation.read_pair import on_grid, read_pair, resampled
from voxseg.testing import rotation_matrix

SHAPE = (12, 10, 14)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = rotation_matrix((1, 2, 3), 30).numpy() @ np.diag([0.9, 1.3, 2.0])
OBLIQUE[:3, 3] = -8, 3, 5
TABLE = [{"id": i, "name": f"part {i}"} for i in (1, 2, 3)]
SCHEME = LabelScheme.model_validate({"classes": [1, 2, 3], "table": TABLE, "unlisted": "refuse"})


def labels(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def save(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def reordered(data: np.ndarray, affine: np.ndarray, permutation: tuple[int, ...], flips: tuple[bool, ...]):
    """The same voxels at the same places, stored in another order."""
    turned = data.transpose(permutation)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(permutation, flips, strict=True)):
        matrix[old, new] = -1 if flip else 1
        matrix[old, 3] = data.shape[old] - 1 if flip else 0
    return np.flip(turned, [k for k in range(3) if flips[k]]), affine @ matrix


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_all_orientations_are_reordered_exactly(tmp_path: Path, permutation: tuple[int, ...]) -> None:
    reference = save(tmp_path / "r.nii.gz", labels(seed=1))
    for flips in itertools.product((False, True), repeat=3):
        data, affine = reordered(labels(), OBLIQUE, permutation, flips)
        pair = read_pair(save(tmp_path / "p.nii.gz", data, affine), reference, SCHEME)
        assert np.array_equal(pair.prediction, labels())
        assert np.array_equal(pair.reference, labels(seed=1))
        assert pair.notes == ()


def test_the_grid_of_a_turn_by_45_degrees() -> None:
    """There two axes are as near to either world axis, so that names of orientations would not do."""
    c = np.sqrt(0.5)
    affine = np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    target = Geometry(SHAPE, affine)
    for permutation in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            data, other = reordered(labels(), affine, permutation, flips)
            found = on_grid(data, Geometry(data.shape, other), target)
            assert found is not None
            assert np.array_equal(found, labels())


def test_rounded_headers_are_the_same_grid_and_others_are_not(tmp_path: Path) -> None:
    reference = save(tmp_path / "r.nii.gz", labels())
    near, far = OBLIQUE.copy(), OBLIQUE.copy()
    near[0, 3] += 0.009
    far[0, 3] += 0.02
    read_pair(save(tmp_path / "p.nii.gz", labels(), near), reference, SCHEME)
    with pytest.raises(UserError) as caught:
        read_pair(save(tmp_path / "p.nii.gz", labels(), far), reference, SCHEME)
    assert "its voxels lie up to 0.02 mm from those of r.nii.gz; segment the scan" in str(caught.value)
    with pytest.raises(UserError) as caught:
        read_pair(save(tmp_path / "p.nii.gz", labels((12, 10, 13))), reference, SCHEME)
    text = "is on another grid (12 x 10 x 13 voxels of 0.9 x 1.3 x 2 mm, RAS) than r.nii.gz (12 x 10 x 14 voxels of"
    assert text in str(caught.value)
    assert str(caught.value).endswith("or give --resample")


def test_resampling_takes_the_nearest_voxel(tmp_path: Path) -> None:
    """From 2 mm to 1 mm with the same corner each voxel becomes a block of eight, whatever the rounding of a half."""
    coarse, fine = np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, 1, 1])
    coarse[:3, 3] = 0.5
    data = labels((9, 8, 10))
    reference = save(tmp_path / "r.nii.gz", np.zeros((18, 16, 20), np.uint8), fine)
    pair = read_pair(save(tmp_path / "p.nii.gz", data, coarse), reference, SCHEME, resample=True)
    assert np.array_equal(pair.prediction, data.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert pair.notes == (
        "the prediction was resampled from 9 x 8 x 10 voxels of 2 x 2 x 2 mm, RAS to 18 x 16 x 20 voxels of "
        "1 x 1 x 1 mm, RAS, nearest voxel",
    )
    # A voxel of the coarse grid on each second one of the fine grid: those between are exactly half-way.
    coarse[:3, 3] = 0
    pair = read_pair(save(tmp_path / "p.nii.gz", data, coarse), reference, SCHEME, resample=True)
    index = [np.minimum(np.arange(2 * n) // 2, n - 1) for n in data.shape]
    inside = pair.prediction[:17, :15, :19]
    assert np.array_equal(inside, data[np.ix_(*index)][:17, :15, :19])


def test_resampling_agrees_with_a_search_for_the_nearest_voxel() -> None:
    source = Geometry((9, 8, 10), np.diag([1.7, 1.1, 2.3, 1]) + np.pad(np.full((3, 1), -4.0), ((0, 1), (3, 0))))
    target = Geometry(SHAPE, OBLIQUE)
    data = labels((9, 8, 10))
    result = resampled(data, source, target)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    places = target.to_world(index)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in source.shape), indexing="ij"), -1).reshape(-1, 3)
    centres = source.to_world(voxels)
    for point, found in zip(places.reshape(-1, 3)[::37], result.ravel()[::37], strict=True):
        offset = (point - centres) / np.array(source.spacing)
        # The nearest one along each axis, and none beyond half a voxel outside.
        nearest = np.abs(offset).max(axis=1).argmin()
        inside = np.abs(offset[nearest]).max() <= 0.5
        assert found == (data[tuple(voxels[nearest])] if inside else 0)


def test_what_resampling_loses_is_said(tmp_path: Path) -> None:
    reference = save(tmp_path / "r.nii.gz", np.zeros((10, 10, 10), np.uint8), np.eye(4))
    prediction = np.zeros((20, 10, 10), np.uint8)
    prediction[5:15] = 1
    pair = read_pair(save(tmp_path / "p.nii.gz", prediction, np.eye(4)), reference, SCHEME, resample=True)
    assert pair.notes[0].endswith("nearest voxel; 0.5 ml of it lie outside the reference's volume")


def test_unknown_ids_are_named_with_the_labels_that_have_them(tmp_path: Path) -> None:
    data = labels()
    data[0, 0, :2] = 9
    reference = save(tmp_path / "r.nii.gz", labels())
    with pytest.raises(UserError) as caught:
        read_pair(save(tmp_path / "p.nii.gz", data), reference, SCHEME)
    message = str(caught.value)
    assert (
        "p.nii.gz: holds the label 9 (2 voxels), which the labels in use lack (1 part 1, 2 part 2, 3 part 3); gi"
        in message
    )
    brats = np.where(labels() == 3, 4, labels()).astype(np.uint8)
    with pytest.raises(UserError) as caught:
        read_pair(save(tmp_path / "p.nii.gz", brats), save(tmp_path / "r2.nii.gz", brats), SCHEME)
    assert "give --labels brats2020, which knows all of this case" in str(caught.value)


def test_ids_that_count_as_background_are_told(tmp_path: Path) -> None:
    data = labels()
    data[0, 0, :2] = 9
    data[0, 1, :2] = 7
    lenient = LabelScheme.model_validate({"classes": [1, 2, 3], "table": TABLE, "merge": {7: 0}})
    reference = save(tmp_path / "r.nii.gz", labels())
    pair = read_pair(save(tmp_path / "p.nii.gz", data), reference, lenient)
    assert pair.notes == ("counted as background in the prediction: 9",)
    assert not pair.prediction[0, :2, :2].any()


def test_files_that_are_no_label_files(tmp_path: Path) -> None:
    reference = save(tmp_path / "r.nii.gz", labels())
    fractions = labels().astype(np.float32) * 0.5
    with pytest.raises(UserError, match="of its voxels are not whole numbers, such as"):
        read_pair(save(tmp_path / "p.nii.gz", fractions), reference, SCHEME)
    intensities = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    with pytest.raises(UserError, match="different values; it is a scan and no label file"):
        read_pair(save(tmp_path / "p.nii.gz", intensities), reference, SCHEME)
    whole = labels().astype(np.float64)
    assert np.array_equal(read_pair(save(tmp_path / "p.nii.gz", whole), reference, SCHEME).prediction, labels())


def test_numbers_that_mean_different_things_are_suspected(tmp_path: Path) -> None:
    ones, twos = np.ones(SHAPE, np.uint8), np.full(SHAPE, 2, np.uint8)
    pair = read_pair(save(tmp_path / "p.nii.gz", ones), save(tmp_path / "r.nii.gz", twos), SCHEME)
    assert pair.notes == ("no label is in both files: do the numbers mean the same in both?",)


def test_sheared_grids_are_told(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.1
    path = save(tmp_path / "p.nii.gz", labels(), affine)
    notes = read_pair(path, path, SCHEME).notes
    assert notes == ("the grid is sheared by 6°: distances and volumes are as if its axes were upright",)
