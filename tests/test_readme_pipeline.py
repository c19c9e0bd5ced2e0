"""The lines of the README's "Use it in your pipeline" run as they stand, in a folder that has what they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from small_cases import save_head
from voxseg.cli.main import run
from voxseg.report.outputs import DICOM_OUTPUTS, OUTPUTS

README = Path(__file__).resolve().parents[1] / "README.md"


def lines(beginning: str) -> list[str]:
    """The lines of code in the section that begin so."""
    section = re.search(r"^## Use it in your pipeline\n(.*?)^## ", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section
    code = re.findall(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    found = [line for block in code for line in block.splitlines() if line.startswith(beginning)]
    assert found
    return found


def call(line: str) -> int:
    """Run a line of `voxseg`, without the comment behind it."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "voxseg"
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    return int(caught.value.code or 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bids(place: Path) -> None:
    for label in ("01", "02"):
        save_head(place / f"my_study/sub-{label}/anat/sub-{label}_T1w.nii.gz")
    for line in lines("voxseg bids"):
        assert call(line) == 0
    table = (place / "my_study/derivatives/voxseg/group_seg-brain_volumes.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in table] == ["participant_id", "sub-01", "sub-02"]


def test_dicom(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("highdicom")
    from dicom_files import head, slices, write

    write(slices(head(), number=3, description="T1 MPRAGE"), place / "dicom_export")
    write(slices(head(), number=5, description="FLAIR"), place / "dicom_export")
    shutil.make_archive("dicom_export", "zip", "dicom_export")
    for line in lines("voxseg predict"):
        assert call(line) == 0
    assert "T1 MPRAGE" in capsys.readouterr().out
    assert {path.name for path in (place / "results").iterdir()} == {
        f"dicom_export_series-3{end}" for end in (*OUTPUTS, *DICOM_OUTPUTS)
    }


def test_for_programs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(place / "scan.nii.gz")
    (line,) = lines("voxseg --json")
    command, _, file = line.partition(" > ")
    assert file == "done.json"
    assert call(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path in document["results"][0]["files"]} == {f"scan{end}" for end in OUTPUTS}


def test_watched_folder(place: Path) -> None:
    save_head(place / "incoming/scan.nii.gz")
    for line in lines("voxseg watch"):
        assert call(line) == 0
    assert {path.name for path in (place / "results").iterdir()} == {".watch", *(f"scan{end}" for end in OUTPUTS)}


def test_service(place: Path) -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "psutil"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8642)) == 0:
            pytest.skip("another program listens on port 8642")
    (line,) = lines("voxseg serve")
    arguments = shlex.split(line, comments=True)[1:]
    command = [sys.executable, "-c", "from voxseg.cli.main import run; run()", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "serving brain at http://127.0.0.1:8642; Ctrl-C ends\n"
            with urlopen("http://127.0.0.1:8642/api/about") as answer:
                assert json.load(answer)["model"] == "brain"
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 0


@pytest.mark.slow
def test_exports(place: Path) -> None:
    for package in ("onnxruntime", "onnxscript", "fire"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    for line in lines("voxseg export"):
        assert call(line) == 0
    made = {path.name for path in place.iterdir()}
    assert made == {"brain.onnx", "brain.onnx.json", "brain.ts", "brain.ts.json", "brain_bundle"}
    save_head(place / "scan.nii.gz")
    (line,) = lines("python -m monai.bundle")
    done = subprocess.run([sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "brain_bundle/results/scan_seg.nii.gz").is_file()
