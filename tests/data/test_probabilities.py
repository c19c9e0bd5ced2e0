import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from grids import make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.probabilities import names_path, write_probabilities
from voxseg.data.volume import Volume, read_volume
from voxseg.errors import UserError

SHAPE = (11, 9, 14)
NAMES = ["background", "left", "right"]


def scan_in(folder, image=nib.Nifti1Image, affine=None):
    data = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    made = image(data, make_affine("LPS", "oblique") if affine is None else affine)
    made.header.set_xyzt_units("mm", "sec")
    made.to_filename(folder / "scan.nii.gz")
    return read_volume(folder / "scan.nii.gz")


def random_probabilities():
    values = np.random.default_rng(1).random((3, *SHAPE)).astype(np.float32)
    return values / values.sum(0)


def as_slabs(values):
    return values.transpose(0, 3, 2, 1)  # [K, Z, Y, X]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_slabs_in_any_order_become_a_file_in_the_scans_grid(tmp_path, suffix, image):
    scan, values = scan_in(tmp_path, image), random_probabilities()
    path = tmp_path / f"p{suffix}"
    with write_probabilities(path, NAMES, scan) as file:
        for start, stop in ((6, 14), (0, 1), (1, 6)):
            file.write(start, as_slabs(values)[:, start:stop])
    stored = nib.load(path)
    assert isinstance(stored, image)
    assert stored.shape == (*SHAPE, 3)
    assert np.abs(stored.get_fdata() - np.moveaxis(values, 0, -1)).max() < 0.5 / 255 + 1e-6
    for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "xyzt_units"):
        assert np.array_equal(stored.header[key], scan.header[key])
    assert stored.header.get_zooms()[:3] == scan.header.get_zooms()[:3]
    assert json.loads((tmp_path / "p.json").read_text()) == {"LabelMap": NAMES}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["p.json", path.name, "scan.nii.gz"])


def test_scans_of_other_formats(tmp_path):
    geometry = Geometry(SHAPE, make_affine("PSR", "oblique", "anisotropic"))
    scan = Volume(Path("a.mha"), np.zeros(SHAPE), geometry, None, SHAPE)
    with write_probabilities(tmp_path / "p.nii.gz", NAMES, scan) as file:
        file.write(0, as_slabs(random_probabilities()))
    assert np.allclose(nib.load(tmp_path / "p.nii.gz").affine, geometry.affine, atol=1e-4)


@pytest.mark.parametrize("background", [True, False])
def test_voxels_can_be_cleared_afterwards(tmp_path, background):
    scan, values = scan_in(tmp_path), random_probabilities()
    removed = np.random.default_rng(2).random((4, SHAPE[1], SHAPE[0])) < 0.3
    with write_probabilities(tmp_path / "p.nii.gz", NAMES, scan) as file:
        file.write(0, as_slabs(values))
        file.clear(5, removed, background)
    stored = as_slabs(np.moveaxis(nib.load(tmp_path / "p.nii.gz").get_fdata(), -1, 0))
    assert np.allclose(stored[0, 5:9][removed], float(background))
    assert (stored[1:, 5:9][:, removed] == 0).all()
    kept = np.ones((SHAPE[2], SHAPE[1], SHAPE[0]), bool)
    kept[5:9] = ~removed
    assert np.abs(stored - as_slabs(values))[:, kept].max() < 0.5 / 255 + 1e-6


def test_nothing_is_left_of_a_block_that_fails(tmp_path):
    scan = scan_in(tmp_path)

    def interrupted():
        with write_probabilities(tmp_path / "p.nii.gz", NAMES, scan) as file:
            file.write(0, as_slabs(random_probabilities())[:, :3])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
    with (
        pytest.raises(UserError, match="cannot be written"),
        write_probabilities(tmp_path / "none" / "p.nii", NAMES, scan),
    ):
        raise AssertionError


def test_names_lie_beside():
    assert names_path(Path("a/b.c.nii.gz")) == Path("a/b.c.json")
