"""`voxseg evaluate` as people call it, rightly and wrongly."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from small_cases import balls
from tiny_datasets import brats
from voxseg.cli.main import run

pytest.importorskip("monai")

AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])
LABELS = "id,name,colour\n2,shell,#ff0000\n1,middle,#00ff00\n4,core,#0000ff\n"


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["evaluate", *map(str, arguments)])
    return int(caught.value.code or 0)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """References of four cases in folders of their own, predictions beside each other, and what the ids mean."""
    for k in range(4):
        ids, _ = balls(seed=k)
        save(tmp_path / "truth" / f"c{k}" / "labels.nii.gz", ids)
        save(tmp_path / "out" / f"c{k}_seg.nii.gz", np.roll(ids, 1, axis=0))
    (tmp_path / "labels.csv").write_text(LABELS)
    return tmp_path


def spoil(study: Path) -> None:
    """One broken file, one missing reference, one other grid."""
    broken = study / "out" / "c1_seg.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    (study / "truth" / "c2" / "labels.nii.gz").unlink()
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]
    ids, _ = balls(seed=3)
    save(study / "out" / "c3_seg.nii.gz", ids.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)


def test_a_folder_against_a_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = study / "results"
    assert call(study / "out", study / "truth", "--labels", study / "labels.csv", "-o", out, "--verbose") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "out: 4 matched"
    assert lines[1] == f"  c0: {study}/out/c0_seg.nii.gz with {study}/truth/c0/labels.nii.gz"
    assert "labels: labels.csv" in lines
    shell = next(line for line in lines if line.startswith("shell"))
    assert shell.split()[1] == "4"
    assert shell.endswith("0, 0")
    assert any(line.startswith("HD95: the larger of the two directed 95th percentiles") for line in lines)
    assert lines[-1] == f"wrote cases.csv, summary.csv, evaluation.json to {out}"
    assert sorted(path.name for path in out.iterdir()) == ["cases.csv", "evaluation.json", "summary.csv"]
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    truth, _ = balls(seed=0)
    a, b = np.roll(truth, 1, axis=0) == 2, truth == 2
    assert float(rows[0]["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    assert str(study) not in (out / "evaluation.json").read_text()


def test_a_spoiled_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One broken file, one missing reference and one different grid: the rest is done, the three are listed."""
    spoil(study)
    out = study / "results"
    given = (study / "out", study / "truth", "--labels", study / "labels.csv")
    assert call(*given, "-o", out) == 1
    captured = capsys.readouterr()
    assert "out: 1 case\n" in captured.out
    lines = captured.err.splitlines()
    assert lines[0] == "voxseg: 3 cases were not evaluated:"
    assert lines[1] == f"  c1: {study}/out/c1_seg.nii.gz: is cut short or damaged; copy or export the scan again"
    assert lines[2].startswith(f"  c2: c2_seg.nii.gz has no reference in {study}/truth; add it, or take")
    assert lines[3].startswith(f"  c3: {study}/out/c3_seg.nii.gz: is on another grid (60 x 68 x 56 voxels of 0.75 x")
    assert lines[3].endswith("segment the scan that the reference was drawn on, or give --resample")
    assert len(lines) == 4
    content = json.loads((out / "evaluation.json").read_text())
    assert [case["case"] for case in content["cases"]] == ["c0"]
    assert [problem["case"] for problem in content["problems"]] == ["c1", "c2", "c3"]
    assert str(study) not in json.dumps(content)
    assert call(*given, "--resample") == 1
    captured = capsys.readouterr()
    assert "out: 2 cases\n" in captured.out
    assert "note, c3: the prediction was resampled from 60 x 68 x 56 voxels of 0.75 x 0.75 x 1 mm" in captured.out
    assert captured.err.startswith("voxseg: 2 cases were not evaluated:\n  c1: ")


