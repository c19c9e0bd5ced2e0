"""Fields scored against references, by function and by command."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from field_cases import centred, phantom, six, write_field_model

from voxseg.cli.main import run
from voxseg.data.field_kinds import FieldTarget
from voxseg.errors import UserError
from voxseg.evaluation.fields import field_of, score_field
from voxseg.evaluation.pairs import Pair
from voxseg.training.field_scores import field_errors

GRID = centred((12, 12, 12))


def save(path: Path, values: np.ndarray, affine: np.ndarray = GRID.affine) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values[:, :, :, None].astype(np.float32), affine), path)
    return path


def test_errors_of_known_differences() -> None:
    target = FieldTarget(kind="vector", scale=2.0)
    truth = np.zeros((3, 2, 2, 2), dtype=np.float32)
    truth[0] = 1
    known = np.ones((2, 2, 2), dtype=bool)
    turned = np.zeros_like(truth)
    turned[1] = 1
    assert field_errors(turned, truth, known, target)["angle"] == pytest.approx(90)
    assert field_errors(-truth, truth, known, target)["angle"] == pytest.approx(180)
    errors = field_errors(1.5 * truth, truth, known, target)
    assert errors == {"relative_error": pytest.approx(0.5), "rmse": pytest.approx(1.0), "angle": pytest.approx(0)}
    assert field_errors(0 * truth, truth, known, target)["relative_error"] == pytest.approx(1)
    known[0] = False
    turned[:, 1] = truth[:, 1]
    assert field_errors(turned, truth, known, target)["angle"] == pytest.approx(0)
    axis = FieldTarget(kind="axis")
    one, other = (axis.encode(np.moveaxis(f, 0, -1)) for f in (-truth, truth))
    assert field_errors(one, other, known, axis)["angle"] == pytest.approx(0, abs=0.1)


def test_anisotropy_of_tensors() -> None:
    target = FieldTarget(kind="tensor")
    long, ball = np.zeros((2, 1, 1, 1, 6), dtype=np.float32)
    long[..., 0], ball[..., [0, 2, 5]] = 1, 1
    known = np.ones((1, 1, 1), dtype=bool)
    errors = field_errors(target.encode(ball), target.encode(long), known, target)
    assert errors["fa_error"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["vector", "tensor"])
def test_the_command_scores_folders(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(2):
        _, gradient, hessian = phantom(k, GRID)
        values = gradient if kind == "vector" else six(hessian)
        save(tmp_path / "ref" / f"sub{k}_target.nii.gz", values)
        save(tmp_path / "out" / f"sub{k}_field.nii.gz", values * (1 + 0.1 * k))
    with pytest.raises(SystemExit) as ended:
        run(["evaluate", str(tmp_path / "out"), str(tmp_path / "ref"), "--field", kind, "-o", str(tmp_path / "s")])
    assert ended.value.code == 0, capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "s" / "fields.csv").open()))
    assert [row["case"] for row in rows] == ["sub0", "sub1"]
    assert [float(row["relative_error"]) for row in rows] == [pytest.approx(0, abs=1e-5), pytest.approx(0.1, abs=1e-4)]
    assert float(rows[1]["angle"]) < 0.1
    assert "relative error" in capsys.readouterr().out


def test_mistakes_are_one_line_each(tmp_path: Path) -> None:
    gradient = phantom(0, GRID)[1]
    away = GRID.affine.copy()
    away[:3, 3] += 5
    truth, moved = save(tmp_path / "t.nii.gz", gradient), save(tmp_path / "m.nii.gz", gradient, away)
    nothing = save(tmp_path / "n.nii.gz", 0 * gradient)
    target = FieldTarget(kind="vector")
    with pytest.raises(UserError, match=r"m.nii.gz: is not on the grid of its reference t.nii.gz"):
        score_field(Pair("a", moved, truth), target)
    with pytest.raises(UserError, match=r"n.nii.gz: is 0 everywhere"):
        score_field(Pair("a", truth, nothing), target)
    with pytest.raises(UserError, match="has 3 components a voxel"):
        score_field(Pair("a", truth, truth), FieldTarget(kind="tensor"))
    with pytest.raises(UserError, match="is no kind of field"):
        field_of("arrows")
    assert field_of(str(write_field_model(tmp_path / "model", "tensor"))).scale == 0.1
