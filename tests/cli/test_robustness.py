"""`voxseg robustness`: models, scans and labels in, tables and a picture out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from models import IDS, REGIONS, TWO_IMAGES, write_model
from voxseg.cli._run_bar import RunBar
from voxseg.cli.main import run

SHAPE = (40, 44, 36)
FILES = ["robustness.csv", "robustness.json", "robustness.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two images and two regions, with the block `labels` that training writes."""
    folder = write_model(tmp_path_factory.mktemp("models") / "two", TWO_IMAGES, regions=True)
    contents = yaml.safe_load((folder / "config.yaml").read_text())
    inner = [{"name": r["name"], "label": r["label"], "ids": [2, 3, 10][: 3 - k]} for k, r in enumerate(REGIONS)]
    contents["labels"] = {"classes": IDS, "regions": inner, "merge_sides": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(contents))
    return folder


def save(path: Path, seed: int = 0, labels: bool = False, affine: np.ndarray | None = None) -> Path:
    """A noisy ball in empty space, or ids of shells in it."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    away = np.sqrt(x**2 + y**2 + z**2)
    noise = np.random.default_rng(seed).integers(300, 900, SHAPE)
    data = np.select([away < 6, away < 10, away < 15], [10, 3, 2], 0) if labels else noise * (away < 15)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([-2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["robustness", *map(str, arguments), "--device", "cpu"])
    return int(caught.value.code or 0)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "robustness.csv").open() as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "robustness.json").read_text())  # type: ignore[no-any-return]


def test_everything_quick_against_the_upright_prediction(tmp_path: Path, model: Path, capsys) -> None:
    scan, out = save(tmp_path / "scan.nii.gz"), tmp_path / "out"
    assert call(model, scan, "--quick", "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    text = capsys.readouterr().out
    assert "1 model, 1 scan: 50 predictions" in text
    assert "s for the first one: about" in text
    assert "one: Dice against the upright prediction, mean over structures" in text
    found = rows(out)
    assert {row["against"] for row in found} == {"upright prediction"}
    assert {row["test"] for row in found} >= {"rotations", "angles", "mirror", "headers", "noise", "inversion"}
    # A steerable network does not mind how the file is stored, nor grid rotations; what is left is rounding.
    exact = [row for row in found if row["test"] in ("rotations", "orientations", "headers") and row["dice"]]
    assert min(float(row["dice"]) for row in exact) > 0.999
    assert summary(out)["complete"]
    assert summary(out)["models"]["one"]["stability"]["deformation"]["R"] > 0


def test_models_are_compared_on_cases_of_several_images_with_their_labels(
    tmp_path: Path, regions: Path, capsys
) -> None:
    other = write_model(tmp_path / "runs" / "other" / "model", TWO_IMAGES, regions=True)
    (other / "config.yaml").write_text((regions / "config.yaml").read_text())
    data = tmp_path / "data"
    for k in (1, 2):
        for seed, name in enumerate(("flair", "t1")):
            save(data / f"Br_00{k}" / f"Br_00{k}_{name}.nii.gz", 10 * k + seed)
        save(data / f"Br_00{k}" / f"Br_00{k}_seg.nii.gz", labels=True)
    out = tmp_path / "out"
    arguments = (regions, data, "--compare", tmp_path / "runs" / "other", "-o", out)
    assert call(*arguments, "--tests", "mirror,cropping,slices,noise", "--quick") == 0
    found = rows(out)
    assert {(r["model"], r["scan"]) for r in found} == {(m, c) for m in ("two", "other") for c in ("Br_001", "Br_002")}
    assert {row["against"] for row in found} == {"labels"}
    assert {row["structure"] for row in found if row["kind"] == "region"} == {"all", "inner"}
    one = [r for r in found if r["model"] == "two" and r["scan"] == "Br_002" and r["condition"] == "as scanned"]
    scores = {r["structure"]: float(r["dice"]) for r in one if r["dice"]}
    assert scores["mean"] == pytest.approx((scores["all"] + scores["inner"]) / 2, abs=1e-5)
    # The two have the same weights.
    both = [[r["dice"] for r in found if r["model"] == name] for name in ("two", "other")]
    assert both[0] == both[1]
    assert "2 models, 2 scans:" in capsys.readouterr().out
    assert call(data, "-o", out) == 2  # the model comes first
    assert call(*arguments, "--tests", "mirror", "--quick", "--against-upright") == 0
    assert {row["against"] for row in rows(out)} == {"upright prediction"}


def test_labels_are_found_by_name_or_in_order(tmp_path: Path, model: Path, capsys) -> None:
    data = tmp_path / "data"
    scans = [save(data / name / "t1.nii.gz", k) for k, name in enumerate(("a", "b"))]
    labels = [save(data / name / "labels.nii.gz", labels=True) for name in ("a", "b")]
    others = [save(tmp_path / "flat" / f"{name}_seg.nii.gz", labels=True) for name in ("a", "b")]
    found = []
    for k, given in enumerate(([data], [tmp_path / "flat"], labels, others)):
        options = [text for path in given for text in ("--references", path)]
        assert call(model, *scans, *options, "--tests", "inversion", "-o", tmp_path / str(k)) == 0
        found.append((tmp_path / str(k) / "robustness.csv").read_text())
    assert len(set(found)) == 1
    assert {row["scan"] for row in rows(tmp_path / "0")} == {"a/t1", "b/t1"}
    capsys.readouterr()
    assert call(model, *scans, "--references", labels[0], "-o", tmp_path / "x") == 2
    assert "1 given for 2 scans; give one file for each scan" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert call(model, *scans, "--references", tmp_path / "none", "-o", tmp_path / "x") == 2
    assert "has no labels for a/t1" in capsys.readouterr().err


def test_labels_stored_otherwise_are_the_same_and_others_are_refused(tmp_path: Path, model: Path, capsys) -> None:
    scan, labels = save(tmp_path / "scan.nii.gz"), save(tmp_path / "labels.nii.gz", labels=True)
    flipped = nib.as_closest_canonical(nib.load(labels))
    nib.save(flipped, tmp_path / "flipped.nii.gz")
    results = []
    for name in ("labels", "flipped"):
        file = tmp_path / f"{name}.nii.gz"
        assert call(model, scan, "--references", file, "--tests", "inversion", "-o", tmp_path / name) == 0
        results.append((tmp_path / name / "robustness.csv").read_text())
    assert results[0] == results[1]
    moved = save(tmp_path / "moved.nii.gz", labels=True, affine=np.diag([-2.5, 2, 2, 1]))
    capsys.readouterr()
    assert call(model, scan, "--references", moved, "--tests", "inversion", "-o", tmp_path / "moved") == 2
    error = capsys.readouterr().err
    assert "lies on another grid than the scan" in error
    assert len(error.splitlines()) == 1


def test_a_broken_scan_does_not_stop_the_others(tmp_path: Path, model: Path, capsys) -> None:
    good, broken = save(tmp_path / "good.nii"), tmp_path / "broken.nii"
    broken.write_bytes(good.read_bytes()[:5000])
    assert call(model, broken, good, "--tests", "inversion", "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "broken.nii: is cut short" in captured.err
    assert "1 of 2 scans failed" in captured.err
    assert {row["scan"] for row in rows(tmp_path / "out")} == {"good"}
    assert not summary(tmp_path / "out")["complete"]
    assert "not all of it was done" in captured.out


def test_what_was_done_before_an_interruption_is_kept(tmp_path: Path, model: Path, monkeypatch) -> None:
    scan = save(tmp_path / "scan.nii.gz")
    advance, calls = RunBar.advance, []

    def stop(self: RunBar, count: int) -> None:
        calls.append(count)
        if len(calls) == 4:
            raise KeyboardInterrupt
        advance(self, count)

    monkeypatch.setattr(RunBar, "advance", stop)
    assert call(model, scan, "--quick", "-o", tmp_path / "out") == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert len({row["condition"] for row in rows(tmp_path / "out")}) == 3
    assert not summary(tmp_path / "out")["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("brain",), "SCAN: no scan is given"),
        (("nope", "a.nii"), "--model nope: there is no such model"),
        (("brain", "a.nii"), "a.nii: does not exist"),
        (("brain", "a.nii", "--tests", "poses,nois"), "--tests nois: is no test"),
        (("brain", "a.nii", "--compare", "brain"), "--compare brain: is given twice"),
        (("brain", "a.nii", "--against-upright", "--references", "b.nii"), "--against-upright"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"voxseg: {message}")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
