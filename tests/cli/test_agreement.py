"""`voxseg agreement` end to end: files in, table, CSV, JSON and picture out; and what is told when that fails."""

import csv
import json
import math
import subprocess
import sys

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from voxseg.cli.main import run
from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.volume import Volume
from voxseg.evaluation.agreement_statistics import intraclass_correlation
from voxseg.report.volumes import write_volumes

TABLE = LabelTable.freesurfer().select([17, 53, 16])  # hippocampi, brain stem
FILES = ["agreement.csv", "agreement.json", "agreement_pairs.csv"]


@pytest.fixture(autouse=True)
def _command(monkeypatch):
    from voxseg.cli import main

    monkeypatch.setattr(main, "COMMANDS", tuple(dict.fromkeys([*main.COMMANDS, "agreement"])))


def call(*arguments):
    with pytest.raises(SystemExit) as caught:
        run(["agreement", *map(str, arguments)])
    return caught.value.code or 0


def write_table(path, left, right, stem):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volumes(path, TABLE, [left, right, stem], 1.0)
    return path


def write_boxes(path, left, right, stem, affine=None, table=TABLE):
    """A segmentation with three boxes of that many voxels of 8 mm³ along an axis."""
    ids = np.zeros((40, 12, 12), dtype=np.int16)
    for row, (label, length) in enumerate(zip(table.ids, (left, right, stem), strict=True)):
        ids[:length, 3 * row + 1, 5] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2, 2, 1]) if affine is None else affine
    write_segmentation(path, ids, table, Volume(path, ids, Geometry(ids.shape, affine), None, ids.shape))
    return path


def study(folder, subjects=6, sessions=2, seed=0):
    """Folders of tables, and what is in them `[subjects, sessions, 3]`."""
    random = np.random.default_rng(seed)
    size = np.array([4000, 4100, 20000]) * np.exp(random.normal(0, 0.1, (subjects, 1, 3)))
    voxels = np.rint(size * np.exp(random.normal(0, 0.02, (subjects, sessions, 3)))).astype(int)
    for subject in range(subjects):
        for session in range(sessions):
            write_table(folder / f"s{session + 1}" / f"p{subject + 1}_volumes.tsv", *voxels[subject, session])
    return voxels / 1000


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["structure"]: row for row in csv.DictReader(file)}


