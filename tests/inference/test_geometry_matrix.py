"""Scans of every kind of header, all the way: the output's header is the input's, and structures lie where they are.

The scan shows three balls of known size at known places in the world. The network in this test finds them and tells
them by their size, so that a result is right only if every step from the file to the labels and back is.
"""

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy import ndimage

from grids import ORIENTATIONS, make_affine
from models import IDS, write_model
from voxseg.data.segmentation import write_segmentation
from voxseg.data.volume import read_volume
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor

EXTENT = 44.0  # mm that the scan is long on each axis, about
BALLS = {IDS[0]: ((9, 8, -7), 5.0), IDS[1]: ((-9, 4, 8), 7.0), IDS[2]: ((2, -10, -1), 9.0)}
"""Centre from that of the scan, and radius, mm, of each label; the table has them in this order."""

FORMS = {  # sform code, qform code, whether the two place the scan alike
    "both": (1, 1, True),
    "sform": (2, 0, True),
    "qform": (0, 1, True),
    "disagree": (2, 1, False),
    "scanner": (1, 2, False),
}
GEOMETRY_BYTES = [(40, 56), (76, 108), (123, 124), (252, 328)]  # dim, pixdim, xyzt_units, qform and sform


class BySize(torch.nn.Module):
    """Connected pieces of bright voxels; the k-th smallest is class k."""

    bytes_per_voxel = 64

    def forward(self, x, deep_supervision=False):
        pieces, count = ndimage.label(x[0, 0].numpy() > 0.5)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        rank = np.zeros(count + 1, dtype=int)
        rank[1 + np.argsort(sizes)] = range(1, count + 1)
        classes = torch.from_numpy(rank[pieces]).clamp(max=len(IDS))
        return 20 * torch.nn.functional.one_hot(classes, len(IDS) + 1).movedim(-1, 0)[None].float()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = write_model(
        tmp_path_factory.mktemp("models") / "tiny",
        preparation={
            "spacing": 2.0,
            "crop": False,
            "images": {"image": {"scale": "window", "low": 0.0, "high": 1000.0}},
        },
        postprocessing={"largest_component": False},
    )
    return Predictor(replace(load_model(folder), network=BySize()), "cpu")


