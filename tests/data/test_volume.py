import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from voxseg.data.geometry import Geometry
from voxseg.data.paths import scan_name
from voxseg.data.volume import read_volume
from voxseg.errors import UserError

SHAPE = (9, 10, 12)


def array(dtype=np.int16):
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


def affine():
    result = np.diag([-0.9, 1.1, 2.0, 1.0])
    result[0, 1] = 0.2
    result[1, 0] = 0.9 * 0.2 / 1.1
    result[:3, 3] = [40, -20, 7]
    return result


def save(path, data, header=None, **fields):
    image = nib.Nifti1Image(data, affine(), header)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_nibabel_formats(tmp_path, suffix, dtype):
    path = tmp_path / f"scan{suffix}"
    image_class = nib.Nifti1Image if "nii" in suffix else nib.MGHImage
    nib.save(image_class(array(dtype), affine()), path)
    volume = read_volume(path)
    assert np.array_equal(volume.data, array())
    assert volume.data.dtype == np.dtype(dtype)
    assert np.allclose(volume.geometry.affine, affine(), atol=1e-5)
    assert (volume.header is not None) == ("nii" in suffix)
    assert volume.name == "scan"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_itk_formats_lie_where_the_nifti_lies(tmp_path, suffix, dtype):
    nifti = save(tmp_path / "scan.nii.gz", array(dtype))
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    volume, reference = read_volume(path), read_volume(nifti)
    assert np.array_equal(volume.data, reference.data)
    assert volume.data.dtype == np.dtype(dtype)
    assert volume.geometry.displacement(reference.geometry) < 1e-3
    assert volume.header is None


def test_scaling_is_applied(tmp_path):
    path = tmp_path / "scan.nii"
    image = nib.Nifti1Image(array(), affine())
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, path)
    # nibabel rescales on saving; write the numbers as they are and patch the two fields instead
    raw = bytearray(save(path, array()).read_bytes())
    raw[112:120] = struct.pack("<ff", 0.5, -3)
    path.write_bytes(raw)
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, array() * 0.5 - 3)


@pytest.mark.parametrize("dtype", [np.float64, ">i2", ">f4", np.uint16, np.int64])
def test_any_real_type_is_read_in_native_order(tmp_path, dtype):
    header = nib.Nifti1Header(endianness=">" if str(dtype).startswith(">") else "<")
    header.set_data_dtype(dtype)
    data = array(np.dtype(dtype).newbyteorder("="))
    volume = read_volume(save(tmp_path / "scan.nii.gz", data, header))
    assert volume.data.dtype.isnative
    assert volume.data.dtype == (np.float32 if np.dtype(dtype).kind == "f" else np.dtype(dtype).newbyteorder("="))
    assert np.array_equal(volume.data, array())


def test_last_axis_of_one_is_dropped(tmp_path):
    volume = read_volume(save(tmp_path / "scan.nii.gz", array()[..., None]))
    assert volume.data.shape == SHAPE
    assert volume.file_shape == (*SHAPE, 1)
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(sitk.JoinSeries(sitk.GetImageFromArray(array())), str(path))
    assert read_volume(path).data.shape == SHAPE[::-1]


def test_nifti_2(tmp_path):
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti2Image(array(), affine()), path)
    volume = read_volume(path)
    assert isinstance(volume.header, nib.Nifti2Header)
    assert volume.geometry == Geometry(SHAPE, volume.header.get_best_affine())


def test_names():
    from pathlib import Path

    names = ["a/b.nii.gz", "b.nii", "b.NII.GZ", "b.mgz", "b.nrrd", "b.mha"]
    assert {scan_name(Path(name)) for name in names} == {"b"}
    assert scan_name(Path("sub-01.v2.nii.gz")) == "sub-01.v2"


# --- what is refused ---------------------------------------------------------------------------------------------


def missing(folder):
    return folder / "scan.nii.gz"


def a_folder(folder):
    (folder / "scans").mkdir()
    return folder / "scans"


def empty(folder):
    (folder / "scan.nii.gz").touch()
    return folder / "scan.nii.gz"


def text(folder):
    (folder / "scan.txt").write_text("hello")
    return folder / "scan.txt"


def text_named_nifti(folder):
    (folder / "scan.nii").write_text("hello " * 200)
    return folder / "scan.nii"


def not_gzip(folder):
    path = folder / "scan.nii.gz"
    path.write_bytes(save(folder / "plain.nii", array()).read_bytes())
    return path


def cut_gzip(folder):
    path = save(folder / "scan.nii.gz", array())
    path.write_bytes(path.read_bytes()[:-300])
    return path


def cut_gzip_in_the_header(folder):
    path = save(folder / "scan.nii.gz", array())
    path.write_bytes(path.read_bytes()[:40])
    return path


def damaged_gzip(folder):
    path = save(folder / "scan.nii.gz", np.random.default_rng(0).random(SHAPE))
    raw = bytearray(path.read_bytes())
    raw[3000:3200] = b"\xff" * 200
    path.write_bytes(raw)
    return path