def test_two_folders(tmp_path, capsys):
    ml = study(tmp_path)
    assert call(tmp_path / "s1", tmp_path / "s2", "-o", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "6 subjects, 12 scans (s1, s2)"
    assert " ".join(lines[2].split()) == (
        "structure n mean ml |diff| % CV % CR ml bias [limits] ml ICC(2,1) [95 %] ICC(3,1)"
    )
    assert [line.split()[0] for line in lines[3:7]] == [
        "Left-Hippocampus",
        "Right-Hippocampus",
        "Brain-Stem",
        "Hippocampus",
    ]
    assert (
        lines[-1] == f"wrote agreement.csv, agreement_pairs.csv, agreement.json, bland_altman.png to {tmp_path / 'out'}"
    )
    assert max(map(len, lines[:7])) < 125
    rows = read(tmp_path / "out" / "agreement.csv")
    both = ml[..., :2].sum(axis=-1)
    for name, values in [("Left-Hippocampus", ml[..., 0]), ("Brain-Stem", ml[..., 2]), ("Hippocampus", both)]:
        row = {key: float(value) for key, value in rows[name].items() if key != "structure" and value}
        a, b = values.T
        assert row["subjects"] == row["icc_subjects"] == row["pairs"] == 6
        assert row["mean_ml"] == pytest.approx(values.mean())
        assert row["absolute_difference_percent_mean"] == pytest.approx(np.mean(200 * abs(a - b) / (a + b)))
        assert row["absolute_difference_percent_median"] == pytest.approx(np.median(200 * abs(a - b) / (a + b)))
        assert row["absolute_difference_ml_median"] == pytest.approx(np.median(abs(a - b)))
        assert row["bias_ml"] == pytest.approx(np.mean(b - a))
        assert row["upper_limit_ml"] == pytest.approx(np.mean(b - a) + 1.96 * np.std(b - a, ddof=1))
        assert row["within_subject_sd_ml"] == pytest.approx(math.sqrt(np.mean((a - b) ** 2) / 2))
        assert row["icc_2_1"] == pytest.approx(intraclass_correlation(values).agreement.value)
        assert row["icc_3_1_low"] == pytest.approx(intraclass_correlation(values).consistency.low)
        assert "percent_a_year" not in row
        assert "dice" not in row


def test_json_and_pairs_have_everything(tmp_path):
    ml = study(tmp_path)
    assert call(tmp_path / "s1", tmp_path / "s2", "-o", tmp_path / "out") == 0
    value = json.loads((tmp_path / "out" / "agreement.json").read_text(encoding="utf-8"))
    assert value["subjects"] == 6
    assert [s["kind"] for s in value["structures"]] == ["label"] * 3 + ["both sides"]
    assert value["structures"][3]["ids"] == [17, 53]
    assert value["structures"][0]["dice"] is None
    assert value["scans"][1]["ml"]["Brain-Stem"] == pytest.approx(ml[0, 1, 2])
    with (tmp_path / "out" / "agreement_pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 4 * 6
    assert float(pairs[0]["difference_ml"]) == pytest.approx(ml[0, 1, 0] - ml[0, 0, 0])
    assert (pairs[0]["first"], pairs[0]["second"], pairs[0]["subject"]) == ("s1", "s2", "p1")


def test_the_picture_shows_points_and_lines(tmp_path):
    study(tmp_path)
    assert call(tmp_path / "s1", tmp_path / "s2", "-o", tmp_path / "out") == 0
    picture = matplotlib.image.imread(tmp_path / "out" / "bland_altman.png")[..., :3]
    red = (picture[..., 0] - picture[..., 2] > 0.4).sum()
    blue = (picture[..., 2] - picture[..., 0] > 0.2).sum()
    assert red > 3 * 4 * 100  # three lines in four panels
    assert 24 * 5 < blue < 24 * 200  # six points in each


def test_change_over_time(tmp_path, capsys):
    """Every structure shrinks by exactly 2 % of its first volume a year; one scan is lacking."""
    rows = ["subject,session,file,age"]
    for subject in range(3):
        for session, years in enumerate((0, 1, 2.5)):
            if (subject, session) == (2, 1):
                continue
            path = tmp_path / f"{subject}{session}_volumes.tsv"
            write_table(path, *(round(10000 * (1 + subject) * (1 - 0.02 * years)) for _ in range(3)))
            rows.append(f"p{subject},{session},{path.name},{60 + subject + years}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    assert call(tmp_path / "t.csv", "-o", tmp_path / "out") == 0
    row = read(tmp_path / "out" / "agreement.csv")["Brain-Stem"]
    assert float(row["percent_a_year"]) == pytest.approx(-2)
    assert float(row["percent_a_year_low"]) == pytest.approx(-2)
    assert (row["pairs"], row["icc_subjects"], row["icc_repeats"]) == ("5", "3", "2")  # everyone's first and last
    out = capsys.readouterr().out
    assert "-2.00 [-2.00, -2.00]" in out
    assert "intraclass correlations are of 3 subjects with 2 scans each" in out


def test_one_person(tmp_path, capsys):
    """Segmentations with their names inside, laid on each other too."""
    one = write_boxes(tmp_path / "a_seg.nii.gz", 20, 10, 30)
    two = write_boxes(tmp_path / "b_seg.nii.gz", 25, 10, 15)
    assert call(one, two, "--overlap", "-o", tmp_path / "out") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[2].split() == ["structure", "first", "ml", "second", "ml", "diff", "ml", "diff", "%", "Dice"]
    assert lines[3].split() == ["Left-Hippocampus", "0.160", "0.200", "+0.040", "+22.2", "0.889"]
    assert lines[6].split() == ["Hippocampus", "0.240", "0.280", "+0.040", "+15.4", f"{2 * 30 / 65:.3f}"]
    assert "one subject: ICC, limits of agreement and confidence intervals cannot be estimated" in lines
    row = read(tmp_path / "out" / "agreement.csv")["Brain-Stem"]
    assert float(row["bias_ml"]) == pytest.approx(-0.12)
    assert [row[k] for k in ("icc_2_1", "upper_limit_ml", "bias_ml_low", "repeatability_ml")] == [""] * 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert captured.err == ""


def test_overlap_needs_one_grid(tmp_path, capsys):
    one = write_boxes(tmp_path / "a_seg.nii.gz", 20, 10, 30)
    two = write_boxes(tmp_path / "b_seg.nii.gz", 20, 10, 30, np.diag([2.0, 2, 2.01, 1]))
    assert call(one, two, "--overlap") == 0
    captured = capsys.readouterr()
    assert "Dice" not in captured.out.splitlines()[2]
    assert captured.err == "voxseg: no overlap for 1 of 1 pairs of scans: no segmentations in one grid\n"


def test_what_is_missing_is_counted(tmp_path, capsys):
    ml = study(tmp_path)
    write_table(tmp_path / "s2" / "p1_volumes.tsv", 0, 4000, 20000)
    for session in ("s1", "s2"):
        write_table(tmp_path / session / "p2_volumes.tsv", 0, 4000, 20000)
    assert call(tmp_path / "s1", tmp_path / "s2", "-o", tmp_path / "out") == 0
    rows = read(tmp_path / "out" / "agreement.csv")
    row = rows["Left-Hippocampus"]
    assert (row["subjects"], row["missing_scans"], row["absent_subjects"]) == ("4", "1", "1")
    assert float(row["mean_ml"]) == pytest.approx(ml[2:, :, 0].mean())
    assert float(row["icc_2_1"]) == pytest.approx(intraclass_correlation(ml[2:, :, 0]).agreement.value)
    # One side is no smaller pair.
    assert (rows["Hippocampus"]["subjects"], rows["Hippocampus"]["missing_scans"]) == ("4", "1")
    assert rows["Brain-Stem"]["subjects"] == "6"
    assert "missing: scans that lack the structure" in capsys.readouterr().out


def test_what_nobody_has_is_named(tmp_path, capsys):
    files = [write_table(tmp_path / f"{k}_volumes.tsv", 0, 4000 + k, 9) for k in range(2)]
    assert call(*files) == 0
    assert "not found in any scan: Left-Hippocampus, Hippocampus\n" in capsys.readouterr().out


def test_a_broken_file_is_listed_and_the_rest_goes_on(tmp_path, capsys):
    study(tmp_path, subjects=4)
    (tmp_path / "s1" / "p1_volumes.tsv").write_text("id\tname\n3\tx\n")
    (tmp_path / "s2" / "p2_seg.nii.gz").write_bytes(b"\x1f\x8b broken")
    assert call(tmp_path / "s1", tmp_path / "s2", "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("2 subjects, 4 scans")
    lines = captured.err.splitlines()
    assert lines[0] == "voxseg: left out, because one scan only could be used: p1, p2"
    assert lines[1] == "voxseg: 2 files could not be used:"
    assert lines[2].startswith(f"  {tmp_path / 's1' / 'p1_volumes.tsv'}: has no column 'mm3'; ")
    assert lines[3].startswith(f"  {tmp_path / 's2' / 'p2_seg.nii.gz'}: ")
    assert len(lines) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, "bland_altman.png"])


def test_labels_of_different_meaning_are_not_compared(tmp_path, capsys):
    merged = LabelTable.freesurfer().select([17, 53, 16])
    other = LabelTable([type(label)(label.id, f"X-{label.name}", label.colour) for label in merged])
    one, two = write_boxes(tmp_path / "a_seg.nii", 9, 9, 9), write_boxes(tmp_path / "b_seg.nii", 9, 9, 9, table=other)
    assert call(one, two) == 2
    message = f"{two}: calls label 17 X-Left-Hippocampus, and {one} calls it Left-Hippocampus; compare results of one"
    assert message in capsys.readouterr().err
    TABLE.write(tmp_path / "labels.csv")
    assert call(one, two, "--labels", tmp_path / "labels.csv") == 0
    assert "Left-Hippocampus " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: does not exist; check the path"),
        (["s1"], "s1: p1_volumes.tsv does not say whose scan it is"),
        (["s1", "s1/p1_volumes.tsv"], "s1: is a folder, and files are given as well"),
        (["s1", "s2", "-o", "s1/p1_volumes.tsv"], "-o s1/p1_volumes.tsv: is a file; give a folder"),
        (["s1", "s2", "--labels", "none.csv"], "none.csv: does not exist"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    study(tmp_path, subjects=2)
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"voxseg: {message}")
    assert captured.err.count("\n") == 1


def test_what_can_go_wrong_is_told_without_heavy_imports():
    code = (
        "import sys; from pathlib import Path; from voxseg.cli.agreement import agreement\n"
        "try: agreement([Path('none')])\n"
        "except Exception as error: print(error)\n"
        "print({'torch', 'numpy', 'scipy', 'matplotlib', 'nibabel'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "none: does not exist; check the path\nset()\n"


def test_two_real_scans_of_one_person(shared_data, tmp_path, capsys):
    """The manual labels of OASIS's 1003 and 1023, whose names are FreeSurfer's."""
    files = [shared_data / "oasis_manual" / "validation" / name / "labels.nii.gz" for name in ("1003", "1023")]
    assert call(*files, "-o", tmp_path) == 0
    rows = read(tmp_path / "agreement.csv")
    for name in ("Brain-Stem", "Cerebral-White-Matter", "Thalamus", "Hippocampus"):
        assert 0 < float(rows[name]["absolute_difference_percent_mean"]) < 6
    label = np.asanyarray(nib.load(files[0]).dataobj)
    spacing = nib.load(files[0]).header.get_zooms()
    expected = np.count_nonzero(label == 10) * math.prod(map(float, spacing)) / 1000
    value = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert value["scans"][0]["ml"]["Left-Thalamus"] == pytest.approx(expected, rel=1e-5)
    assert value["sessions"] == ["1003", "1023"]