def scan_of(orientation, turn, spacing, shear, form):
    """A scan with the balls in it, and where they are: by the sform where it has a code, else by the qform."""
    sform, qform, alike = FORMS[form]
    affine = make_affine(orientation, turn, spacing, shear)
    shape = np.round(EXTENT / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    affine[:3, 3] -= affine[:3, :3] @ ((shape - 1) / 2)
    image = nib.Nifti1Image(np.zeros(shape, dtype=np.int16), affine)
    other = affine if alike else make_affine(orientation, "steep", spacing) @ np.diag([1, 1, 1, 1.0])
    image.set_sform(affine, sform)
    image.set_qform(other, qform)
    image.header.set_xyzt_units("mm", "sec")
    taken = image.header.get_best_affine()
    places = np.moveaxis(np.indices(shape), 0, -1) @ taken[:3, :3].T + taken[:3, 3]
    middle = taken[:3, :3] @ ((shape - 1) / 2) + taken[:3, 3]
    data = np.zeros(shape, dtype=np.int16)
    for centre, radius in BALLS.values():
        data[np.linalg.norm(places - middle - centre, axis=-1) < radius] = 1000
    return nib.Nifti1Image(data, None, image.header), middle


def centroids(data, to_world):
    return {i: np.array(to_world(np.argwhere(data == i).mean(0))) for i in IDS}


def check(folder, predictor, orientation, turn="straight", spacing="isotropic", shear=0.0, form="both"):
    image, middle = scan_of(orientation, turn, spacing, shear, form)
    scan, result = folder / "scan.nii", folder / "seg.nii"
    nib.save(image, scan)
    volume = read_volume(scan)
    segmentation = predictor.segment(volume)
    write_segmentation(result, segmentation.labels, segmentation.table, volume)
    given, written = scan.read_bytes(), result.read_bytes()
    for start, stop in GEOMETRY_BYTES:
        assert written[start:stop] == given[start:stop], start
    labels = nib.load(result)
    assert np.array_equal(labels.affine, nib.load(scan).affine)
    data = np.asanyarray(labels.dataobj)
    found = centroids(data, lambda index: labels.affine[:3, :3] @ index + labels.affine[:3, 3])
    coarse = max(np.linalg.norm(labels.affine[:3, :3], axis=0))
    for i, (centre, radius) in BALLS.items():
        assert np.linalg.norm(found[i] - middle - centre) < 0.3 + 0.25 * coarse, i
        volume_of = (data == i).sum() * abs(np.linalg.det(labels.affine[:3, :3]))
        assert 0.6 < volume_of / (4 / 3 * np.pi * radius**3) < 1.5, i
    return volume, scan, result, found


def agree_with_itk(scan, result, found):
    """SimpleITK sees the result in the scan's grid, and each structure where nibabel does; None for what it sees."""
    ours, theirs = sitk.ReadImage(str(result)), sitk.ReadImage(str(scan))
    for field in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(ours, field)() == getattr(theirs, field)()
    data = sitk.GetArrayFromImage(ours).T

    def to_world(index):
        return np.array(ours.TransformContinuousIndexToPhysicalPoint(index.tolist())) * [-1, -1, 1]

    seen = centroids(data, to_world)
    return max(np.linalg.norm(seen[i] - found[i]) for i in IDS)


# Every orientation, with all else in turn so that each two kinds meet several times.
KINDS = list(itertools.product(("straight", "oblique"), ("isotropic", "anisotropic"), (0.0, 10.0), FORMS))
SOME = [(orientation, *KINDS[(7 * k) % len(KINDS)]) for k, orientation in enumerate(ORIENTATIONS)]
ALL = [(orientation, *kind) for orientation in ORIENTATIONS for kind in KINDS]


def run(folder, predictor, orientation, turn, spacing, shear, form):
    volume, scan, result, found = check(folder, predictor, orientation, turn, spacing, shear, form)
    sform, qform, alike = FORMS[form]
    if sform and not qform and shear:
        # ITK cannot hold a shear, and there is no other place to take.
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(result))
        assert "sheared by" in volume.warnings[0]
    elif sform and qform and (shear or not alike):
        # ITK takes the qform, unless the sform is the scanner's and straight: of scan and result alike.
        away = agree_with_itk(scan, result, found)
        assert (away < 1e-3) == (sform == 1 and not shear)
        assert "sform and qform in its header lie up to" in volume.warnings[0]
    else:
        assert agree_with_itk(scan, result, found) < 1e-3
        assert volume.warnings == ()


def test_the_kinds_that_are_always_tested_hold_every_pair():
    assert {case[0] for case in SOME} == set(ORIENTATIONS)
    for a, b in itertools.combinations(range(1, 5), 2):
        assert {(case[a], case[b]) for case in SOME} == {(kind[a - 1], kind[b - 1]) for kind in KINDS}


@pytest.mark.parametrize("case", SOME, ids=lambda case: "-".join(map(str, case)))
def test_every_orientation(tmp_path, predictor, capfd, case):
    run(tmp_path, predictor, *case)


@pytest.mark.slow
def test_every_kind_of_header_in_every_orientation(tmp_path, predictor):
    for case in ALL:
        run(tmp_path, predictor, *case)


def test_no_form_at_all(tmp_path, predictor):
    """Nibabel then puts the middle of the scan at the origin, x to the left as Analyze has it."""
    image, _ = scan_of("RAS", "straight", "isotropic", 0.0, "both")
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    write_segmentation(tmp_path / "seg.nii", predictor.segment(volume).labels, predictor.model.table, volume)
    written, given = (tmp_path / "seg.nii").read_bytes(), (tmp_path / "scan.nii").read_bytes()
    assert all(written[start:stop] == given[start:stop] for start, stop in GEOMETRY_BYTES)
    assert np.array_equal(nib.load(tmp_path / "seg.nii").affine, nib.load(tmp_path / "scan.nii").affine)
