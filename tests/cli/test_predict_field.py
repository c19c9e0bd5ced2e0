"""`voxseg predict` with a model of a field: files in the scan's grid, in world axes, however the scan is stored."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from field_cases import centred, phantom, write_field_model

from voxseg.cli.main import run
from voxseg.data.field_files import read_field
from voxseg.data.field_kinds import FieldTarget
from voxseg.errors import UserError
from voxseg.inference.model import load_field_model
from voxseg.testing import grid_rotations, rotation_matrix

SIZE = (14, 14, 14)


def save(path: Path, axes: np.ndarray, turn: np.ndarray | None = None) -> Path:
    grid = centred(SIZE, axes)
    nib.save(nib.Nifti1Image(phantom(1, grid, turn)[0].astype(np.float32), grid.affine), path)
    return path


def predicted(scan: Path, model: Path, output: Path, kind: str) -> np.ndarray:
    with pytest.raises(SystemExit) as ended:
        run(["predict", str(scan), "--model", str(model), "-o", str(output), "--device", "cpu"])
    assert ended.value.code == 0
    fields, geometry = read_field(output / f"{scan.name.removesuffix('.nii.gz')}_field.nii.gz", FieldTarget(kind=kind))
    assert np.allclose(geometry.affine, nib.load(scan).affine)
    return fields


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: write_field_model(folder / kind, kind) for kind in ("vector", "tensor")}


def test_files_are_written_with_intent_and_record(tmp_path: Path, models: dict[str, Path]) -> None:
    scan = save(tmp_path / "scan.nii.gz", np.diag([-1.0, 1, 1]))
    predicted(scan, models["tensor"], tmp_path, "tensor")
    image = nib.load(tmp_path / "scan_field.nii.gz")
    assert image.shape == (*SIZE, 1, 6)
    assert int(image.header["intent_code"]) == 1005
    about = json.loads((tmp_path / "scan_field.json").read_text())
    assert about["kind"] == "field"
    assert about["field"]["type"] == "1x0e+1x2e"
    assert [output["file"] for output in about["outputs"]] == ["scan_field.nii.gz", "scan_field.png"]
    assert (tmp_path / "scan_field.png").stat().st_size > 10_000
    assert not (tmp_path / "scan_seg.nii.gz").exists()


@pytest.mark.parametrize("kind", ["vector", "tensor"])
def test_a_turned_scan_has_the_same_field_in_the_world(tmp_path: Path, models: dict[str, Path], kind: str) -> None:
    """The same patient, stored along other axes, flipped ones too."""
    expected = predicted(save(tmp_path / "a.nii.gz", np.eye(3)), models[kind], tmp_path, kind)
    assert np.abs(expected).max() > 0.01
    axes = grid_rotations(improper=True)[29].numpy()
    found = predicted(save(tmp_path / "b.nii.gz", axes), models[kind], tmp_path, kind)
    assert np.allclose(
        expected, centred(SIZE, axes).to_canonical(np.moveaxis(found, 0, -1)).transpose(3, 0, 1, 2), atol=1e-4
    )


def test_a_scan_turned_with_its_patient_has_the_turned_field(tmp_path: Path, models: dict[str, Path]) -> None:
    turn = rotation_matrix((1, 2, 3), 35).numpy()
    upright = predicted(save(tmp_path / "a.nii.gz", np.eye(3)), models["vector"], tmp_path, "vector")
    oblique = predicted(save(tmp_path / "b.nii.gz", turn, turn), models["vector"], tmp_path, "vector")
    assert np.allclose(np.einsum("ij,j...->i...", turn, upright), oblique, atol=1e-4)


@pytest.mark.parametrize("option", [["--report"], ["--probabilities"], ["--cluster", "local"]])
def test_what_there_is_of_labels_alone_is_refused(
    tmp_path: Path, models: dict[str, Path], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scan = save(tmp_path / "scan.nii.gz", np.eye(3))
    with pytest.raises(SystemExit) as ended:
        run(["predict", str(scan), "--model", str(models["vector"]), *option])
    assert ended.value.code == 2
    assert "is for models of labels, and this one predicts a field" in capsys.readouterr().err


def test_a_model_whose_network_and_targets_differ_is_told(tmp_path: Path) -> None:
    model = write_field_model(tmp_path / "m")
    text = (model / "config.yaml").read_text()
    (model / "config.yaml").write_text(text.replace("kind: vector", "kind: tensor"))
    with pytest.raises(UserError, match=r"has a network of 3 outputs for targets 1x0e\+1x2e"):
        load_field_model(model)
