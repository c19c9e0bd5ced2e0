from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from voxseg.training.provenance import environment, git_revision, machine


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "tracked.txt").write_text("one")
    git(tmp_path, "add", "tracked.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_environment_is_plain_and_says_what_is_needed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("SOME_TOKEN", "very-secret-value")
    monkeypatch.setattr(sys, "argv", ["/opt/x/bin/voxseg", "train", "brain", "--data", str(Path.home() / "my data")])
    found = environment(torch.device("cpu"))
    text = json.dumps(found)
    assert json.loads(text) == found
    assert found["versions"]["torch"] == str(torch.__version__)
    assert {"voxseg", "python", "torch", "numpy", "monai"} <= set(found["versions"])
    assert found["command"] == "voxseg train brain --data '~/my data'"
    assert found["git"]["working_folder"] == {"revision": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert found["threads"] == torch.get_num_threads()
    assert found["gpu"] is None
    assert found["started"].endswith("+00:00")
    assert "very-secret-value" not in text
    assert str(Path.home()) not in text


def test_changed_files_are_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "new.txt").write_text("not tracked")
    revision = git_revision(checkout)
    assert revision is not None
    assert revision["dirty"] is False
    (checkout / "tracked.txt").write_text("two")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert git_revision(checkout) == {**revision, "dirty": True}
    assert git_revision(checkout, "tracked.txt") == {**revision, "dirty": True}
    # A package that was installed inside of somebody's checkout is not part of it.
    assert git_revision(checkout, "new.txt") is None


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(Path(__file__).parent) is None
    assert environment(torch.device("cpu"))["git"] == {"voxseg": None, "working_folder": None}


def test_machine_names_processor_and_threads() -> None:
    assert f"{torch.get_num_threads()} threads" in machine(torch.device("cpu"))
    assert machine(torch.device("mps")).endswith("(mps)")
