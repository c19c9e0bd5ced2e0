"""What goes wrong around `voxseg predict`: disks, permissions, kills, odd names and links."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from models import write_model
from voxseg.cli.main import run

OUTPUTS = ("_qc.png", "_seg.json", "_seg.nii.gz", "_volumes.tsv")
PROBABILITIES = ("_probabilities.json", "_probabilities.nii.gz")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits, users and signals are those of POSIX")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """A scan of a noisy ball, to be copied."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (20, 22, 18)), indexing="ij")
    data = np.random.default_rng(0).integers(300, 900, x.shape) * (x**2 + y**2 + z**2 < 64)
    path = tmp_path_factory.mktemp("ball") / "ball.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.int16), np.diag([-4.0, 4, 4, 1])), path)
    return path


def copy(ball, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ball, path)
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(["predict", *map(str, arguments), "--threads", "1", "--device", "cpu"])
    return ended.value.code


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def results(name, suffixes=OUTPUTS):
    return sorted(name + suffix for suffix in suffixes)


# Disks


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_full_disk(tmp_path, ball, model, capsys, part):
    """Files may not grow beyond a size, which fails as a full disk does; that of the largest, and less."""
    scan = copy(ball, tmp_path / "scan.nii.gz")
    assert call(scan, "--model", model, "--probabilities", "-o", tmp_path / "whole") == 0
    largest = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    old = tmp_path / "out" / "scan_volumes.tsv"
    old.parent.mkdir()
    old.write_text("from an earlier run")
    capsys.readouterr()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * largest), before[1]))
    try:
        code = call(scan, "--model", model, "--probabilities", "-o", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"voxseg: {tmp_path / 'out'}: the results cannot be written (File too large); choose ")
    assert error.count("\n") == 1
    assert names(tmp_path / "out") == ["scan_volumes.tsv"]
    assert old.read_text() == "from an earlier run"


def test_a_disk_that_is_really_full(tmp_path, ball, model, capsys):
    """On a file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        scan = copy(ball, tmp_path / "scan.nii.gz")
        assert call(scan, "--model", model, "-o", disk) == 2
        assert names(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert f"{disk}: the results cannot be written (No space left on device)" in capsys.readouterr().err


READ_ONLY_ROOT = """
import ctypes, json, os, sys
from voxseg.cli.main import run

if os.getuid() == 0:  # root may write everywhere: only the right to read everything is kept
    version, read_everything = 0x20080522, 1 << 2  # _LINUX_CAPABILITY_VERSION_3, CAP_DAC_READ_SEARCH
    rights = (ctypes.c_uint32 * 6)(read_everything, read_everything, 0, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(version, 0), rights):
        sys.exit(os.strerror(ctypes.get_errno()))
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        run(["predict", *arguments, "--threads", "1", "--device", "cpu"])
    except SystemExit as end:
        codes.append(end.code)
sys.exit(0 if codes == [2, 2] else f"exit codes {codes}")
"""


@pytest.mark.skipif(sys.platform != "linux" and os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(ball, model, tmp_path):
    scan, out = copy(ball, tmp_path / "scan.nii.gz"), tmp_path / "out"
    out.mkdir()
    out.chmod(0o555)
    calls = [[str(scan), "--model", str(model), "-o", str(folder)] for folder in (out, out / "new")]
    program = [sys.executable, "-c", READ_ONLY_ROOT, json.dumps(calls)]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    out.chmod(0o755)
    refusal = f"voxseg: {out}: may not be written to (no permission); choose another folder with -o\n"
    assert (ended.returncode, ended.stderr) == (0, 2 * refusal)
    assert names(out) == []


# Kills, and two at once

TRIAL = """
import json, os, sys
import matplotlib.figure, torch
import voxseg.data.segmentation, voxseg.inference.predictor, voxseg.report.qc
from voxseg.cli.main import run

def child(arguments, folder, die_at=None, count_into=None):
    # torch is imported once and the processes forked: that takes a tenth of the time.
    process = os.fork()
    if process:
        return process
    seen = 0
    def watch(event, given):
        nonlocal seen
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or not str(given[0]).startswith(folder):
            return
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), 9)
    sys.addaudithook(watch)
    code = 70
    try:
        run(arguments)
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        if count_into:
            with open(count_into, "w") as file:
                file.write(str(seen))
        os._exit(code)

