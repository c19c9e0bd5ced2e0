"""What is measured on the files of a data set."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from voxseg.data.datasets.find import find_dataset
from voxseg.errors import UserError
from voxseg.planning import fingerprint
from voxseg.planning.fingerprint import take_fingerprint

PATTERNS = {"a": "*/a.nii.gz", "b": "*/b.nii.gz", "label": "*/seg.nii.gz"}
SHAPE = (24, 20, 16)


def save(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def look(folder, images=None):
    return take_fingerprint(find_dataset(folder, "patterns", PATTERNS), images, PATTERNS)


@pytest.fixture
def folder(tmp_path):
    """Two cases; in image a the label is 1000 to 1099, in b, on a flipped coarser grid of its own, 7 with a margin."""
    for k in range(2):
        labels = np.zeros(SHAPE, np.uint8)
        labels[6:12, 5:10, 4:9] = 3
        a = np.zeros(SHAPE, np.float32)
        a[4:16, 3:14, 2:12] = np.random.default_rng(k).uniform(100, 900, (12, 11, 10))
        a[labels > 0] = 1000 + np.arange(150) % 100
        # Every second voxel of the same space, with the first axis stored backwards.
        b = np.random.default_rng(k).integers(20, 60, SHAPE)
        b[4:14, 3:12, 2:11] = 7
        b = b[::2, ::2, ::2][::-1]
        affine = np.diag([-2.0, 2.0, 2.0, 1.0])
        affine[0, 3] = 2.0 * (SHAPE[0] // 2 - 1)
        save(tmp_path / f"s{k}/seg.nii.gz", labels)
        save(tmp_path / f"s{k}/a.nii.gz", a)
        save(tmp_path / f"s{k}/b.nii.gz", b.astype(np.int16), affine)
    return tmp_path


def test_intensities_are_those_of_labelled_voxels_whatever_the_grid(folder):
    a, b = look(folder).images
    assert 1000 <= a.percentiles[0] < a.percentiles[1] <= 1099
    assert b.percentiles == (7, 7)
    assert a.stripped
    assert not a.ct
    assert not b.ct


def test_grids_and_labels(folder):
    seen = look(folder)
    assert (seen.cases, seen.examined, seen.subjects) == (2, 2, 2)
    assert seen.spacings == ((1.0, 1.0, 1.0),) * 2
    assert seen.extents == ((24.0, 20.0, 16.0),) * 2
    assert seen.voxels == {3: 2 * 150}
    assert seen.present == {3: 2}


def test_a_box_is_taken_only_if_it_holds_all_labels(folder):
    assert look(folder).box is not None
    for k in range(2):
        data = np.zeros((64, 64, 64), np.float32)
        data[24:40, 24:40, 24:40] = np.random.default_rng(k).uniform(100, 900, (16, 16, 16))
        labels = np.zeros((64, 64, 64), np.uint8)
        labels[30:34, 30:34, 30:34] = 1
        save(folder / f"s{k}/a.nii.gz", data)
        save(folder / f"s{k}/seg.nii.gz", labels)
    box = look(folder, ["a"]).box
    assert box is not None
    assert max(box) <= 64
    labels[2, 2, 2] = 1
    save(folder / "s1/seg.nii.gz", labels)
    assert look(folder, ["a"]).box is None


def test_an_image_that_some_cases_lack_is_left_out_unless_it_is_asked_for(folder):
    (folder / "s1/b.nii.gz").unlink()
    assert [image.name for image in look(folder).images] == ["a"]
    asked = look(folder, ["b", "a"])
    assert [(image.name, image.missing) for image in asked.images] == [("b", 1), ("a", 0)]
    assert asked.examined == 1
    (folder / "s0/a.nii.gz").unlink()
    with pytest.raises(UserError, match="no image is in all 2 cases"):
        look(folder)


def test_the_voxels_of_a_few_cases_spread_over_all_are_read(folder, monkeypatch):
    monkeypatch.setattr(fingerprint, "EXAMINED", 2)
    for k in range(2, 7):
        for name in ("a", "b", "seg"):
            path = folder / f"s{k}/{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((folder / f"s0/{name}.nii.gz").read_bytes())
    read = []
    original = fingerprint.read_labels
    monkeypatch.setattr(fingerprint, "read_labels", lambda path: read.append(path.parent.name) or original(path))
    seen = look(folder)
    assert read == ["s0", "s6"]
    assert (seen.cases, seen.examined, len(seen.spacings)) == (7, 2, 7)


def test_a_file_cut_short_is_named(folder):
    path = folder / "s1/a.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"s1.a\.nii\.gz"):
        look(folder)
