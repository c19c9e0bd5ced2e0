import importlib.util
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.sr.codedict import codes

from dicom_files import CT, enhanced, head, slices, write
from voxseg.data.dicom.segmentation import label_code, write_dicom_picture, write_dicom_segmentation
from voxseg.data.labels import Label, LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.volume import read_volume

SHAPE = (20, 24, 14)
TABLE = LabelTable([*LabelTable.freesurfer().select([2, 49, 24]), Label(900, "Nameless", "#112233")])
S, C = np.sin(0.4), np.cos(0.4)
CASES = {
    "axial": {},
    "negated": {"axes": ((-1, 0, 0), (0, -1, 0))},
    "swapped": {"axes": ((0, 1, 0), (1, 0, 0))},
    "sagittal": {"axes": ((0, 1, 0), (0, 0, -1)), "spacing": (1.0, 1.5, 2.5)},
    "oblique": {"axes": ((C, S, 0), (-S * C, C * C, S)), "spacing": (1.0, 1.5, 2.5)},
    "backwards": {"backwards": True},
    "tilted": {"tilt": 0.7, "spacing": (2.0, 1.0, 3.0), "sop_class": CT},
    "multi-frame": {"order": [*range(5, 14), *range(5)], "axes": ((C, S, 0), (-S * C, C * C, S))},
}


def scan(folder, name):
    """A scan on the disk, and dense classes of it: blocks off the centre, the third label not found."""
    arguments = CASES[name]
    if "order" in arguments:
        write([enhanced(head(SHAPE), **arguments)], folder)
    else:
        write(slices(head(SHAPE), **arguments), folder)
    volume = read_volume(folder)
    classes = np.zeros(volume.data.shape, dtype=np.uint8)
    classes[3:9, 5:8, 2:7] = 1
    classes[12:17, 11:20, 8:9] = 2
    classes[1:3, 1:4, 11:13] = 4
    return volume, classes


