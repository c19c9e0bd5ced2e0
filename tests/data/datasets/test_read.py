import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tiny_datasets import AFFINE, SHAPE, decathlon, save, scan, tumour
from voxseg.data.datasets.case import ImageFile
from voxseg.data.datasets.read import read_image, read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.volume import read_header
from voxseg.errors import UserError

GRID = Geometry(SHAPE, AFFINE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_labels_of_any_type_are_whole_numbers(tmp_path, dtype):
    labels, grid = read_labels(save(tmp_path / "seg.nii.gz", tumour().astype(dtype)))
    assert labels.dtype.kind in "iu"
    assert np.array_equal(labels, tumour())
    assert grid == GRID


def test_labels_may_be_empty_or_say_that_they_are_labels(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), AFFINE)
    image.header.set_intent("label")
    nib.save(image, tmp_path / "seg.nii.gz")
    labels, _ = read_labels(tmp_path / "seg.nii.gz")
    assert not labels.any()


def test_labels_that_scaling_made_inexact(tmp_path):
    labels, _ = read_labels(save(tmp_path / "seg.nii.gz", (tumour() + np.float32(4e-4)).astype(np.float32)))
    assert np.array_equal(labels, tumour())


def fraction():
    labels = tumour().astype(np.float32)
    labels[3, 3, 3:5] = 1.5
    return labels


def not_a_number():
    labels = tumour().astype(np.float32)
    labels[3, 3, 3] = np.nan
    return labels


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (fraction(), "2 of its voxels are not whole numbers, such as 1.5; a label file needs a whole number in each "
         "voxel: resample labels with nearest neighbours"),
        (not_a_number(), "1 of its voxels are not finite numbers (NaN or infinite); a label file needs a whole number "
         "in each voxel"),
        (tumour().astype(np.int16) - 1, "holds the label -1; number labels from 0, the background, to at most "
         "2147483647"),
        (tumour().astype(np.float64) * 2.0**40, "holds the label 4398046511104; number labels from 0"),
    ],
)  # fmt: skip
def test_wrong_labels(tmp_path, data, message):
    path = save(tmp_path / "seg.nii.gz", data)
    with pytest.raises(UserError) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_volume_of_a_4d_file(tmp_path):
    folder = decathlon(tmp_path)
    path = folder / "imagesTr" / "BRATS_001.nii.gz"
    for volume in range(4):
        data, grid = read_image(ImageFile(path, volume))
        assert np.array_equal(data, scan(volume))
        assert data.base is None or data.base.size == data.size  # the other volumes are not kept
        assert grid == GRID
    nrrd = folder / "all.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(nrrd))
    assert np.array_equal(read_image(ImageFile(nrrd, 2))[0], scan(2))
    assert read_image(ImageFile(nrrd, 2))[1].displacement(GRID) < 1e-4
    with pytest.raises(UserError) as caught:
        read_image(ImageFile(path, 4))
    assert str(caught.value) == (
        f"{path}: holds 4 volumes, and volume 4 (counted from 0) is wanted; give the file with all modalities, or "
        "correct their list"
    )
    with pytest.raises(UserError, match=r"is 4-D \(12 x 14 x 10 x 4\) and not a 3D volume; give one volume of it"):
        read_image(ImageFile(path))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha"])
def test_headers(tmp_path, suffix):
    nifti = save(tmp_path / "nifti.nii.gz", scan(0))
    path = tmp_path / f"scan{suffix}"
    if suffix == ".mgz":
        nib.save(nib.MGHImage(scan(0), AFFINE), path)
    else:
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    header = read_header(path)
    assert header.file_shape == SHAPE
    assert header.volumes == 1
    assert header.geometry.displacement(GRID) < 1e-4
    assert header.size == {".mgz": 284 + 2 * scan(0).size, ".nrrd": None, ".mha": None}.get(
        suffix, 352 + 2 * scan(0).size
    )


def test_header_of_a_4d_file(tmp_path):
    header = read_header(decathlon(tmp_path) / "imagesTr" / "BRATS_001.nii.gz")
    assert header.file_shape == (*SHAPE, 4)
    assert header.volumes == 4
    assert header.geometry == GRID
