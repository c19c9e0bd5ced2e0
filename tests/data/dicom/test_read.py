import gzip
import itertools
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from dicom_files import AXIAL, CT, SECRETS, enhanced, head, slices, write
from voxseg.data.dicom.files import is_dicom
from voxseg.data.dicom.read import read_dicom
from voxseg.data.dicom.series import find_series
from voxseg.data.volume import read_volume
from voxseg.errors import UserError

S, C = np.sin(0.4), np.cos(0.4)
DIRECTIONS = {
    "axial": AXIAL,
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "swapped": ((0, 1, 0), (1, 0, 0)),
    "negated": ((-1, 0, 0), (0, -1, 0)),
    "oblique": ((C, S, 0), (-S * C, C * C, S)),
}
SMALL = (12, 14, 10)


def itk_series(folder):
    """The series as SimpleITK's own reader of series has it: `[X, Y, Z]` and affine in RAS."""
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    lps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.vstack([np.column_stack([lps, image.GetOrigin()]), [0, 0, 0, 1]])
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(("name", "backwards"), list(itertools.product(DIRECTIONS, (False, True))))
def test_voxels_lie_where_an_independent_reader_has_them(tmp_path, name, backwards):
    data = head(SMALL)
    write(slices(data, DIRECTIONS[name], (1.0, 1.5, 2.5), backwards=backwards), tmp_path)
    volume = read_volume(tmp_path)
    array, affine = itk_series(tmp_path)
    assert np.array_equal(volume.data, data[:, :, ::-1] if backwards else data)
    # Both may count slices from either end: compared is where each voxel of one lies in the other.
    index = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1)
    there = (volume.geometry.to_world(index) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs(there - there.round()).max() < 1e-4
    assert np.array_equal(array[tuple(np.moveaxis(there.round().astype(int), -1, 0))], volume.data)
    assert volume.geometry.handedness == "right"


def test_rescaling_keeps_whole_numbers_whole_and_goes_by_slice(tmp_path):
    data = head(SMALL)
    datasets = slices(data, sop_class=CT)
    for ds in datasets:
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    volume = read_volume(write(datasets, tmp_path / "ct"))
    assert volume.data.dtype == np.int16
    assert np.array_equal(volume.data, data - 1024)
    for k, ds in enumerate(datasets):
        ds.RescaleSlope = 0.5 + k
    volume = read_volume(write(datasets, tmp_path / "pet"))
    assert volume.data.dtype == np.float32
    assert np.allclose(volume.data, data * (0.5 + np.arange(10)) - 1024)


def test_multi_frame_files_are_sorted_and_scaled_by_frame(tmp_path):
    data = head(SMALL)
    order = np.random.default_rng(2).permutation(10)
    ds = enhanced(data, DIRECTIONS["oblique"], order=order)
    for k, group in zip(order, ds.PerFrameFunctionalGroupsSequence, strict=True):
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1 + k / 2, 3, "US"
        group.PixelValueTransformationSequence = [item]
    write([ds], tmp_path / "enhanced")
    volume = read_volume(tmp_path / "enhanced")
    classic = read_volume(write(slices(data, DIRECTIONS["oblique"]), tmp_path / "classic"))
    assert np.allclose(volume.data, data * (1 + np.arange(10) / 2) + 3)
    assert np.allclose(volume.geometry.affine, classic.geometry.affine, atol=1e-9)
    (file,) = (tmp_path / "enhanced").iterdir()
    assert np.array_equal(read_volume(file).data, volume.data)


def test_a_tilted_gantry_is_undone_with_a_warning(tmp_path):
    # A pattern that is linear in space is restored exactly by linear interpolation.
    x, y, z = np.meshgrid(np.arange(16.0), np.arange(20.0), np.arange(12.0), indexing="ij")
    tilt = 0.7  # mm a slice; rows are 2 mm apart
    data = np.round(10 * x + 20 * (y + z * tilt / 2) + 30 * z).astype(np.int16)
    volume = read_volume(write(slices(data, tilt=tilt, spacing=(2, 2, 3)), tmp_path))
    assert volume.geometry.shear < 1e-6
    assert volume.geometry.shape == (16, 24, 12)
    angle = np.degrees(np.arctan(tilt / 3))
    (warning,) = volume.warnings
    assert warning == f"the gantry was tilted by {angle:.1f}°: slices were brought in line by interpolation"
    inside = np.stack(np.meshgrid(np.arange(16), np.arange(6, 18), np.arange(12), indexing="ij"), -1)
    world = volume.geometry.to_world(inside)  # RAS; the series begins at LPS (-40, -50, -30)
    expected = 10 * (40 - world[..., 0]) / 2 + 20 * (50 - world[..., 1]) / 2 + 30 * (world[..., 2] + 30) / 3
    assert np.abs(volume.data[:, 6:18] - expected).max() < 1


def test_zip_dicomdir_and_folder_hold_the_same(tmp_path):
    data = head(SMALL)
    folder = write(slices(data), tmp_path / "folder")
    (folder / "readme").write_text("no DICOM")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"sub/{file.name}")
    medium = tmp_path / "medium"
    files = FileSet()
    for file in sorted(folder.glob("IM*")):
        files.add(file)
    files.write(medium)
    for path in (folder, tmp_path / "export.zip", medium / "DICOMDIR", medium):
        assert is_dicom(path)
        assert np.array_equal(read_volume(path).data, data)
    next(path for path in medium.rglob("*") if path.is_file() and path.name != "DICOMDIR").unlink()
    with pytest.raises(UserError, match="lists 10 files, of which 1 are not there"):
        read_volume(medium / "DICOMDIR")


