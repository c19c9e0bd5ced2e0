import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from grids import ORIENTATIONS, SHAPE, make_affine
from voxseg.data import segmentation
from voxseg.data.labels import LabelTable
from voxseg.data.segmentation import read_label_names, write_segmentation
from voxseg.data.staging import staged
from voxseg.data.volume import read_volume
from voxseg.errors import UserError

TABLE = LabelTable.freesurfer().select([2, 3, 17, 28])
GEOMETRY_BYTES = [(40, 56), (76, 108), (123, 124), (252, 328)]  # dim, pixdim, xyzt_units, qform and sform


def scan_array():
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)


def label_array(dtype=np.uint8):
    return np.random.default_rng(1).choice(np.array([0, 2, 3, 17, 28], dtype=dtype), SHAPE)


def save_scan(path, affine, sform=2, qform=1, units=10, data=None):
    image = nib.Nifti1Image(scan_array() if data is None else data, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header["xyzt_units"] = units
    image.header["descrip"] = b"Jane Doe 1970"
    image.header["aux_file"] = b"jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"Jane Doe"))
    nib.save(image, path)
    return path


def unpacked(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.name.endswith(".gz") else data


def assert_same_geometry_bytes(path, scan_path):
    written, given = unpacked(path), unpacked(scan_path)
    for start, stop in GEOMETRY_BYTES:
        assert written[start:stop] == given[start:stop], start


@pytest.mark.parametrize("turn", ["straight", "steep"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_geometry_is_copied_bit_for_bit(tmp_path, orientation, turn):
    path = save_scan(tmp_path / "scan.nii", make_affine(orientation, turn, "anisotropic"))
    scan = read_volume(path)
    write_segmentation(tmp_path / "seg.nii.gz", label_array(), TABLE, scan)
    assert_same_geometry_bytes(tmp_path / "seg.nii.gz", path)
    image = nib.load(tmp_path / "seg.nii.gz")
    assert np.array_equal(image.affine, nib.load(path).affine)
    assert np.array_equal(np.asanyarray(image.dataobj), label_array())
    # A second reader agrees.
    ours, theirs = sitk.ReadImage(str(tmp_path / "seg.nii.gz")), sitk.ReadImage(str(path))
    for field in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(ours, field)() == getattr(theirs, field)()
    assert np.array_equal(sitk.GetArrayFromImage(ours).T, label_array())


@pytest.mark.parametrize(("sform", "qform"), [(0, 0), (1, 0), (0, 1), (4, 2), (2, 1)])
@pytest.mark.parametrize("units", [0, 2, 10])
def test_codes_and_units_are_copied(tmp_path, sform, qform, units):
    path = save_scan(tmp_path / "scan.nii.gz", make_affine("LIA", "oblique"), sform, qform, units)
    write_segmentation(tmp_path / "seg.nii.gz", label_array(), TABLE, read_volume(path))
    assert_same_geometry_bytes(tmp_path / "seg.nii.gz", path)


def test_disagreeing_forms_and_shear_are_copied(tmp_path):
    image = nib.Nifti1Image(scan_array(), make_affine("LAS", "oblique", shear=12))
    image.set_qform(make_affine("RAS", "steep", "anisotropic"), 1)
    image.header["pixdim"][1:4] = [1, 2, 3]
    nib.save(image, tmp_path / "scan.nii")
    write_segmentation(tmp_path / "seg.nii", label_array(), TABLE, read_volume(tmp_path / "scan.nii"))
    assert_same_geometry_bytes(tmp_path / "seg.nii", tmp_path / "scan.nii")


def test_further_axes_are_kept(tmp_path):
    path = save_scan(tmp_path / "scan.nii", make_affine(), data=scan_array()[..., None])
    write_segmentation(tmp_path / "seg.nii.gz", label_array(), TABLE, read_volume(path))
    assert nib.load(tmp_path / "seg.nii.gz").shape == (*SHAPE, 1)
    assert_same_geometry_bytes(tmp_path / "seg.nii.gz", path)


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_types(tmp_path, dtype, image_class, endianness):
    header = image_class.header_class(endianness=endianness)
    nib.save(image_class(scan_array(), make_affine("PSR"), header), tmp_path / "scan.nii")
    write_segmentation(tmp_path / "seg.nii", label_array(dtype), TABLE, read_volume(tmp_path / "scan.nii"))
    image = nib.load(tmp_path / "seg.nii")
    assert isinstance(image, image_class)
    assert image.get_data_dtype().newbyteorder("=") == np.dtype(dtype)
    with open(tmp_path / "seg.nii", "rb") as file:  # nibabel hides the fields of loaded images
        raw = image_class.header_class.from_fileobj(file)
    assert (raw["scl_slope"], raw["scl_inter"]) == (1, 0)
    assert np.array_equal(np.asanyarray(image.dataobj), label_array())
    assert nib.load(tmp_path / "scan.nii").header.endianness == image.header.endianness


@pytest.mark.parametrize("suffix", [".mgz", ".nrrd", ".mha"])
@pytest.mark.parametrize("orientation", ["RAS", "LIA", "PSR"])
def test_other_formats_become_nifti_in_their_grid(tmp_path, suffix, orientation):
    affine = make_affine(orientation, "oblique", "anisotropic")
    nifti = save_scan(tmp_path / "scan.nii", affine)
    path = tmp_path / f"scan{suffix}"
    if suffix == ".mgz":
        nib.save(nib.MGHImage(scan_array(), affine), path)
    else:
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    write_segmentation(tmp_path / "seg.nii.gz", label_array(), TABLE, read_volume(path))
    image = nib.load(tmp_path / "seg.nii.gz")
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert np.allclose(image.get_qform(), affine, atol=1e-3)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    ours, theirs = sitk.ReadImage(str(tmp_path / "seg.nii.gz")), sitk.ReadImage(str(nifti))
    assert np.allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-3)
    assert np.allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-4)


def test_sheared_grids_of_other_formats_have_no_qform(tmp_path):
    affine = make_affine("LAS", shear=10)
    nib.save(nib.MGHImage(scan_array(), make_affine("LAS")), tmp_path / "scan.mgz")
    scan = read_volume(tmp_path / "scan.mgz")
    from dataclasses import replace

    from voxseg.data.geometry import Geometry

    write_segmentation(tmp_path / "seg.nii", label_array(), TABLE, replace(scan, geometry=Geometry(SHAPE, affine)))
    image = nib.load(tmp_path / "seg.nii")
    assert np.allclose(image.affine, affine, atol=1e-5)
    assert int(image.header["qform_code"]) == 0


def test_names_travel_and_patient_text_does_not(tmp_path):
    path = save_scan(tmp_path / "scan.nii.gz", make_affine())
    write_segmentation(tmp_path / "seg.nii.gz", label_array(), TABLE, read_volume(path), "voxseg 0.1.0, brain")
    image = nib.load(tmp_path / "seg.nii.gz")
    assert read_label_names(image.header) == dict(zip(TABLE.ids, TABLE.names, strict=True))
    assert [extension.get_code() for extension in image.header.extensions] == [0, 30]
    assert bytes(image.header["descrip"]).startswith(b"voxseg 0.1.0, brain")
    content = unpacked(tmp_path / "seg.nii.gz")
    assert b"Jane" not in content
    assert b"jane" not in content
    assert read_label_names(nib.load(path).header) == {}
    # What was written is a label map, and reading it as a scan is refused.
    with pytest.raises(UserError, match="is a segmentation"):
        read_volume(tmp_path / "seg.nii.gz")


def test_equal_results_are_equal_files(tmp_path):
    scan = read_volume(save_scan(tmp_path / "scan.nii.gz", make_affine()))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_segmentation(tmp_path / name, label_array(), TABLE, scan)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_file_that_reads_back_differently_is_an_error(tmp_path, monkeypatch):
    scan = read_volume(save_scan(tmp_path / "scan.nii", make_affine()))
    other = TABLE.select([2, 3])
    extension = segmentation.label_extension(other)
    monkeypatch.setattr(segmentation, "label_extension", lambda table: extension)
    with pytest.raises(OSError, match="label names"):
        write_segmentation(tmp_path / "seg.nii", label_array(), TABLE, scan)
    with pytest.raises(ValueError, match="shape"):
        write_segmentation(tmp_path / "seg.nii", label_array()[1:], TABLE, scan)


def test_staged_files_appear_together(tmp_path):
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.tsv"
    second.write_text("old")
    with staged(first, second) as (one, two):
        assert one.name.endswith(".nii.gz")
        one.write_text("1")
        two.write_text("2")
        assert not first.exists()
        assert second.read_text() == "old"
    assert first.read_text() == "1"
    assert second.read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.tsv"]


def fail_half_way(target, error):
    with staged(target) as (one,):
        one.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_staged_files_leave_nothing_behind(tmp_path, error):
    target = tmp_path / "a.nii.gz"
    target.write_text("old")
    with pytest.raises(error):
        fail_half_way(target, error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert target.read_text() == "old"


def test_a_full_disk_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="No space left"):
        fail_half_way(tmp_path / "a.tsv", OSError(28, "No space left on device"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot be written"):
        fail_half_way(tmp_path / "missing" / "a.tsv", ValueError)
