"""`voxseg bids` on small data sets made here; the official validator of BIDS judges what it writes."""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from models import IDS, TWO_IMAGES, write_model
from voxseg.cli.bids import repeated
from voxseg.cli.main import run

SHAPE = (28, 32, 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def save(folder: Path, name: str, seed: int = 0, suffix: str = ".nii.gz") -> Path:
    """A noisy ball as an image of a data set."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    noise = np.random.default_rng(seed).integers(300, 900, SHAPE)
    data = (noise * (x**2 + y**2 + z**2 < (10 + seed) ** 2)).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([-3.0, 3, 3, 1]))
    image.header.set_xyzt_units("mm")
    subject, *rest = name.split("_")
    session = [part for part in rest if part.startswith("ses-")]
    path = folder.joinpath(subject, *session, "anat", name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    path.with_name(f"{name}.json").write_text('{"MagneticFieldStrength": 3}')
    return path


def describe(folder: Path, **keys: object) -> None:
    known = {
        "Name": "Balls",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "Authors": ["A B", "C D"],
    }
    (folder / "dataset_description.json").write_text(json.dumps(known | keys))
    (folder / "README.md").write_text("Balls of noise, made by a test. " * 10)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two participants, one of them with two sessions and one of these with two runs."""
    folder = tmp_path / "study with space"
    for seed, name in enumerate(("sub-01_ses-a_run-1_T1w", "sub-01_ses-a_run-2_T1w", "sub-01_ses-b_T1w", "sub-02_T1w")):
        save(folder, name, seed)
    save(folder, "sub-02_T2w", 5)
    save(folder, "sub-03_T2w", 6)
    describe(folder, DatasetDOI="10.18112/openneuro.ds000000.v1.0.0")
    return folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["bids", *map(str, arguments)])
    return int(caught.value.code or 0)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def problems(folder: Path) -> list[tuple[str, str]]:
    """Code and place of each error that the validator finds."""
    try:
        installed = distribution("bids-validator-deno").files or []
    except PackageNotFoundError:
        pytest.skip("the validator of BIDS (bids-validator-deno) is not installed")
    program = next(str(file.locate()) for file in installed if file.stem == "bids-validator-deno")
    command = [program, str(folder), "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    issues: dict[str, Any] = json.loads(result.stdout)["issues"]
    return [(issue["code"], issue["location"]) for issue in issues["issues"] if issue["severity"] == "error"]


def test_both_levels_write_what_the_validator_accepts(
    raw: Path, model: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    out = raw / "derivatives" / "voxseg"
    # -w is for the life of a process.
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    for name in ("TMPDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, tempfile.gettempdir())
    work = raw.parent / "work"
    assert call(raw, out, "participant", "--model", model, "--threads", 1, "-w", work) == 0
    stems = ["sub-01/ses-a/anat/sub-01_ses-a_run-1", "sub-01/ses-a/anat/sub-01_ses-a_run-2"]
    stems += ["sub-01/ses-b/anat/sub-01_ses-b", "sub-02/anat/sub-02"]
    ends = ("dseg.json", "dseg.nii.gz", "dseg.tsv", "volumes.tsv")
    expected = [f"{stem}_seg-tiny_{end}" for stem in stems for end in ends]
    expected += [f"{s.split('/')[0]}/figures/{s.split('/')[-1]}_seg-tiny_qc.png" for s in stems]
    expected += [".bidsignore", "README.md", "dataset_description.json"]
    assert files(out) == sorted(expected)
    assert "sub-03: has no image to segment" in capsys.readouterr().err
    assert problems(out) == []

    assert call(raw, out, "group", "--model", model) == 0
    groups = ["group_seg-tiny.html", "group_seg-tiny_volumes.json", "group_seg-tiny_volumes.tsv"]
    assert files(out) == sorted(expected + groups)
    assert problems(out) == []
    assert {path: path.read_bytes() for path in before} == before

    # The validator tells what is wrong where something is: it is no rubber stamp.
    (out / "sub-01/ses-b/anat/sub-01_ses-b_seg-tiny_dseg.tsv").rename(out / "sub-01/ses-b/anat/sub-01_seg-tiny_x.tsv")
    assert [code for code, _ in problems(out)]


def test_derivatives_say_where_they_come_from(raw: Path, model: Path, tmp_path: Path) -> None:
    out = raw / "derivatives" / "voxseg"
    assert call(raw, out, "participant", "--participant-label", "02", "--model", model) == 0
    stem = out / "sub-02/anat/sub-02_seg-tiny_dseg"
    image, scan = nib.load(f"{stem}.nii.gz"), nib.load(raw / "sub-02/anat/sub-02_T1w.nii.gz")
    assert image.header.binaryblock[252:328] == scan.header.binaryblock[252:328]
    table = rows(Path(f"{stem}.tsv"))
    assert [int(row["index"]) for row in table] == IDS
    assert all(row["name"] and row["color"].startswith("#") for row in table)
    found = set(np.unique(np.asanyarray(image.dataobj))) - {0}
    assert found
    assert found <= set(IDS)
    sidecar = json.loads(Path(f"{stem}.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-02/anat/sub-02_T1w.nii.gz"]
    assert sidecar["Manual"] is False
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "voxseg"
    assert description["SourceDatasets"][0]["URL"] == "doi:10.18112/openneuro.ds000000.v1.0.0"
    # What the sources are relative to.
    link = out / description["DatasetLinks"]["raw"]
    assert (link / sidecar["Sources"][0].removeprefix("bids:raw:")).is_file()
    # As input for training, the two make cases with labels.
    from voxseg.data.datasets.bids import find_bids

    dataset = find_bids(raw, labels=True)
    assert dataset is not None
    assert [(case.id, case.label.name) for case in dataset.cases if case.label] == [("sub-02", f"{stem.name}.nii.gz")]
    assert sorted(dataset.label_names) == IDS


def test_probabilities_are_those_of_predict(model: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    scan = save(raw, "sub-01_T1w")
    describe(raw)
    assert call(raw, out, "participant", "--model", model, "--threads", 1, "--probabilities") == 0
    arguments = ["predict", str(scan), "--model", str(model), "--threads", "1", "--probabilities", "-o", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert not ended.value.code
    stem = out / "sub-01/anat/sub-01_seg-tiny"
    found, other = Path(f"{stem}_probseg.nii.gz"), tmp_path / "sub-01_T1w_probabilities.nii.gz"
    assert found.read_bytes() == other.read_bytes()
    assert nib.load(found).shape == (*SHAPE, len(IDS) + 1)
    about = json.loads(Path(f"{stem}_probseg.json").read_text())
    assert about["LabelMap"] == json.loads((tmp_path / "sub-01_T1w_probabilities.json").read_text())["LabelMap"]
    assert about["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    record = json.loads(Path(f"{stem}_dseg.json").read_text())["Provenance"]
    assert {"sub-01_seg-tiny_probseg.nii.gz", "sub-01_seg-tiny_probseg.json"} <= {f["file"] for f in record["outputs"]}
    assert record["settings"]["probabilities"] is True
    assert [path for path in files(out) if "/." in path] == []  # nothing under a temporary name
    assert problems(out) == []


def test_the_table_of_the_group_holds_the_volumes_of_the_label_files(raw: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (raw, out, "--model", model, "--participant-label", "sub-01", "02", "--session-label", "ses-a", "b")
    assert call(raw, out, "group", "--model", model) == 2
    assert call(*arguments[:2], "participant", *arguments[2:]) == 0
    assert not (out / "sub-02").exists()  # it has no session a or b
    assert call(raw, out, "group", "--model", model, "--participant-label", "01") == 0
    table = rows(out / "group_seg-tiny_volumes.tsv")
    assert [(row["participant_id"], row["session_id"], row["scan"]) for row in table] == [
        ("sub-01", "ses-a", "sub-01_ses-a_run-1"),
        ("sub-01", "ses-a", "sub-01_ses-a_run-2"),
        ("sub-01", "ses-b", "sub-01_ses-b"),
    ]
    columns = json.loads((out / "group_seg-tiny_volumes.json").read_text())
    assert list(columns) == list(table[0])
    for row in table:
        (labels,) = out.rglob(f"{row['scan']}_seg-tiny_dseg.nii.gz")
        names = {r["name"]: int(r["index"]) for r in rows(labels.with_name(labels.name.replace(".nii.gz", ".tsv")))}
        voxels = np.asanyarray(nib.load(labels).dataobj)
        assert {name: float(row[name]) for name in names} == {n: 27.0 * (voxels == i).sum() for n, i in names.items()}
    # All asked for: sub-02 has no result, which is told and counts.
    assert call(raw, out, "group", "--model", model) == 1
    page = (out / "group_seg-tiny.html").read_text()
    assert "sub-02 has no result" in page
    assert page.count("data:image/jpeg") == 3
    assert 'href="sub-01/figures/sub-01_ses-b_seg-tiny_qc.png"' in page


def test_models_of_several_images_get_those_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("sub-1_run-1_FLAIR", "sub-1_run-2_FLAIR", "sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-2_FLAIR"):
        save(raw, name)
    save(raw, "sub-3_acq-3d_FLAIR")
    save(raw, "sub-3_acq-mprage_T1w", 2)
    describe(raw)
    model = write_model(tmp_path / "two", TWO_IMAGES, regions=True)
    assert call(raw, out, "participant", "--model", model) == 1
    assert "sub-2_FLAIR.nii.gz: its session has no T1w image that goes with it" in capsys.readouterr().err
    made = {path.name: json.loads(path.read_text())["Sources"] for path in out.rglob("*_dseg.json")}
    assert made == {
        f"sub-1_run-{k}_seg-tiny_dseg.json": [f"bids:raw:sub-1/anat/sub-1_run-{k}_{s}.nii.gz" for s in ("FLAIR", "T1w")]
        for k in (1, 2)
    } | {"sub-3_seg-tiny_dseg.json": [f"bids:raw:sub-3/anat/sub-3_acq-{a}.nii.gz" for a in ("3d_FLAIR", "mprage_T1w")]}
    assert problems(out) == []


def test_a_result_is_not_taken_for_that_of_another_image(raw: Path, model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert call(raw, out, "participant", "--participant-label", "02", "--model", model) == 0
    before = {path: path.read_bytes() for path in out.rglob("*_dseg.*")}
    again = (raw, out, "participant", "--participant-label", "02", "--model", model)
    assert call(*again, "--image", "image=T2w") == 2
    assert "is of another image" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    times = {path: path.stat().st_mtime_ns for path in before}
    assert call(*again, "--skip-existing") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == times


@pytest.mark.parametrize(
    ("out", "more", "told"),
    [
        ("study with space", [], "lies among the raw data"),
        ("study with space/sub-01/out", [], "lies among the raw data"),
        ("other", [], "holds the results of fMRIPrep"),
        ("out", ["--participant-label", "99"], "--participant-label 99: is not in the data set; it has 01, 02, 03"),
        ("out", ["--session-label", "c"], "--session-label c: is not in the data set; it has a, b"),
        ("out", ["--image", "t9=T1w"], "is not NAME=SUFFIX with a name of the model's (image)"),
        ("out", ["--image", "image=PDw"], "has no PDw image among those asked for"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    raw: Path, model: Path, capsys: pytest.CaptureFixture, out: str, more: list[str], told: str
) -> None:
    (raw.parent / "other").mkdir()
    (raw.parent / "other" / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    before = files(raw.parent)
    assert call(raw, raw.parent / out, "participant", "--model", model, *more) == 2
    assert told in capsys.readouterr().err
    assert files(raw.parent) == before


def test_label_options_take_several_values() -> None:
    assert repeated(["in", "out", "participant", "--participant-label", "01", "02", "--report"]) == [
        *["in", "out", "participant", "--participant-label", "01", "--participant-label", "02", "--report"]
    ]
    assert repeated(["--participant_label=01", "in"]) == ["--participant-label", "01", "in"]
    assert repeated(["--session-label", "a", "--", "in"]) == ["--session-label", "a", "--", "in"]
    assert repeated(["--participant-label", "-w", "x"]) == ["--participant-label", "-w", "x"]