def test_other_folders_and_files_are_not_dicom(tmp_path):
    assert not is_dicom(tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"x" * 400))
    write(slices(head(SMALL)), tmp_path / "z")
    assert not is_dicom(tmp_path)  # a data set that has its sources beside it
    assert not is_dicom(tmp_path / "a.nii.gz")
    assert not is_dicom(tmp_path / "missing")


def turn(datasets):
    datasets[4].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def shift(datasets):
    datasets[4].ImagePositionPatient[0] += 3


def unevenly(datasets):
    for k, ds in enumerate(datasets):
        ds.ImagePositionPatient[2] += 0.1 * k * k


def other_size(datasets):
    datasets[4].Rows = 7


def same_place(datasets):
    datasets[4].ImagePositionPatient = datasets[5].ImagePositionPatient


def colour(datasets):
    for ds in datasets:
        ds.PhotometricInterpretation = "RGB"


def nowhere(datasets):
    for ds in datasets:
        del ds.ImagePositionPatient


def cut_short(datasets):
    datasets[4].PixelData = datasets[4].PixelData[:100]


def not_a_number(datasets):
    for ds in datasets:
        ds.RescaleSlope, ds.RescaleIntercept = 0, 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:4] + d[6:], r"about 2 of its slices are missing \(the first gap is 6 mm behind slice 4 of 8"),
        (lambda d: d[:1], "has images of one place only"),
        (turn, "its slices lie in 2 orientations"),
        (shift, "its slices do not lie in one line"),
        (unevenly, r"its slices are 2.1 to 3.7 mm apart"),
        (other_size, "its images are of different sizes"),
        (same_place, "about 1 of its slices is missing"),
        (colour, "its images are in colour"),
        (nowhere, "its images say nothing of their place in space"),
        (cut_short, r"image \d+ of 10 cannot be read \(ValueError\)"),
        (not_a_number, r"image \d+ of 10 cannot be read \(ValueError\)"),
    ],
)
def test_what_is_wrong_with_a_series_is_told(tmp_path, change, message):
    datasets = slices(head(SMALL))
    write(change(datasets) or datasets, tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_volume(tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(secret in str(caught.value).casefold() for secret in SECRETS)


def test_copies_are_left_out_and_different_images_at_one_place_refused(tmp_path):
    data = head(SMALL)
    folder = write(slices(data), tmp_path / "copied")
    for file in list(folder.iterdir())[:3]:
        shutil.copy(file, folder / f"{file.name}-copy")
    volume = read_volume(folder)
    assert np.array_equal(volume.data, data)
    assert volume.warnings == ()
    volume = read_volume(write([*slices(data), *slices(data)[:2]], tmp_path / "sent-twice"))
    assert np.array_equal(volume.data, data)
    assert volume.warnings == ("2 of its images are there twice; one of each was used",)
    with pytest.raises(UserError, match="different images lie at the same place"):
        read_volume(write([*slices(data), *slices(data + 1)[:2]], tmp_path / "two"))


def test_volumes_at_one_place_are_told_apart_as_parts(tmp_path):
    data = head(SMALL)
    datasets = []
    for echo, time in ((1, 30.0), (2, 80.0)):
        for ds in slices(data * echo, number=7):
            ds.EchoNumbers, ds.EchoTime = echo, time
            datasets.append(ds)
    write(datasets, tmp_path)
    found = find_series(tmp_path)
    assert [(s.label, s.note) for s in found] == [
        ("7.1", "EchoNumbers 1, EchoTime 30.0"),
        ("7.2", "EchoNumbers 2, EchoTime 80.0"),
    ]
    assert np.array_equal(read_dicom(tmp_path, ["7.2"]).data, data * 2)
    with pytest.raises(UserError, match=r"2 series fit \(7.1, 7.2\)"):
        read_dicom(tmp_path, ["7"])


def test_series_are_chosen_by_number_uid_or_description(tmp_path):
    data = head(SMALL)
    write(slices(data, number=3, description="T1 MPRAGE sag"), tmp_path)
    write(slices(data + 1, number=5, description="FLAIR"), tmp_path)
    scout = slices(data[:, :, :3], number=1, description="scout")
    for ds in scout:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(scout, tmp_path)
    found = find_series(tmp_path)
    assert [(s.label, s.problem) for s in found] == [("1", "it is a localizer"), ("3", None), ("5", None)]
    assert found[1].layout == "12 x 14 x 10, 2 x 2 x 2 mm"
    for wanted in ("3", "1.2.3.1.3", "*mprage*"):
        assert np.array_equal(read_dicom(tmp_path, [wanted]).data, data)
    with pytest.raises(UserError, match=r"has 2 series that are volumes; choose with --series \(3, 5, or all\)"):
        read_volume(tmp_path)
    with pytest.raises(UserError, match="has no series '4'"):
        read_dicom(tmp_path, ["4"])
    with pytest.raises(UserError, match="series 1: it is a localizer"):
        read_dicom(tmp_path, ["1"])


@pytest.mark.parametrize("kind", ["", "_RLE", "_jp2klossless", "_jpeg_ls_lossless"])
def test_compressed_slices_are_read(tmp_path, kind):
    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    for k in range(8):
        ds = pydicom.dcmread(get_testdata_file(f"MR_small{kind}.dcm"))
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * k]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{k}"
        ds.save_as(tmp_path / f"{k}.dcm")
    volume = read_volume(tmp_path)
    assert all(np.array_equal(volume.data[:, :, k].T, expected) for k in range(8))


def test_a_compressed_multi_frame_file_is_read(tmp_path):
    data = head(SMALL)
    ds = enhanced(data)
    ds.compress(RLELossless)
    write([ds], tmp_path)
    assert np.array_equal(read_volume(tmp_path).data, data)
