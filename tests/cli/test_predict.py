import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from models import IDS, write_model
from voxseg.cli.main import run
from voxseg.data.segmentation import GEOMETRY_FIELDS, read_label_names

OUTPUTS = ["_qc.png", "_seg.json", "_seg.nii.gz", "_volumes.tsv"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def head(shape=(40, 44, 36)):
    """A head-like scan: a noisy ball in empty space."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    noise = np.random.default_rng(0).integers(300, 900, shape)
    return (noise * (x**2 + y**2 + z**2 < 15**2)).astype(np.int16)


def save(path, data=None):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(head() if data is None else data, np.diag([-2.0, 2, 2, 1])), path)
    return path


def call(*arguments):
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        run(["predict", *map(str, arguments)])
    return caught.value.code or 0


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_beside_the_scan(tmp_path, model, capsys):
    scan = save(tmp_path / "sub-01.nii.gz")
    assert call(scan, "--model", model, "--device", "cpu", "--threads", "1", "--max-memory", "4") == 0
    assert names(tmp_path) == ["sub-01.nii.gz", *("sub-01" + suffix for suffix in OUTPUTS)]
    image = nib.load(tmp_path / "sub-01_seg.nii.gz")
    assert image.header.binaryblock[252:328] == nib.load(scan).header.binaryblock[252:328]
    assert sorted(read_label_names(image.header)) == IDS
    values, counts = np.unique(np.asanyarray(image.dataobj), return_counts=True)
    lines = [line.split("\t") for line in (tmp_path / "sub-01_volumes.tsv").read_text().splitlines()[1:]]
    assert {int(i): int(n) for i, _, _, n, *_ in lines if n != "0"} == dict(zip(values[1:], counts[1:], strict=True))
    assert all(float(mm3) == int(n) * 8 for _, _, _, n, mm3, _ in lines)
    assert all(0 <= float(sure) <= 1 for *_, sure in lines if sure != "n/a")
    assert (tmp_path / "sub-01_qc.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    plan, told = captured.out.splitlines()
    assert re.match(r"sub-01: 20 x 22 x 18 voxels of 4 mm at once, up to \d\.\d GB", plan)
    assert plan.endswith(" GB of the 4.0 GB allowed")
    files = "sub-01_seg.nii.gz, sub-01_volumes.tsv, sub-01_qc.png, sub-01_seg.json"
    assert told.startswith(f"{scan}: wrote {files} to {tmp_path}")
    record = json.loads((tmp_path / "sub-01_seg.json").read_text())
    assert record["model"]["name"] == "tiny"
    assert record["plan"] | {"expected_bytes": 0} == {
        "grid": [20, 22, 18],
        "spacing_mm": 4.0,
        "window": [20, 22, 18],
        "windows": 1,
        "expected_bytes": 0,
        "allowed_bytes": 4_000_000_000,
    }
    assert list(record["seconds"]) == ["reading", "preparing", "network", "restoring", "writing"]
    assert captured.err == ""


def test_formats_and_folder(tmp_path, model):
    save(tmp_path / "a.nii")
    nib.save(nib.MGHImage(head(), np.eye(4)), tmp_path / "b.mgz")
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    for name in ("c.nrrd", "d.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
    scans = [tmp_path / name for name in ("a.nii", "b.mgz", "c.nrrd", "d.mha")]
    assert call(*scans, "-o", tmp_path / "new" / "out", "--model", model) == 0
    assert names(tmp_path / "new" / "out") == sorted(f"{n}{suffix}" for n in "abcd" for suffix in OUTPUTS)
    results = [np.asanyarray(nib.load(tmp_path / "new" / "out" / f"{n}_seg.nii.gz").dataobj) for n in "acd"]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_scans_of_one_name_get_those_of_their_folders(tmp_path, model):
    scans = [save(tmp_path / name / "t1.nii.gz") for name in ("sub-1", "sub-2")]
    (tmp_path / "sub-1" / "ses-1").mkdir()
    scans.append(save(tmp_path / "sub-1" / "ses-1" / "t1.nii"))
    other = save(tmp_path / "sub-2" / "t2.nii.gz")
    assert call(*scans, other, "-o", tmp_path / "out", "--model", model) == 0
    found = {name.removesuffix("_seg.json") for name in names(tmp_path / "out") if name.endswith("_seg.json")}
    assert found == {"sub-1_t1", "sub-2_t1", "ses-1_t1", "t2"}
    assert call(scans[0], scans[0], "-o", tmp_path / "twice", "--model", model) == 2


def test_a_failing_scan_does_not_stop_the_others(tmp_path, model, capsys):
    good, bad, missing = (
        save(tmp_path / "a.nii.gz"),
        save(tmp_path / "b.nii.gz", np.zeros((20, 20, 20))),
        tmp_path / "c.nii",
    )
    assert call(bad, missing, good, "--model", model, "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["a" + suffix for suffix in OUTPUTS]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"voxseg: {bad}: every voxel is 0; give a scan with an image in it"
    assert lines[1] == f"voxseg: {missing}: does not exist; check the path"
    assert lines[2:] == ["voxseg: 2 of 3 scans failed:", f"  {bad}", f"  {missing}"]


@pytest.mark.parametrize("count", [1, 2])
def test_exit_code_2_if_no_scan_could_be_used(tmp_path, model, count, capsys):
    scans = [save(tmp_path / f"{i}.nii.gz", np.zeros((20, 20, 20))) for i in range(count)]
    assert call(*scans, "--model", model, "-o", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
    assert len(capsys.readouterr().err.splitlines()) == (1 if count == 1 else 5)


def test_an_error_of_ours_is_told_as_one_and_the_rest_goes_on(tmp_path, model, capsys, monkeypatch):
    from voxseg.inference.predictor import Predictor

    original = Predictor.segment

    def segment(self, volume, progress):
        if volume.name == "a":
            raise RuntimeError("odd")
        return original(self, volume, progress)

    monkeypatch.setattr(Predictor, "segment", segment)
    scans = [save(tmp_path / f"{n}.nii.gz") for n in "ab"]
    assert call(*scans, "--model", model) == 1
    assert f"voxseg: {scans[0]}: RuntimeError: odd; this is a bug in voxseg" in capsys.readouterr().err
    assert "b_seg.nii.gz" in names(tmp_path)
    assert call(scans[0], "--model", model) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SCAN: no scan is given"),
        (["a/s.nii.gz", "a/S.mgz"], "a/S.mgz: would write the same files as a/s.nii.gz"),
        (["a/s.nii.gz", "-o", "a/s.nii.gz"], "-o a/s.nii.gz: is a file"),
        (["a/s.nii.gz", "-o", "a/s.nii.gz/out"], "a/s.nii.gz: is not a folder"),
        (["a/s.nii.gz", "--model", "heart"], "--model heart: there is no such model"),
        (["a/s.nii.gz", "--device", "cuda"], "--device cuda: this machine"),
        (["a"], "a: is a folder"),
        (["a/none.nii.gz"], "a/none.nii.gz: does not exist"),
    ],
)
def test_usage_errors(tmp_path, model, capsys, monkeypatch, arguments, message):
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a" / "s.nii.gz")
    save(tmp_path / "b" / "s.nii")
    before = sorted(tmp_path.rglob("*"))
    given = arguments if "--model" in arguments else [*arguments, "--model", model]
    assert call(*given) == 2
    assert capsys.readouterr().err.startswith(f"voxseg: {message}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_permission_is_told_before_work(tmp_path, model, capsys, monkeypatch):
    scan = save(tmp_path / "a.nii.gz")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert call(scan, "--model", model) == 2
    assert f"voxseg: {tmp_path}: may not be written to (no permission)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("odd")])
def test_nothing_is_half_written(tmp_path, model, monkeypatch, error):
    scan = save(tmp_path / "a.nii.gz")
    (tmp_path / "a_volumes.tsv").write_text("from an earlier run")

    def draw(path, *rest):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("voxseg.report.qc.draw_qc", draw)
    code = {KeyboardInterrupt: 130, OSError: 2, ValueError: 1}[type(error)]
    assert call(scan, "--model", model) == code
    assert names(tmp_path) == ["a.nii.gz", "a_volumes.tsv"]
    assert (tmp_path / "a_volumes.tsv").read_text() == "from an earlier run"


def test_nothing_found_is_said(tmp_path, model, capsys, monkeypatch):
    from voxseg.inference import predictor

    def nothing(self, image, progress):
        import torch

        result = torch.zeros(len(IDS) + 1, *image.shape[1:])
        result[0] = 1
        return result, 1

    monkeypatch.setattr(predictor.Predictor, "_probabilities", nothing)
    scan = save(tmp_path / "a.nii.gz")
    assert call(scan, "--model", model) == 0
    assert "nothing was found" in capsys.readouterr().err
    assert not np.asanyarray(nib.load(tmp_path / "a_seg.nii.gz").dataobj).any()


def test_progress_is_shown_on_a_terminal(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert call(save(tmp_path / "a.nii.gz"), "--model", model) == 0
    shown = capsys.readouterr().err
    assert all(f"a: {stage}" in shown for stage in ("preparing", "network", "restoring", "writing", "drawing"))


def test_example(tmp_path, model, monkeypatch):
    pytest.importorskip("nilearn")
    monkeypatch.chdir(tmp_path)
    assert call("--example", "--model", model) == 0
    assert names(tmp_path) == ["icbm152" + suffix for suffix in OUTPUTS]
    assert nib.load("icbm152_seg.nii.gz").shape == (197, 233, 189)


def test_example_without_nilearn(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call("--example", "--model", model) == 2
    expected = "voxseg: --example: needs the package nilearn, which has the example scan; install it with: "
    assert capsys.readouterr().err == f"{expected}pip install 'voxseg[example]'\n"


OFFLINE = """
import os, sys, traceback
def watch(event, arguments):
    if event == "socket.__new__":  # of any family: a program that needs one fails
        # nibabel imports pydicom if it is installed, that urllib3, and that tries whether there is IPv6.
        callers = {frame.filename.split("site-packages/")[-1] for frame in traceback.extract_stack()}
        if "urllib3/util/connection.py" not in callers:
            sys.stderr.write(f"{event} {arguments} {callers}\\n")
            os._exit(99)
        raise OSError("there are no sockets")
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn"):
        sys.stderr.write(f"{event} {arguments}\\n")
        os._exit(99)
sys.addaudithook(watch)
from voxseg.cli.main import run
run(sys.argv[1:])
"""


def test_no_socket_is_made_and_no_program_started(tmp_path, model):
    scan = save(tmp_path / "a.nii.gz")
    arguments = [sys.executable, "-c", OFFLINE, "predict", str(scan), "--model", model, "--report", "--probabilities"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"a_seg.nii.gz", "a_report.html"} <= set(names(tmp_path))
    probe = [sys.executable, "-c", OFFLINE.replace("from voxseg", "import socket; socket.socket(); from voxseg"), "x"]
    assert subprocess.run(probe, capture_output=True, timeout=60).returncode == 99  # it does notice


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_terminated_run_leaves_nothing_behind(tmp_path, model):
    scan = save(tmp_path / "a.nii.gz")
    program = f"""
import sys, time, voxseg.report.qc as qc
from pathlib import Path
def draw(path, *rest):
    path.write_bytes(b"half")
    Path({str(tmp_path / "drawing")!r}).touch()
    time.sleep(60)
qc.draw_qc = draw
from voxseg.cli.main import run
run(["predict", {str(scan)!r}, "--model", {model!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "drawing").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert any(name.startswith(".") for name in names(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.returncode == 143
    assert names(tmp_path) == ["a.nii.gz", "drawing"]


def test_real_scans(tmp_path, model, shared_data: Path):
    scans = [
        shared_data / "whole_heads" / "t1.nii.gz",
        shared_data / "whole_heads" / "pd.nii.gz",
        shared_data / "oasis_manual" / "validation" / "1003" / "t1.nii.gz",
        shared_data / "fsaverage" / "brain.nii.gz",
    ]
    for number, scan in enumerate(scans):
        folder = tmp_path / str(number)
        assert call(scan, "--model", model, "-o", folder) == 0
        (result,) = folder.glob("*_seg.nii.gz")
        one, other = nib.load(scan).header, nib.load(result).header
        assert one["dim"].tobytes() == other["dim"].tobytes()
        for field in GEOMETRY_FIELDS:
            assert one[field].tobytes() == other[field].tobytes(), field