def centroid(mask, affine):
    """World mm of the centre of the voxels that are set."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def nifti_centroids(folder, volume, classes):
    """RAS centroid of each label in the NIfTI result, as SimpleITK reads it; and voxels."""
    path = folder / "result.nii.gz"
    write_segmentation(path, TABLE.to_ids(classes), TABLE, volume)
    return itk_centroids(path, {label.id: k for k, label in enumerate(TABLE, start=1)})


def itk_centroids(path, numbers):
    image = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    found = {}
    for value, number in numbers.items():
        if (array == value).any():
            where = centroid(array == value, np.diag([-1, -1, 1, 1]) @ lps)
            found[number] = (where, int((array == value).sum()))
    return found


def assert_same(one, other):
    assert one.keys() == other.keys() == {1, 2, 4}
    for number, (where, count) in one.items():
        assert np.abs(where - other[number][0]).max() < 1e-3
        assert count == other[number][1]


@pytest.mark.parametrize("name", CASES)
def test_labels_lie_where_the_nifti_has_them_for_highdicom(tmp_path, name):
    volume, classes = scan(tmp_path / "scan", name)
    write_dicom_segmentation(tmp_path / "seg.dcm", classes, TABLE, volume)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    read = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    ras = np.diag([-1, -1, 1, 1]) @ read.affine
    found = {k: (centroid(read.array == k, ras), int((read.array == k).sum())) for k in np.unique(read.array)[1:]}
    assert_same(nifti_centroids(tmp_path, volume, classes), found)
    source = volume.dicom.datasets[0]
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert str(seg.PatientName) == str(source.PatientName)
    (referred,) = seg.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    instances = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert instances == {dataset.SOPInstanceUID for dataset in volume.dicom.datasets}


@pytest.mark.parametrize("name", CASES)
def test_labels_lie_where_the_nifti_has_them_for_dcmqi(tmp_path, name):
    found = importlib.util.find_spec("dcmqi")
    if found is None:
        pytest.skip("dcmqi is not installed")
    program = Path(found.origin).parent / "bin" / "segimage2itkimage"
    volume, classes = scan(tmp_path / "scan", name)
    write_dicom_segmentation(tmp_path / "seg.dcm", classes, TABLE, volume)
    command = [program, "--inputDICOM", "seg.dcm", "--outputDirectory", ".", "--outputType", "nii", "--mergeSegments"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (merged,) = set(tmp_path.glob("*.nii*")) - {tmp_path / "result.nii.gz"}
    assert_same(nifti_centroids(tmp_path, volume, classes), itk_centroids(merged, {k: k for k in range(1, 5)}))


def test_segments_have_names_codes_sides_and_colours(tmp_path):
    volume, classes = scan(tmp_path / "scan", "axial")
    write_dicom_segmentation(tmp_path / "seg.dcm", classes, TABLE, volume)
    white, thalamus, fluid, nameless = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert [white.SegmentLabel, nameless.SegmentLabel] == ["Left-Cerebral-White-Matter", "Nameless"]
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in (white, thalamus, fluid, nameless)]
    assert [(k.CodingSchemeDesignator, k.CodeValue) for k in kinds] == [
        ("SCT", "68523003"),
        ("SCT", "42695009"),
        ("SCT", "65216001"),
        ("99VOXSEG", "900"),
    ]
    sides = [k.get("SegmentedPropertyTypeModifierCodeSequence") for k in kinds]
    assert [side and side[0].CodeMeaning for side in sides] == ["Left", "Right", None, None]
    categories = [item.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning for item in (white, fluid, nameless)]
    assert categories == ["Anatomical Structure", "Body Substance", "Tissue"]
    assert hd.color.CIELabColor.from_string("#f5f5f5").value == tuple(white.RecommendedDisplayCIELabValue)


def test_codes_of_the_table_are_those_of_the_dictionary():
    known = {}
    for part in (codes.cid7140, codes.cid7153, codes.cid7159, codes.SCT):
        for name in part.dir():
            code = getattr(part, name)
            known.setdefault((code.scheme_designator, code.value), set()).add(code.meaning.casefold())
    coded = [label for label in LabelTable.freesurfer() if label.code]
    assert len(coded) == len(LabelTable.freesurfer()) - 3  # hypointensities outside white matter have none
    for label in coded:
        scheme, value, meaning = label.code.split(":")
        assert any(meaning.casefold() in name for name in known[scheme, value]), label


def test_merged_labels_have_the_codes_of_their_sides():
    assert label_code(Label(12, "Putamen", "#ec0db0")) == "SCT:89278009:Putamen"
    assert label_code(Label(12, "Something else", "#ec0db0")) == ""


def test_an_empty_segmentation_is_written(tmp_path):
    volume, classes = scan(tmp_path / "scan", "axial")
    write_dicom_segmentation(tmp_path / "seg.dcm", np.zeros_like(classes), TABLE, volume)
    assert not pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.any()


def test_headers_that_lack_what_may_be_empty_are_completed(tmp_path):
    datasets = slices(head(SHAPE))
    for ds in datasets:
        for name in ("PatientBirthDate", "AccessionNumber", "StudyID", "FrameOfReferenceUID", "StudyTime"):
            delattr(ds, name)
        with pytest.warns(UserWarning, match="exceeds the maximum length"):
            ds.PatientSex = "longer than any code string"
    volume = read_volume(write(datasets, tmp_path / "scan"))
    write_dicom_segmentation(tmp_path / "seg.dcm", np.ones(SHAPE, np.uint8), TABLE, volume)
    assert pydicom.dcmread(tmp_path / "seg.dcm").FrameOfReferenceUID


def test_the_picture_is_a_secondary_capture_of_the_study(tmp_path):
    from matplotlib.image import imsave

    volume, _ = scan(tmp_path / "scan", "axial")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    imsave(tmp_path / "a.png", pixels)
    write_dicom_picture(tmp_path / "a.dcm", tmp_path / "a.png", volume)
    capture = pydicom.dcmread(tmp_path / "a.dcm")
    assert np.array_equal(capture.pixel_array, pixels)
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert capture.StudyInstanceUID == volume.dicom.datasets[0].StudyInstanceUID
    assert capture.SeriesInstanceUID != volume.dicom.datasets[0].SeriesInstanceUID
