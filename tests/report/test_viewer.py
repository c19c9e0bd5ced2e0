import base64
import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from grids import ORIENTATIONS
from voxseg.data.geometry import Geometry
from voxseg.errors import UserError
from voxseg.report import niivue, viewer
from voxseg.report.viewer import LabelMap, Legend, Scene

LEGEND = Legend("structures", {1: ("a </script>", "#ff0000"), 2: ("b", "#00ff00")})


def embedded(scene, budget=viewer.BUDGET):
    """A scene as the page has it, with its volumes as images."""
    data = json.loads(viewer._scene_json(scene, budget))
    for volume in (*data["images"], *data["maps"]):
        packed = base64.b64decode(volume.pop("data"))
        volume["size"] = len(packed)
        volume["image"] = nib.Nifti1Image.from_bytes(gzip.decompress(packed))
    return data


def ball(shape=(40, 44, 36), affine=None):
    """A bright ball with a spot in it, and the classes of both."""
    geometry = Geometry(shape, np.diag([2.0, 2, 2, 1]) if affine is None else affine)
    index = np.stack(np.indices(shape), -1) - np.array(shape) * 0.45
    away = np.linalg.norm(index, axis=-1)
    classes = (away < 12).astype(np.uint8)
    classes[np.linalg.norm(index - 4, axis=-1) < 3] = 2
    random = np.random.default_rng(0)
    scan = np.where(away < 14, 100.0 + 10 * index[..., 0] + random.normal(0, 5, shape), 0).astype(np.float32)
    return scan, classes, geometry


def centre(image, value):
    """Where a label lies in the world."""
    return nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) == value).mean(axis=0))


@pytest.mark.parametrize("orientation", [*ORIENTATIONS[::7], "LIA"])
def test_volumes_lie_where_they_lay_whatever_the_axes_of_the_file(orientation):
    scan, classes, geometry = ball()
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    affine = geometry.affine @ nib.orientations.inv_ornt_aff(change, geometry.shape)
    turned = [nib.orientations.apply_orientation(a, change) for a in (scan, classes)]
    stored = Geometry(turned[0].shape, affine)
    data = embedded(Scene("s", {"t1": turned[0]}, [LabelMap("m", turned[1], LEGEND)], stored))
    image, labels = data["images"][0]["image"], data["maps"][0]["image"]
    assert "".join(nib.aff2axcodes(labels.affine)) == "RAS"
    assert np.allclose(image.affine, labels.affine)
    for value in (1, 2):
        where = np.argwhere(turned[1] == value).mean(axis=0)
        assert np.allclose(centre(labels, value), stored.to_world(where), atol=1e-3)
    inside = np.asarray(labels.dataobj) > 0
    low, high = data["images"][0]["low"], data["images"][0]["high"]
    expected = geometry.to_canonical(scan)[geometry.to_canonical(classes) > 0].clip(low, high)
    assert np.abs(np.sort(image.get_fdata()[inside]) - np.sort(expected)).max() < (high - low) / 255
    assert image.get_data_dtype() == np.uint8


def test_the_crosshair_starts_on_the_planes_of_the_picture():
    from voxseg.report.three_planes import where

    scan, classes, geometry = ball()
    data = embedded(Scene("s", {"t1": scan}, [LabelMap("m", np.zeros_like(classes), LEGEND)], geometry, (), classes))
    point, _ = where(classes, geometry.spacing)
    assert data["start"] == pytest.approx(list(geometry.to_world(np.array(point))))


def test_empty_margins_are_left_out_and_what_is_labelled_is_not():
    scan, classes, geometry = ball((80, 90, 70))
    data = embedded(Scene("s", {"t1": scan}, [LabelMap("m", classes, LEGEND)], geometry))
    assert max(data["maps"][0]["image"].shape) <= 29 + 2 * 5  # ball of 14 voxels, 8 mm around it
    scan[:] = 0
    scan[0, 0, 0] = 1
    corner = classes.copy()
    corner[79, 89, 69] = 1
    image = embedded(Scene("s", {"t1": scan}, [LabelMap("m", corner, LEGEND)], geometry))["maps"][0]["image"]
    assert (np.asarray(image.dataobj) > 0).sum() == (corner > 0).sum()


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 6, 1])])
def test_a_scan_above_the_budget_is_embedded_coarser_in_the_same_place(affine):
    scan, classes, geometry = ball((90, 100, 80), affine)
    scan += np.random.default_rng(0).normal(0, 30, scan.shape)
    scene = Scene("s", {"t1": scan}, [LabelMap("m", classes, LEGEND)], geometry)
    full = embedded(scene)
    budget = 150_000
    small = embedded(scene, budget)
    assert sum(v["size"] for v in (*full["images"], *full["maps"])) > 2 * budget
    assert sum(v["size"] for v in (*small["images"], *small["maps"])) <= budget
    before, after = full["maps"][0]["image"], small["maps"][0]["image"]
    assert min(after.header.get_zooms()) > 1.2
    assert np.prod(after.header.get_zooms()) == pytest.approx(
        np.prod(before.header.get_zooms()) * np.prod(before.shape) / np.prod(after.shape), rel=1e-3
    )
    for value in (1, 2):  # half a new voxel at most, of one that is nearest to each
        assert np.abs(centre(before, value) - centre(after, value)).max() < 0.5 * max(after.header.get_zooms())
    one, other = (v["images"][0]["image"] for v in (full, small))
    assert other.get_fdata().mean() == pytest.approx(one.get_fdata().mean(), rel=0.02)
    assert any("To keep the page small" in note for note in small["notes"])
    assert not any("To keep the page small" in note for note in full["notes"])


def test_thick_slices_are_not_made_thicker_while_there_are_finer_axes():
    geometry = Geometry((90, 100, 40), np.diag([1.0, 1, 6, 1]))
    grid = viewer._coarser(geometry, 1.4)
    assert grid.shape[2] == 40
    assert grid.shape[0] < 90
    corners = np.array([[-0.5, -0.5, -0.5]])
    assert np.allclose(grid.to_world(corners), geometry.to_world(corners))
    assert np.allclose(grid.to_world(np.array(grid.shape) - 0.5), geometry.to_world(np.array(geometry.shape) - 0.5))


def test_no_scan():
    _, classes, geometry = ball()
    data = embedded(Scene("s", {}, [LabelMap("m", classes, LEGEND)], geometry))
    assert data["images"] == []
    assert "on black" in " ".join(data["notes"])


def test_only_several_cases_are_to_choose_from():
    scan, classes, geometry = ball()
    scenes = [Scene(f"<{k}>", {"t1": scan}, [LabelMap("m", classes, LEGEND)], geometry) for k in range(2)]
    frame, scripts = viewer.viewer(scenes)
    assert '<option value="1">&lt;1&gt;</option>' in frame
    assert [script.id for script in scripts] == ["scene-0", "scene-1", "", ""]
    assert "</script>" not in scripts[0].text
    assert "viewer-scene" not in viewer.viewer(scenes[:1])[0]
    assert "Redistributions of source code" in str(scripts[2])


def test_without_nilearn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package nilearn.*pip install 'voxseg\[report\]'"):
        niivue.find_niivue()


def test_a_nilearn_without_the_script(monkeypatch):
    monkeypatch.setattr(niivue, "SCRIPT", "_assets/js/none.js")
    with pytest.raises(UserError, match="this version of nilearn does not have"):
        niivue.find_niivue()
