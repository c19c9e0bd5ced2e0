"""Fields on disk, read by nibabel and SimpleITK as well."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from grids import SHAPE, make_affine
from voxseg.data.field_files import check_field_header, read_field, read_mask, write_field
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume, read_volume
from voxseg.errors import UserError

TARGETS = {
    "scalar": FieldTarget(kind="scalar"),
    "vector": FieldTarget(kind="vector"),
    "axis": FieldTarget(kind="axis"),
    "tensor": FieldTarget(kind="tensor", scale=0.001),
    "irreps": FieldTarget(kind="irreps", irreps="1x0e+1x2o"),
}


def random(target, shape=SHAPE):
    return np.random.default_rng(1).normal(size=(target.field.channels, *shape)).astype(np.float32)


def volume(affine, shape=SHAPE):
    return Volume("scan.mgz", np.zeros(shape), Geometry(shape, affine), None, shape)


def scan_file(path, affine):
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), affine)
    image.header["descrip"] = b"Mrs Example"
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return read_volume(path)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_what_is_written_is_read(tmp_path, name, orientation):
    target, path = TARGETS[name], tmp_path / "field.nii.gz"
    scan = scan_file(tmp_path / "scan.nii.gz", make_affine(orientation, "oblique", "anisotropic"))
    fields = random(target)
    if name == "axis":
        fields = target.encode(target.decode(fields))  # of a tensor only the main axis is written
    write_field(path, fields, target, scan)
    found, geometry = read_field(path, target)
    assert np.allclose(found, fields, atol=1e-5)
    assert geometry == scan.geometry
    header = nib.load(path).header
    for key in ("srow_x", "quatern_b", "sform_code", "qform_code", "xyzt_units"):
        assert header[key].tobytes() == scan.header[key].tobytes()
    assert b"Example" not in bytes(header["descrip"])


@pytest.mark.parametrize(
    ("name", "intent", "shape"),
    [
        ("scalar", 0, SHAPE),
        ("vector", 1007, (*SHAPE, 1, 3)),
        ("tensor", 1005, (*SHAPE, 1, 6)),
        ("irreps", 1007, (*SHAPE, 1, 6)),
    ],
)
def test_intent_and_shape_are_those_of_the_standard(tmp_path, name, intent, shape):
    target, path = TARGETS[name], tmp_path / "field.nii"
    write_field(path, random(target), target, volume(make_affine()))
    image = nib.load(path)
    assert image.shape == shape
    assert int(image.header["intent_code"]) == intent
    assert float(image.header["intent_p1"]) == (3 if intent == 1005 else 0)
    assert bytes(image.header["intent_name"]).rstrip(b"\0") == (b"1x0e+1x2o" if name == "irreps" else b"")
    assert image.header.get_data_dtype() == np.float32


def test_simpleitk_reads_vectors_component_by_component_and_knows_no_tensors(tmp_path):
    target, path = TARGETS["vector"], tmp_path / "vector.nii.gz"
    fields = random(target)
    write_field(path, fields, target, volume(make_affine("LPS", "straight", "anisotropic")))
    image = sitk.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert np.allclose(image.GetSpacing(), (0.7, 1.3, 4.0))
    # The numbers as they are: ITK turns displacements (intent 1006) into its own axes, and not these.
    assert np.allclose(sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3), target.decode(fields))
    # ITK has symmetric tensors, its simplified interface does not.
    write_field(tmp_path / "tensor.nii.gz", random(TARGETS["tensor"]), TARGETS["tensor"], volume(make_affine()))
    with pytest.raises(RuntimeError, match="Unknown PixelType"):
        sitk.ReadImage(str(tmp_path / "tensor.nii.gz"))


def test_a_4d_file_without_intent_is_read_in_the_axes_and_the_order_that_the_config_says(tmp_path):
    path, affine = tmp_path / "tensor.nii.gz", make_affine("LAS", "oblique")
    values = np.random.default_rng(2).normal(size=(*SHAPE, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    fields, geometry = read_field(path, FieldTarget(kind="tensor", order="upper", axes="voxel"))
    told = np.zeros((*SHAPE, 3, 3))
    for k, (i, j) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
        told[..., i, j] = told[..., j, i] = values[..., k]
    world = geometry.axes @ told @ geometry.axes.T
    found = FieldTarget(kind="tensor").decode(fields)
    assert np.allclose(found[..., 1], world[..., 1, 0], atol=1e-5)
    assert np.allclose(found[..., 4], world[..., 2, 1], atol=1e-5)
    assert np.allclose(found[..., 5], world[..., 2, 2], atol=1e-5)


def test_a_file_with_scaled_integers(tmp_path):
    path = tmp_path / "vector.nii.gz"
    image = nib.Nifti1Image(np.full((*SHAPE, 1, 3), 50, dtype=np.int16), make_affine())
    image.header.set_slope_inter(0.1, 1)
    nib.save(image, path)
    assert np.allclose(read_field(path, TARGETS["vector"])[0], nib.load(path).get_fdata().max())


def test_a_mask_hides_what_is_not_finite(tmp_path):
    path, values = tmp_path / "v.nii.gz", np.ones((*SHAPE, 1, 3), dtype=np.float32)
    values[0] = np.nan
    nib.save(nib.Nifti1Image(values, make_affine()), path)
    mask = np.ones(SHAPE, dtype=bool)
    with pytest.raises(UserError, match=r"not finite \(NaN or infinite\) in 120 of its voxels"):
        read_field(path, TARGETS["vector"])
    with pytest.raises(UserError, match="120 of the voxels in the mask"):
        read_field(path, TARGETS["vector"], mask)
    mask[0] = False
    fields, _ = read_field(path, TARGETS["vector"], mask)
    assert not fields[:, 0].any()
    assert (fields[:, 1:] == 1).all()


def test_wrong_files_are_one_line_each(tmp_path):
    target = TARGETS["vector"]
    six = tmp_path / "six.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 1, 6), dtype=np.float32), make_affine()), six)
    with pytest.raises(
        UserError, match=r"six.nii.gz: has 6 components a voxel \(9 x 10 x 12 x 1 x 6\), a vector has 3"
    ):
        check_field_header(six, target)
    with pytest.raises(UserError, match="does not exist"):
        check_field_header(tmp_path / "missing.nii.gz", target)
    with pytest.raises(UserError, match="is no NIfTI file"):
        check_field_header(tmp_path / "field.nrrd", target)
    with pytest.raises(UserError, match="its mask 3 x 3 x 3"):
        read_field(six, TARGETS["tensor"], np.ones((3, 3, 3), dtype=bool))
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), make_affine()), six)
    with pytest.raises(UserError, match="is 0 everywhere"):
        read_mask(six)


def test_a_scan_with_further_axes_of_length_one(tmp_path):
    scan = scan_file(tmp_path / "scan.nii.gz", make_affine())
    scan = replace(scan, file_shape=(*SHAPE, 1))
    write_field(tmp_path / "v.nii.gz", random(TARGETS["vector"]), TARGETS["vector"], scan)
    assert nib.load(tmp_path / "v.nii.gz").shape == (*SHAPE, 1, 3)