def cut(folder):
    path = save(folder / "scan.nii", array())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def cut_mgz(folder):
    path = folder / "scan.mgz"
    nib.save(nib.MGHImage(array(), affine()), path)
    path.write_bytes(path.read_bytes()[:-300])
    return path


def cut_nrrd(folder):
    path = folder / "scan.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array()), str(path))
    path.write_bytes(path.read_bytes()[:-300])
    return path


def damaged_mha(folder):
    path = folder / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(array()), str(path))
    path.write_bytes(path.read_bytes().replace(b"DimSize", b"DimSzie"))
    return path


def cut_mha(folder):
    path = folder / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(array()), str(path))
    path.write_bytes(path.read_bytes()[:-300])
    return path


def text_named_mha(folder):
    (folder / "scan.mha").write_text("hello " * 200)
    return folder / "scan.mha"


def greedy_header(folder):
    path = folder / "scan.nii.gz"
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.float64)
    path.write_bytes(gzip.compress(header.binaryblock + bytes(2000)))
    return path


def two_dimensional(folder):
    return save(folder / "scan.nii.gz", array()[0])


def four_dimensional(folder):
    return save(folder / "scan.nii.gz", np.stack([array()] * 3, axis=-1))


def four_dimensional_nrrd(folder):
    path = folder / "scan.nrrd"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(array())] * 3), str(path))
    return path


def complex_numbers(folder):
    return save(folder / "scan.nii.gz", array(np.complex64))


def complex_mha(folder):
    path = folder / "scan.mha"
    image = sitk.GetImageFromArray(array(np.float32))
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(image, image), str(path))
    return path


def colour(folder):
    data = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(folder / "scan.nii.gz", data)


def colour_nrrd(folder):
    path = folder / "scan.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([array(np.uint8)] * 3, axis=-1), isVector=True), str(path))
    return path


def constant(folder):
    return save(folder / "scan.nii.gz", np.full(SHAPE, 7, dtype=np.int16))


def not_a_number(folder):
    data = array(np.float32)
    data[2, 3, 4:6] = np.nan
    return save(folder / "scan.nii.gz", data)


def infinite(folder):
    data = array(np.float32)
    data[2, 3, 4] = np.inf
    return save(folder / "scan.nii.gz", data)


def too_large_for_float32(folder):
    data = array(np.float64)
    data[2, 3, 4] = 1e300
    return save(folder / "scan.nii.gz", data)


def label_map(folder):
    return save(folder / "scan.nii.gz", array(np.uint8), intent_code=1002)


def tiny(folder):
    return save(folder / "scan.nii.gz", array()[:, :2])


def zero_spacing(folder):
    path = save(folder / "scan.nii", array(), sform_code=2)
    raw = bytearray(path.read_bytes())
    raw[312:328] = bytes(16)  # srow_z
    raw[280:296] = struct.pack("<4f", 1, 0, 0, 0)
    raw[296:312] = struct.pack("<4f", 0, 1, 0, 0)
    path.write_bytes(raw)
    return path


def singular(folder):
    path = zero_spacing(folder)
    raw = bytearray(path.read_bytes())
    raw[280:296] = struct.pack("<4f", 1, 1, 1, 0)
    path.write_bytes(raw)
    return path


def absurd_spacing(folder):
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array(), np.diag([1e4, 1e4, 1e4, 1])), path)
    return path


def not_finite_affine(folder):
    path = save(folder / "scan.nii", array(), sform_code=2)
    raw = bytearray(path.read_bytes())
    raw[280:284] = struct.pack("<f", np.nan)
    path.write_bytes(raw)
    return path


REFUSED = {
    missing: "does not exist",
    a_folder: "is a folder",
    empty: "is an empty file",
    text: "not in a format",
    text_named_nifti: "cannot be read as an image",
    not_gzip: "cannot be read as an image",
    cut_gzip: "cut short",
    cut_gzip_in_the_header: "cut short|cannot be read as an image",
    damaged_gzip: "cut short or damaged|cannot be read as an image",
    cut: "cut short",
    cut_mgz: "cut short",
    cut_nrrd: "cannot be read as an image",
    damaged_mha: "cannot be read as an image",
    cut_mha: "cannot be read as an image",
    text_named_mha: "cannot be read as an image",
    greedy_header: "cut short or damaged",
    two_dimensional: "2-D",
    four_dimensional: "4-D",
    four_dimensional_nrrd: "4-D",
    complex_numbers: "complex",
    complex_mha: "complex",
    colour: "RGB",
    colour_nrrd: "3 values a voxel",
    constant: "every voxel is 7",
    not_a_number: "2 of its voxels are not finite",
    infinite: "1 of its voxels are not finite",
    too_large_for_float32: "not finite",
    label_map: "is a segmentation",
    tiny: "too small",
    zero_spacing: "spacing is 1 x 1 x 0 mm",
    singular: "singular",
    absurd_spacing: "spacing is 1e\\+04",
    not_finite_affine: "not finite",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_refused(tmp_path, make, capfd):
    path = make(tmp_path)
    with pytest.raises(UserError, match=REFUSED[make]) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message
    assert "\n" not in message
    assert len(message) < len(str(path)) * 2 + 350
    captured = capfd.readouterr()
    assert not captured.out
    assert not captured.err
