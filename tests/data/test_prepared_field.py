"""Targets on the working grid: the same patient stored in any way, turned by grid rotations, and by any angle."""

import nibabel as nib
import numpy as np
import pytest
import torch
from field_cases import PATTERNS, centred, phantom, write_case, write_dataset
from scipy.spatial.transform import Rotation

from voxseg.data.datasets.case import Case, Dataset, ImageFile
from voxseg.data.datasets.find import find_dataset
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import PreparationConfig
from voxseg.data.prepared_field import check_field_case, field_cases, prepare_field_case, resample_field
from voxseg.errors import UserError
from voxseg.testing import grid_rotations, rotate_field

WHOLE = PreparationConfig(spacing=1.0, crop=False)
TARGETS = {kind: FieldTarget(kind=kind) for kind in ("scalar", "vector", "axis", "tensor")}
OBLIQUE = Rotation.from_euler("xyz", (12, -20, 9), degrees=True).as_matrix()


def case(folder, **images):
    names = images or {"image": "image", "target": "target", "mask": "mask"}
    return Case("c", {name: ImageFile(folder / f"{file}.nii.gz") for name, file in names.items()}, None, "c")


def prepared(folder, kind, preparation=WHOLE):
    return prepare_field_case(case(folder), preparation, TARGETS[kind])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_patient_stored_in_any_of_48_ways_is_the_same_on_the_working_grid(tmp_path, kind):
    shape = np.array([10, 12, 14])
    expected = None
    for number, rotation in enumerate(grid_rotations(improper=True)[:: 1 if kind == "tensor" else 5]):
        axes = rotation.numpy()
        x, y, z = (np.abs(axes).T @ shape).astype(int)
        write_case(tmp_path / str(number), 3, centred((x, y, z), axes), kind)
        image, fields, known, grid = prepared(tmp_path / str(number), kind)
        assert grid.shape == tuple(shape)
        expected = expected or (image.numpy(), fields, known)
        for found, wanted in zip((image.numpy(), fields, known), expected, strict=True):
            assert np.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_patient_turned_by_24_rotations_has_the_turned_target(tmp_path, kind):
    shape = (14, 14, 14)
    write_case(tmp_path / "upright", 4, centred(shape), kind)
    upright = torch.from_numpy(prepared(tmp_path / "upright", kind)[1])[None].double()
    for number, rotation in enumerate(grid_rotations()[:: 1 if kind == "vector" else 4]):
        write_case(tmp_path / str(number), 4, centred(shape), kind, rotation.numpy())
        fields = torch.from_numpy(prepared(tmp_path / str(number), kind)[1])[None].double()
        assert torch.allclose(fields, rotate_field(upright, rotation, TARGETS[kind].field), atol=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
def test_an_oblique_grid_tells_components_in_its_own_axes(tmp_path, kind):
    """A scan turned together with its patient is the upright scan."""
    shape = (12, 14, 16)
    write_case(tmp_path / "upright", 5, centred(shape), kind)
    write_case(tmp_path / "oblique", 5, centred(shape, OBLIQUE), kind, OBLIQUE)
    one, other = prepared(tmp_path / "upright", kind), prepared(tmp_path / "oblique", kind)
    assert not np.allclose(one[3].rigid_axes, other[3].rigid_axes, atol=0.1)
    assert np.allclose(one[1], other[1], atol=1e-5)


@pytest.mark.parametrize(("kind", "bound"), [("scalar", 0.05), ("vector", 0.08), ("tensor", 0.14)])
def test_another_spacing_and_an_oblique_grid_keep_to_the_true_field(tmp_path, kind, bound):
    stored = centred((26, 22, 18), OBLIQUE @ np.diag([0.9, 1.1, 1.3]))
    write_case(tmp_path / "c", 6, stored, kind)
    _, fields, known, grid = prepared(tmp_path / "c", kind)
    true = phantom(6, grid)
    values = {"scalar": true[0][..., None], "vector": true[1]}.get(kind)
    if values is None:
        values = np.stack([true[2][..., i, j] for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))], -1)
    target = TARGETS[kind]
    expected = target.turned(target.encode(values), grid.rigid_axes.T)
    inside = known.astype(bool)
    assert 0.02 < inside.mean() < 0.9
    error = np.linalg.norm((fields - expected)[:, inside]) / np.linalg.norm(expected[:, inside])
    assert error < bound


def test_a_field_does_not_fade_at_the_edge_of_its_mask():
    source = Geometry((12, 12, 12), np.eye(4))
    mask = np.zeros(source.shape, dtype=bool)
    mask[3:9, 3:9, 3:9] = True
    fields = np.where(mask, 2.0, 0.0)[None].astype(np.float32)
    affine = np.eye(4) * 0.7
    affine[3, 3] = 1
    found, known = resample_field(fields, mask, source, Geometry((16, 16, 16), affine))
    assert known.any()
    assert np.allclose(found[0][known], 2)
    assert not found[0][~known].any()


def mistakes(tmp_path):
    geometry = centred((12, 12, 12))
    write_case(tmp_path / "c", 0, geometry)
    folder = tmp_path / "c"
    away = geometry.affine.copy()
    away[:3, 3] += 500
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12, 1, 3), dtype=np.float32), away), folder / "away.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((12, 12, 11), dtype=np.uint8), geometry.affine), folder / "short.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"image": "image", "target": "away"}, "away.nii.gz: shows another place than image.nii.gz"),
        ({"image": "image", "target": "gone"}, "gone.nii.gz: does not exist"),
        ({"image": "image", "target": "image"}, "has 1 components a voxel"),
        ({"image": "image", "target": "target", "mask": "short"}, "is not on the grid of its target target.nii.gz"),
        ({"target": "target"}, "has no image 'image'"),
    ],
)
def test_mistakes_are_told_from_the_headers(tmp_path, images, said):
    with pytest.raises(UserError, match=said):
        check_field_case(case(mistakes(tmp_path), **images), WHOLE, TARGETS["vector"])


def test_cases_are_found_by_patterns_and_in_a_table(tmp_path):
    write_dataset(tmp_path / "data", 2, shape=(8, 8, 8))
    (tmp_path / "data" / "case_1" / "target.nii.gz").unlink()
    found = field_cases(find_dataset(tmp_path / "data", "patterns", PATTERNS, labels=False))
    assert [one.id for one in found.cases] == ["case_0"]
    assert set(found.cases[0].images) == {"image", "target", "mask"}
    assert "case_1 has no target and is left out" in found.findings[0].text
    rows = "case,image,target,mask\na,case_0/image.nii.gz,case_0/target.nii.gz,case_0/mask.nii.gz\n"
    (tmp_path / "data" / "cases.csv").write_text(rows)
    listed = field_cases(find_dataset(tmp_path / "data", labels=False))
    assert [one.id for one in listed.cases] == ["a"]
    with pytest.raises(UserError, match="has no targets to learn"):
        field_cases(Dataset(tmp_path, "table", (Case("a", {}, None, "a"),)))
