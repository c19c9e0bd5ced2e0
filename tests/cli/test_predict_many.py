"""`voxseg predict` of several scans: read ahead, written behind, shared by several processes."""

import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from heads import toy_labels
from models import write_model
from voxseg.cli.main import run

SUFFIXES = ("_qc.png", "_seg.json", "_seg.nii.gz", "_volumes.tsv")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def save(folder, count):
    labels = toy_labels()[::2, ::2, ::2].astype(np.float32)
    paths = [folder / f"s{k}.nii.gz" for k in range(count)]
    for k, path in enumerate(paths):
        nib.save(nib.Nifti1Image(labels + k, np.diag([4.0, 4, 4, 1])), path)
    return [str(path) for path in paths]


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(["predict", *map(str, arguments), "--threads", "1", "--device", "cpu"])
    return ended.value.code


def test_scans_are_told_in_order_with_their_rate(tmp_path, model, capsys):
    scans = save(tmp_path, 4)
    (tmp_path / "s1.nii.gz").write_bytes(b"no scan")
    assert call(*scans, "--model", model, "--verbose") == 1
    captured = capsys.readouterr()
    wrote = [line.split(":")[0] for line in captured.out.splitlines() if ": wrote" in line]
    assert wrote == [scans[0], scans[2], scans[3]]
    assert re.search(r"^3 scans in \d+ s, [\d.]+ an hour$", captured.out, re.MULTILINE)
    stages = [line for line in captured.out.splitlines() if line.startswith("  ")]
    assert len(stages) == 3
    form = r"  reading [\d.]+ s, preparing [\d.]+ s, network [\d.]+ s, restoring [\d.]+ s, writing [\d.]+ s"
    assert all(re.fullmatch(form, line) for line in stages)
    seconds = json.loads((tmp_path / "s2_seg.json").read_text())["seconds"]
    told = dict(part.split() for part in stages[1].replace(" s", "").split(","))
    assert list(seconds) == list(told)
    for stage in set(told) - {"writing"}:  # which is told with the time of putting the files in their places
        assert seconds[stage] == pytest.approx(float(told[stage]), abs=0.006)
    assert captured.err.count("voxseg: ") == 2  # the failure, and the list of failures
    assert sorted(p.name for p in tmp_path.glob("s2_*")) == [f"s2{suffix}" for suffix in SUFFIXES]


def test_beside_each_other_or_one_by_one_gives_the_same(tmp_path, model, monkeypatch):
    scans = save(tmp_path, 3)
    assert call(*scans, "--model", model, "-o", tmp_path / "a") == 0
    monkeypatch.setattr("voxseg.cli._batch.BESIDE", 0.0)
    assert call(*scans, "--model", model, "-o", tmp_path / "b") == 0
    written = [
        path for path in sorted((tmp_path / "a").iterdir()) if path.suffix != ".json"
    ]  # times are never the same
    assert len(written) == 9
    for one in written:
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


def test_parts(tmp_path, model, capsys):
    scans = save(tmp_path, 3)
    assert call(*scans, "--model", model, "--part", "2/2") == 0
    assert not list(tmp_path.glob("s0_*"))
    assert sorted(p.name for p in tmp_path.glob("s1_*")) == [f"s1{suffix}" for suffix in SUFFIXES]
    assert call(*scans, "--model", model, "--part", "3/2") == 2
    assert "there is no such part" in capsys.readouterr().err


def test_what_is_complete_is_skipped(tmp_path, model, capsys):
    scans = save(tmp_path, 3)
    assert call(*scans[:2], "--model", model) == 0
    (tmp_path / "s1_qc.png").unlink()  # a process was killed before its last file
    before = (tmp_path / "s0_seg.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert call(*scans, "--model", model, "--skip-existing") == 0
    out = capsys.readouterr().out
    assert out.count(": wrote") == 2
    assert "1 of 3 scans were skipped" in out
    assert (tmp_path / "s0_seg.nii.gz").stat().st_mtime_ns == before
    assert all((tmp_path / f"s{k}{suffix}").is_file() for k in range(3) for suffix in SUFFIXES)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_two_processes_share_a_list(tmp_path, model):
    scans = save(tmp_path, 6)
    command = [sys.executable, "-m", "voxseg", "predict", *scans, "--model", model, "--skip-existing", "--threads", "1"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = "".join(process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(line.split(":")[0] for line in told.splitlines() if ": wrote" in line) == scans
    assert not list(tmp_path.glob(".*"))