def test_pairs_of_a_table_with_paths_relative_to_it(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = study / "pairs.csv"
    table.write_text("case,prediction,reference\nx,out/c0_seg.nii.gz,truth/c0/labels.nii.gz\n"
                     "y,out/c1_seg.nii.gz,truth/c1/labels.nii.gz\nz,out/c2_seg.nii.gz,\n")  # fmt: skip
    elsewhere = study / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert call("../pairs.csv", "--labels", "../labels.csv") == 1
    captured = capsys.readouterr()
    assert "pairs: 2 cases\n" in captured.out
    assert captured.err == "voxseg: 1 case was not evaluated:\n  z: line 4 of pairs.csv has no reference; fill it in\n"


def test_references_without_predictions(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "out" / "c1_seg.nii.gz").unlink()
    given = (study / "out", study / "truth", "--labels", study / "labels.csv")
    assert call(*given) == 1
    assert "  c1: has no prediction in" in capsys.readouterr().err
    assert call(*given, "--partial") == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("out: 1 reference without a prediction left out (--partial)\n")
    assert captured.err == ""


def test_two_models(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(4):
        save(study / "better" / f"c{k}.nii.gz", balls(seed=k)[0])
    out = study / "results"
    given = (study / "out", study / "truth", "--labels", study / "labels.csv", "--name", "old")
    assert call(*given, "--compare", f"new={study / 'better'}", "-o", out) == 0
    text = capsys.readouterr().out
    assert "old: 4 cases" in text
    assert "new: 4 cases" in text
    assert "Dice: new against old, 4 cases" in text
    with (out / "comparison.csv").open(newline="") as file:
        tests = {(row["metric"], row["structure"]): row for row in csv.DictReader(file)}
    assert float(tests["dice", "mean"]["other_mean"]) == 1.0
    assert float(tests["dice", "mean"]["p"]) == 2 / 2**4


def test_a_data_set_of_brats_by_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = brats(tmp_path / "data", 2)
    for k in (1, 2):
        name = f"BraTS20_Training_00{k}"
        image = nib.load(data / name / f"{name}_seg.nii.gz")
        truth = np.asarray(image.dataobj)
        save(tmp_path / "out" / f"{name}_seg.nii.gz", np.where(truth == 4, 1, truth).astype(np.uint8), image.affine)
    assert call(tmp_path / "out", data, "--labels", "brats2020") == 0
    text = capsys.readouterr().out
    rows = {line.rsplit("  ", 1)[0].split("  ")[0]: line for line in text.splitlines() if line.endswith((", 0", ", 2"))}
    assert rows["whole tumour"].split()[3] == "1.000"
    assert rows["enhancing tumour"].endswith("2, 0")
    assert "lesion by lesion" in text
    assert call(tmp_path / "out", data, "--labels", "brats2020", "--no-lesions") == 0
    assert "lesion by lesion" not in capsys.readouterr().out


def test_ids_that_no_one_explains(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(study / "out", study / "truth") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"voxseg: {study}/out/c0_seg.nii.gz: holds the label 1, which FreeSurfer's table lacks; give"
    )
    assert "--labels brats2020" in error
    (study / "labels.csv").write_text(LABELS.replace("4,core,#0000ff\n", ""))
    assert call(study / "out", study / "truth", "--labels", study / "labels.csv") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("voxseg: no case could be evaluated:\n  c0: ")
    assert "holds the label 4 (" in captured.err


TRUTH, NAMES = "truth", ("--labels", "labels.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out"], "out: there is nothing to compare it with; give REFERENCES, or a CSV table with the columns case, "),
        (["nowhere", TRUTH], "nowhere: does not exist; check the path"),
        (["out", "nowhere"], "nowhere: does not exist; check the path"),
        (["nowhere.csv"], "nowhere.csv: does not exist; check the path"),
        (["out", TRUTH, "--labels", "brian"], "--labels brian: there is no such file, and no such packaged model or"),
        (["out", TRUTH, *NAMES, "--tolerance", "0"], "--tolerance 0: is not above 0; give millimetres, such as 1"),
        (["out", TRUTH, *NAMES, "--report"], "--report: needs a folder to write to; give one with -o"),
        (["out", TRUTH, *NAMES, "--scans", "s"], "--scans: are drawn in the report alone; give --report too"),
        (["out", TRUTH, *NAMES, "--compare", "x"], "--compare x: is not NAME=FOLDER; write for example"),
        (["out", TRUTH, *NAMES, "--compare", "out=x"], "--compare out: is the name of PREDICTIONS too; give them ano"),
        (["out", TRUTH, *NAMES, "--compare", "x=none"], "none: does not exist; check the path"),
        (["out", TRUTH, *NAMES, "-o", "labels.csv"], "-o labels.csv: labels.csv is a file; give a folder"),
        (["labels.csv", TRUTH], "labels.csv: is a table of pairs, and references are given as well; leave them out"),
        (["labels.csv"], "labels.csv: has no column 'prediction'; the first line has to be case,prediction,reference"),
        (["out", "out/c0_seg.nii.gz"], "out/c0_seg.nii.gz: is a file, and out is none; give two files or two folders"),
        (["out/*_pred.nii.gz", TRUTH], "out/*_pred.nii.gz: matches no file; check the pattern"),
        (["out", "elsewhere"], "out: no name fits one in elsewhere (there is c0_seg.nii.gz here, and other.nii.gz th"),
    ],
)  # fmt: skip
def test_wrong_calls_are_one_line(
    study: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(study)
    save(study / "elsewhere" / "other.nii.gz", balls()[0])
    before = sorted(study.rglob("*"))
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"voxseg: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(study.rglob("*")) == before


def test_help_and_wrong_paths_import_nothing_heavy() -> None:
    heavy = "('numpy', 'nibabel', 'torch', 'scipy', 'monai', 'matplotlib')"
    for arguments in (["evaluate", "--help"], ["evaluate", "nowhere", "nowhere"]):
        code = (
            "import sys, atexit\n"
            f"atexit.register(lambda: print([m for m in {heavy} if m in sys.modules]))\n"
            "from voxseg.cli.main import run\n"
            f"run({arguments!r})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "[]"


def test_the_report(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nilearn")
    for k in range(4):
        save(study / "scans" / f"c{k}.nii.gz", balls(seed=k)[0].astype(np.int16) * 100)
    out = study / "results"
    given = (study / "out", study / "truth", "--labels", study / "labels.csv", "-o", out, "--report")
    assert call(*given, "--scans", study / "scans") == 0
    assert capsys.readouterr().out.endswith(f"wrote cases.csv, summary.csv, evaluation.json, report.html to {out}\n")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "shell" in page
    assert str(study) not in page
