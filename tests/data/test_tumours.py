from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from voxseg.data.segmentation import read_label_names
from voxseg.data.tumours import (
    CORE,
    ENHANCING,
    OEDEMA,
    GeneratedCase,
    TumourConfig,
    TumourHead,
    generate_case,
    write_case,
)
from voxseg.errors import UserError
from voxseg.testing import grid_rotations, rotation_matrix

COARSE = TumourConfig(spacing=5.0, images=("flair", "t1ce"))
CUBE = COARSE.model_copy(update={"field_mm": (210.0, 210.0, 210.0)})
QUIET = CUBE.model_copy(update={"noise": (0.0, 0.0)})


@pytest.fixture(scope="module")
def cases() -> list[GeneratedCase]:
    return [generate_case(COARSE, k) for k in range(8)]


def ml(mask: NDArray[np.bool_], config: TumourConfig = COARSE) -> float:
    return float(mask.sum()) * config.spacing**3 / 1000


def turned(volume: NDArray[np.generic], rotation: NDArray[np.float64]) -> NDArray[np.generic]:
    """A cube turned by a rotation of the grid about its middle, by moving voxels: the voxel at p goes to R p."""
    middle = (np.array(volume.shape) - 1) / 2
    index = np.stack(np.indices(volume.shape), -1) - middle
    source = np.rint(index @ rotation + middle).astype(int)
    return volume[tuple(np.moveaxis(source, -1, 0))]


def right_half(volume: NDArray[np.generic]) -> NDArray[np.bool_]:
    return np.indices(volume.shape)[0] >= volume.shape[0] // 2


def same(a: GeneratedCase, b: GeneratedCase) -> bool:
    images = all(np.array_equal(a.images[name], b.images[name]) for name in a.images)
    return images and np.array_equal(a.labels, b.labels)


def test_the_seed_decides_everything() -> None:
    assert same(generate_case(COARSE, (3, 1)), generate_case(COARSE, (3, 1)))
    assert not same(generate_case(COARSE, (3, 1)), generate_case(COARSE, (3, 2)))


def test_arrays(cases: list[GeneratedCase]) -> None:
    for case in cases:
        assert list(case.images) == ["flair", "t1ce"]
        assert case.labels.dtype == np.uint8
        assert case.labels.shape == case.geometry.shape == COARSE.shape == (36, 42, 36)
        assert set(np.unique(case.labels)) <= {0, CORE, OEDEMA, ENHANCING}
        assert case.geometry.orientation == "RAS"
        assert case.geometry.spacing == pytest.approx((5, 5, 5))
        assert all(image.dtype == np.float32 and np.isfinite(image).all() for image in case.images.values())


def test_background_is_exactly_0_in_the_same_voxels_and_tumours_lie_within_the_brain(
    cases: list[GeneratedCase],
) -> None:
    for case in cases:
        brain = case.images["flair"] != 0
        assert np.array_equal(brain, case.images["t1ce"] != 0)
        assert brain[case.labels > 0].all()
        assert min(image.min() for image in case.images.values()) == 0
        assert 900 < ml(brain) < 2000
        for axis in range(3):  # nothing is cut off
            assert not brain.take([0, -1], axis).any()
        assert ndimage.label(brain)[1] == 1


def test_a_head_of_any_pose_fits_into_the_cube_that_the_config_names() -> None:
    wide = CUBE.model_copy(update={"pose_deg": 180.0})
    for k in range(3):
        brain = generate_case(wide, k).images["flair"] != 0
        assert not any(brain.take([0, -1], axis).any() for axis in range(3))


def test_regions_are_nested() -> None:
    """Enhancing rim around necrosis, oedema around both: necrosis never touches healthy tissue, nor does the core."""
    config = TumourConfig(spacing=2.0, images=("flair",), solid=0.0, second=0.0, radius_mm=(20.0, 20.0))
    tissue = generate_case(config.model_copy(update={"noise": (0.0, 0.0)}), 5)
    labels, brain = tissue.labels, tissue.images["flair"] > 0
    necrosis, core = labels == CORE, np.isin(labels, (CORE, ENHANCING))
    assert necrosis.sum() > 20
    cross = ndimage.generate_binary_structure(3, 1)
    assert np.isin(labels[ndimage.binary_dilation(necrosis, cross)], (CORE, ENHANCING)).mean() > 0.99
    assert (labels[ndimage.binary_dilation(core, cross) & brain] > 0).mean() > 0.99


def test_volumes_are_those_of_the_radii_less_what_the_brain_cuts_off() -> None:
    config = COARSE.model_copy(update={"radius_mm": (20.0, 20.0), "second": 0.0})
    sphere = 4 / 3 * np.pi * 2.0**3
    volumes = [ml(generate_case(config, k).labels > 0) for k in range(6)]
    assert 0.25 * sphere < min(volumes)
    assert max(volumes) < 2 * sphere
    assert 0.7 * sphere < np.mean(volumes) < 1.4 * sphere
    small = config.model_copy(update={"radius_mm": (13.0, 13.0)})
    assert np.mean([ml(generate_case(small, k).labels > 0) for k in range(3)]) < 0.5 * np.mean(volumes)