def code_of(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

for line in sys.stdin:
    trial = json.loads(line)
    processes = [child(**one) for one in trial]
    print(json.dumps([code_of(process) for process in processes]), flush=True)
"""


@pytest.fixture(scope="module")
def trial():
    """Runs commands in processes of their own, at the same time; gives their exit codes."""
    program = [sys.executable, "-c", TRIAL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:

        def run_all(*processes):
            process.stdin.write(json.dumps(processes) + "\n")
            process.stdin.flush()
            # Forked processes print to the same pipe.
            return next(json.loads(line) for line in process.stdout if line.startswith("["))

        yield run_all
        process.stdin.close()


def arguments_for(scan, model, out, *more):
    given = [
        "predict",
        scan,
        "--model",
        model,
        "-o",
        out,
        "--threads",
        "1",
        "--device",
        "cpu",
        "--probabilities",
        *more,
    ]
    return [str(argument) for argument in given]


def assert_complete(out, reference, name="scan"):
    """All files are there and whole, and nothing else."""
    assert names(out) == results(name, OUTPUTS + PROBABILITIES)
    assert_whole(out, reference)


def assert_whole(out, reference):
    """What has its name is whole; what a killed process has left has none."""
    for path in out.iterdir():
        if path.name.startswith("."):
            continue
        if path.name.endswith("_seg.json"):
            assert json.loads(path.read_text())["kind"] == "segmentation"
        else:
            assert path.read_bytes() == (reference / path.name).read_bytes(), path.name


def kill_at(moments, trial, tmp_path, ball, model):
    scan, reference = copy(ball, tmp_path / "scan.nii.gz"), tmp_path / "reference"
    counted = tmp_path / "count"
    given = arguments_for(scan, model, reference)
    assert trial({"arguments": given, "folder": str(reference), "count_into": str(counted)}) == [0]
    count = int(counted.read_text())
    assert count > 12
    left = 0
    for moment in moments(count):
        out = tmp_path / f"out-{moment}"
        given = arguments_for(scan, model, out, "--skip-existing")
        assert trial({"arguments": given, "folder": str(out), "die_at": moment}) == [-9], moment
        if out.exists():
            assert_whole(out, reference)
            left += any(name.startswith(".") for name in names(out))
        assert trial({"arguments": given, "folder": str(out)}) == [0]
        assert_complete(out, reference)
    assert left  # some were killed while they wrote


@pytest.mark.slow
def test_killed_while_writing(trial, tmp_path, ball, model):
    kill_at(lambda count: [count // 4, count // 2, count - 6, count - 2], trial, tmp_path, ball, model)


@pytest.mark.slow
def test_killed_at_every_access_to_a_file(trial, tmp_path, ball, model):
    kill_at(lambda count: range(1, count), trial, tmp_path, ball, model)


@pytest.mark.parametrize("more", [(), ("--skip-existing",)], ids=["plain", "skip-existing"])
def test_two_processes_at_one_scan(trial, tmp_path, ball, model, more):
    scan, reference, out = copy(ball, tmp_path / "scan.nii.gz"), tmp_path / "reference", tmp_path / "out"
    given = arguments_for(scan, model, reference)
    assert trial({"arguments": given, "folder": str(reference)}) == [0]
    given = arguments_for(scan, model, out, *more)
    assert trial(*(2 * [{"arguments": given, "folder": str(out)}])) == [0, 0]
    assert_complete(out, reference)


# Names

ODD = ["Kopf von Jürgen.nii.gz", "頭 部.nii", "tab\there.nii.gz", "[0-9]*?.nii.gz", "-dash.nii", "per%cent {x}.nii.gz"]
ODD += ["C:\\data\\scan.nii.gz", "emoji 🧠.nii", "quote'\".nii.gz", "dollar$$ $x_1$ \\frac.nii"]


def test_odd_names(tmp_path, ball, model, capsys):
    folder = tmp_path / "Ünï cödé [1]"
    scans = [folder / name for name in ODD]
    for scan in scans:
        if scan.suffix == ".nii":
            nib.save(nib.load(copy(ball, tmp_path / "ball.nii.gz")), scan)
        else:
            copy(ball, scan)
    image = sitk.ReadImage(str(ball))
    for name in ("größe.nrrd", "größe 2.mha"):
        sitk.WriteImage(image, str(folder / name))
        scans.append(folder / name)
    out = tmp_path / "Ergebnisse für Ärzte"
    assert call("--model", model, "-o", out, *scans) == 0
    stems = [scan.name.removesuffix(".gz").rpartition(".")[0] for scan in scans]
    assert names(out) == sorted(name for stem in stems for name in results(stem))
    error = capsys.readouterr().err
    assert "bug" not in error
    assert "Glyph" not in error


def test_a_name_that_looks_like_an_option(tmp_path, ball, model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy(ball, tmp_path / "--report.nii.gz")
    with pytest.raises(SystemExit) as ended:
        run(["predict", "--model", str(model), "--", "--report.nii.gz"])
    assert ended.value.code == 0
    assert names(tmp_path) == sorted(["--report.nii.gz", *results("--report")])


def test_a_name_that_is_no_unicode(tmp_path, ball, model, capfd):
    """As on a disk that an old Windows has written to."""
    scan = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nii.gz"))
    try:
        copy(ball, scan)
    except OSError:
        pytest.skip("this file system has Unicode names only")
    assert call(scan, "--model", model, "--report") == 0
    assert "caf\\udce9: wrote" in capfd.readouterr().out.replace(".nii.gz", "")
    assert len(names(tmp_path)) == 6
    scan.unlink()
    assert call(scan, "--model", model, "--json") == 2
    assert json.loads(capfd.readouterr().out)["errors"][0]["what"] == str(scan)


@pytest.mark.parametrize("name", ["C:\\Users\\me\\scan.nii.gz", "D:/scan.nii", "\\\\server\\share\\scan.mgz"])
def test_paths_of_windows_that_are_none_here(tmp_path, model, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert call(name, "--model", model) == 2
    assert capsys.readouterr().err == f"voxseg: {name}: does not exist; check the path\n"
    assert names(tmp_path) == []


# Links


def test_links_to_scans_and_folders(tmp_path, ball, model):
    scan = copy(ball, tmp_path / "archive" / "0001.nii.gz")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "sub-1.nii.gz").symlink_to(scan)
    (tmp_path / "folder").symlink_to(tmp_path / "archive")
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert call(tmp_path / "work" / "sub-1.nii.gz", "--model", model) == 0
    assert names(tmp_path / "work") == sorted(["sub-1.nii.gz", *results("sub-1")])
    assert call(tmp_path / "folder" / "0001.nii.gz", "--model", model, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "real") == results("0001")
    assert names(tmp_path / "archive") == ["0001.nii.gz"]


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(tmp_path, ball, model):
    scan, precious = copy(ball, tmp_path / "scan.nii.gz"), tmp_path / "precious.txt"
    precious.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "scan_seg.nii.gz").symlink_to(precious)
    (out / "scan_volumes.tsv").symlink_to(out / "scan_volumes.tsv")  # a loop
    (out / "scan_qc.png").symlink_to(tmp_path / "nowhere")
    assert call(scan, "--model", model, "-o", out) == 0
    assert precious.read_text() == "precious"
    assert names(out) == results("scan")
    assert not any(path.is_symlink() for path in out.iterdir())


@pytest.mark.parametrize("to", ["nowhere", "link"], ids=["dangling", "loop"])
def test_links_that_lead_nowhere(tmp_path, ball, model, capsys, to):
    link, folder = tmp_path / "link.nii.gz", tmp_path / "folder"
    link.symlink_to(tmp_path / ("link.nii.gz" if to == "link" else "nowhere"))
    folder.symlink_to(tmp_path / ("folder" if to == "link" else "nowhere"))
    assert call(link, "--model", model) == 2
    assert capsys.readouterr().err == (
        f"voxseg: {link}: is a link that leads nowhere; mend it, or give the file itself\n"
    )
    scan = copy(ball, tmp_path / "scan.nii.gz")
    for out in (folder, folder / "in"):
        assert call(scan, "--model", model, "-o", out) == 2
        message = f"{folder}: is a link that leads nowhere; mend it, or choose another folder with -o"
        assert capsys.readouterr().err == f"voxseg: {message}\n"
    assert names(tmp_path) == ["folder", "link.nii.gz", "scan.nii.gz"]
