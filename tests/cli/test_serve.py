"""`voxseg serve` as a process of its own: the same results as `voxseg predict`, and nothing left behind."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from models import write_model
from small_cases import save_head
from voxseg.cli import serve as module
from voxseg.cli.main import run
from voxseg.report.outputs import DICOM_OUTPUTS, OUTPUTS

for package in ("fastapi", "uvicorn", "python_multipart", "psutil", "httpx"):
    pytest.importorskip(package, reason=f"{package} is not installed")

import httpx  # noqa: E402

SECONDS = 120  # until a test gives up


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


class Server:
    """A `voxseg serve` that was started, and its answers."""

    def __init__(self, folder, model, *arguments):
        self.folder = folder
        command = [sys.executable, "-c", "from voxseg.cli.main import run; run()", "serve", "--port", "0"]
        command += ["--model", str(model), "--device", "cpu", "--threads", "1", *arguments]
        environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "VOXSEG_DEBUG": ""}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.said = [self.process.stdout.readline()]
        while "serving" not in self.said[-1]:
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], self.said
        address = self.said[-1].split(" at ")[1].split(";")[0]
        self.client = httpx.Client(base_url=address, timeout=SECONDS)

    def segment(self, path, **data):
        """The status of a job in the end."""
        with open(path, "rb") as file:
            answer = self.client.post("/api/jobs", files={"image": (path.name, file)}, data=data)
        assert answer.status_code == 202, answer.text
        end = time.monotonic() + SECONDS
        while (told := self.client.get(f"/api/jobs/{answer.json()['id']}").json())["state"] in ("queued", "running"):
            assert time.monotonic() < end
            time.sleep(0.05)
        return told

    def results(self, told):
        """The files of a job."""
        answer = self.client.get(f"/api/jobs/{told['id']}/results.zip")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def end(self, number=signal.SIGTERM):
        """The exit code."""
        self.client.close()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.said.append(rest)
        return self.process.returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("temporary")
    started = Server(folder, model)
    yield started
    assert started.end() == 0
    assert list(folder.iterdir()) == []


def test_the_results_are_those_of_predict(server, model, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    save_head(scan)
    with pytest.raises(SystemExit) as ended:
        run(
            [
                "predict",
                str(scan),
                "--model",
                str(model),
                "--device",
                "cpu",
                "--threads",
                "1",
                "-o",
                str(tmp_path / "out"),
            ]
        )
    assert not ended.value.code
    scan = scan.rename(tmp_path / "Zebulon Quixote.nii.gz")
    told = server.segment(scan)
    assert told["state"] == "done", told
    found = server.results(told)
    assert set(found) >= {f"scan{end}" for end in OUTPUTS}
    for end in ("_seg.nii.gz", "_volumes.tsv", "_qc.png"):
        assert found[f"scan{end}"] == (tmp_path / "out" / f"scan{end}").read_bytes(), end
    record, other = (
        json.loads(text) for text in (found["scan_seg.json"], (tmp_path / "out/scan_seg.json").read_text())
    )
    assert record["inputs"] == other["inputs"]
    assert record["model"] == other["model"]
    assert all(b"Zebulon" not in content for content in found.values())
    assert sorted(one["bytes"] for one in told["result"]["files"]) == sorted(map(len, found.values()))


def test_dicom_with_several_series_and_a_patient(server, tmp_path):
    pytest.importorskip("highdicom")
    from dicom_files import SECRETS, head, slices, write

    exam = tmp_path / "exam"
    write(slices(head(), number=3, description="T1 MPRAGE"), exam / "Zebulon^Quixote")
    write(slices(head(), number=5, description="FLAIR"), exam / "Zebulon^Quixote")
    shutil.make_archive(str(tmp_path / "Zebulon_Quixote"), "zip", exam)
    archive = tmp_path / "Zebulon_Quixote.zip"
    told = server.segment(archive)
    assert told["state"] == "failed"
    assert told["error"]["problem"] == "has 2 series that are volumes"
    assert [one["series"] for one in told["error"]["series"]] == ["3", "5"]
    told = server.segment(archive, series="3")
    assert told["state"] == "done", told
    found = server.results(told)
    names = {f"scan_series-3{end}" for end in (*OUTPUTS, *DICOM_OUTPUTS)}
    assert set(found) - {"scan_series-3_report.html"} == names
    text = json.dumps(told) + "".join(server.said) + found["scan_series-3_seg.json"].decode()
    text += found["scan_series-3_volumes.tsv"].decode() + found.get("scan_series-3_report.html", b"").decode()
    assert [secret for secret in SECRETS if secret in text.lower()] == []


@pytest.mark.parametrize(
    ("name", "files", "problem"),
    [
        ("a.zip", {"..\\evil.nii.gz": b"x"}, "holds a name that leads out of it"),
        ("a.zip", {"../evil": b"x"}, "holds a name that leads out of it"),
        ("a.zip", {"notes.txt": b"hello"}, "holds no DICOM images"),
        ("a.zip", {"bomb": b"\0" * 10**8}, "holds more than 67 MB, which is too much for a file of its size"),
        ("a.nii", None, "is damaged .*|is no .*|cannot be read.*"),
    ],
)
def test_what_cannot_be_segmented_is_told(server, tmp_path, name, files, problem):
    path = tmp_path / name
    if files is None:
        path.write_bytes(b"\x5c\x01\0\0" + b"\xff" * 600)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
    told = server.segment(path)
    assert told["state"] == "failed"
    assert re.match(problem, told["error"]["problem"]), told
    assert told["error"]["remedy"]
    assert str(server.folder) not in json.dumps(told)


@pytest.mark.slow
def test_killed_and_started_again(tmp_path, model):
    """What it leaves is removed by the next one, and its job does not outlive it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    first = Server(folder, model)
    save_head(tmp_path / "a.nii.gz")
    import psutil

    with open(tmp_path / "a.nii.gz", "rb") as file:
        first.client.post("/api/jobs", files={"image": ("a.nii.gz", file)})
    end = time.monotonic() + SECONDS
    while not (children := psutil.Process(first.process.pid).children()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert psutil.wait_procs(children, SECONDS)[1] == []
    (left,) = [path.name for path in folder.iterdir() if path.name.startswith("voxseg-serve-")]
    second = Server(folder, model)
    assert not (folder / left).exists()
    assert second.end(signal.SIGINT) == 0
    assert list(folder.glob("voxseg-serve-*")) == []


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(["serve", *map(str, arguments)])
    return ended.value.code


def test_mistakes_are_told_in_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("VOXSEG_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        calls = {
            ("--port", port): f"--port {port}: is used by another program",
            ("--host", "0.0.0.0"): "--host 0.0.0.0: can be reached from other machines",
            ("--host", "no such name"): "--host no such name: there is no such address",
            ("--token", "short"): "--token: has to be 16 letters and digits at least",
            ("--model", tmp_path / "none"): "there is no such model",
            ("--keep", __file__): "cannot be made",
        }
        for arguments, problem in calls.items():
            assert call(*arguments) == 2
            told = capsys.readouterr().err
            assert problem in told
            assert told.count("\n") == 1


def test_a_model_that_is_damaged_is_told_at_the_start(tmp_path, model, capsys):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    assert call("--port", 0, "--model", broken, "--device", "cpu") == 2
    told = capsys.readouterr().err
    assert "model.safetensors" in told
    assert told.count("\n") == 1


def test_what_is_not_installed_is_told(monkeypatch, capsys):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "uvicorn" else True)
    assert call() == 2
    assert capsys.readouterr().err == (
        "voxseg: voxseg serve: needs the package uvicorn; install it with: pip install 'voxseg[serve]'\n"
    )