def test_probabilities(cases: list[GeneratedCase]) -> None:
    solid = generate_case(COARSE.model_copy(update={"solid": 1.0}), 2).labels
    assert ENHANCING not in solid
    assert {CORE, OEDEMA} <= set(np.unique(solid))
    pair = generate_case(COARSE.model_copy(update={"second": 1.0}), 2).labels
    parts, count = ndimage.label(pair > 0, np.ones((3, 3, 3)))
    assert np.sum(np.bincount(parts.ravel())[1:] * 0.125 > 0.5) == 2, count
    assert 0 < sum(ENHANCING not in case.labels for case in cases) < len(cases)


def test_healthy_white_matter_as_bright_as_oedema(cases: list[GeneratedCase]) -> None:
    """The mimics are there, are not labelled, and most of them stands upright on either side."""
    quiet = QUIET.model_copy(update={"images": ("flair",), "pose_deg": 0.0, "texture": 0.0, "bias": 0.0})
    with_mimics, without = (generate_case(quiet.model_copy(update={"mimics": share}), 4) for share in (1.0, 0.0))
    # Places of tumours keep clear of mimics and so may differ; compare outside of both.
    healthy = (with_mimics.labels == 0) & (without.labels == 0)
    scale = np.median(with_mimics.images["flair"][healthy & (with_mimics.images["flair"] > 0)])
    bright = healthy & (with_mimics.images["flair"] > 1.4 * scale) & (without.images["flair"] < 1.3 * scale)
    assert ml(bright, quiet) > 1.0
    x, y, z = np.ptp(with_mimics.geometry.to_world(np.argwhere(bright & right_half(bright))), axis=0)
    assert x < min(y, z)


@pytest.mark.parametrize("index", [1, 5, 10, 17, 22])
def test_turned_by_a_grid_rotation_is_the_upright_scan_with_its_voxels_moved(index: int) -> None:
    rotation = grid_rotations()[index].numpy().round()
    head = TumourHead(QUIET, 7)
    upright, other = head.scan(), head.scan(rotation)
    assert np.array_equal(other.labels, turned(upright.labels, rotation))
    for name, image in upright.images.items():
        moved = turned(image, rotation)
        assert np.array_equal(other.images[name] > 0, moved > 0)
        np.testing.assert_allclose(other.images[name], moved, rtol=1e-4)


def test_turned_by_any_angle_is_close_to_interpolating() -> None:
    rotation = rotation_matrix((1, 2, 3), 37.0).numpy()
    fine = QUIET.model_copy(update={"spacing": 3.0, "images": ("flair",)})
    head = TumourHead(fine, 8)
    upright, other = head.scan(), head.scan(rotation)
    middle = (np.array(upright.labels.shape) - 1) / 2
    moved = ndimage.affine_transform((upright.labels > 0).astype(float), rotation.T, middle - rotation.T @ middle)
    truth, found = other.labels > 0, moved > 0.5
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.93
    assert abs(ml(truth, fine) / ml(upright.labels > 0, fine) - 1) < 0.03


@pytest.mark.parametrize("wrong", [np.diag([1.0, 1.0, -1.0]), 2 * np.eye(3), np.eye(2)])
def test_what_is_no_rotation_is_refused(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="proper rotation"):
        TumourHead(COARSE, 0).scan(wrong)


def test_whole_heads_have_the_same_tumour_and_more_around_the_brain() -> None:
    config = COARSE.model_copy(update={"field_mm": (200.0, 250.0, 240.0)})
    bare, head = (generate_case(config.model_copy(update={"skull": skull}), 3) for skull in (False, True))
    assert np.array_equal(bare.labels, head.labels)
    assert ml(head.images["flair"] > 0) > 2 * ml(bare.images["flair"] > 0)
    assert (head.images["flair"] > 0)[bare.images["flair"] > 0].all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": ["flair", "flair"]}, "given twice"),
        ({"images": []}, "at least 1"),
        ({"sheet_mm": [12, 3]}, "least and a largest value"),
        ({"images": ["pet"]}, "'flair'"),
        ({"radius_mm": [20, 10]}, "least and a largest radius"),
        ({"noise": [0.2, 0.1]}, "least and a largest value"),
        ({"field_mm": [10, 200, 200]}, "60 to 400 mm"),
        ({"spacing": 0}, "greater than or equal"),
        ({"size": 3}, "Extra inputs"),
    ],
)
def test_config_errors(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TumourConfig.model_validate(values)


def test_files(cases: list[GeneratedCase], tmp_path: Path) -> None:
    write_case(tmp_path / "Case_1", cases[0])
    names = [f"Case_1_{name}.nii.gz" for name in ("flair", "seg", "t1ce")]
    assert sorted(path.name for path in (tmp_path / "Case_1").iterdir()) == names
    for name in names:
        image = nib.load(tmp_path / "Case_1" / name)
        assert image.shape == COARSE.shape
        assert np.array_equal(image.affine, cases[0].geometry.affine)
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        assert image.header.get_xyzt_units()[0] == "mm"
    flair, labels, _ = (nib.load(tmp_path / "Case_1" / name) for name in names)
    assert flair.get_data_dtype() == np.int16
    stored = np.asarray(flair.dataobj)
    assert np.abs(stored - cases[0].images["flair"]).max() <= 0.5
    assert np.array_equal(np.asarray(labels.dataobj), cases[0].labels)
    assert read_label_names(labels.header) == {1: "Necrotic-core", 2: "Oedema", 4: "Enhancing-tumour"}


def test_files_all_or_none(cases: list[GeneratedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxseg.data.tumours.write_segmentation", fail)
    with pytest.raises(UserError, match="No space left on device"):
        write_case(tmp_path / "Case_1", cases[0])
    assert list((tmp_path / "Case_1").iterdir()) == []
