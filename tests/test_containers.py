"""The recipes of the images, an image where one has been built, and the descriptor of Boutiques."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from packaging.requirements import Requirement

import voxseg
from models import write_model
from small_cases import save_head
from voxseg import __version__

CONTAINERS = Path(__file__).resolve().parents[1] / "containers"


def locked() -> dict[str, str]:
    lines = (CONTAINERS / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_locked_to_a_version_that_fits() -> None:
    versions = locked()
    needed = [Requirement(line) for line in requires("voxseg") or []]
    needed = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": "report"})]
    assert {"torch", "nilearn"} <= {requirement.name for requirement in needed}
    for requirement in needed:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement


@pytest.mark.parametrize("recipe", ["Dockerfile", "voxseg.def"])
def test_images_are_built_from_the_lock_file_alone(recipe: str) -> None:
    text = (CONTAINERS / recipe).read_text()
    installs = re.findall(r"pip install((?:[^\n]*\\\n)*[^\n]*)", text)
    assert len(installs) == 2
    assert all("--no-deps" in install for install in installs)
    assert "requirements.lock" in installs[0]
    assert f"voxseg:{__version__}" in text


def test_the_image_does_not_run_as_root() -> None:
    lines = (CONTAINERS / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    assert lines.index(f"USER {users[0]}") < next(k for k, line in enumerate(lines) if line.startswith("ENTRYPOINT"))


def run_image(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the image with docker or podman; or with VOXSEG_RUN_IMAGE, for engines that need options of their own."""
    command = shlex.split(os.environ.get("VOXSEG_RUN_IMAGE", ""))
    command = command or [shutil.which("docker") or shutil.which("podman") or "docker", "run"]
    try:
        return subprocess.run([*command, "--rm", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


@pytest.mark.slow
def test_the_image_predicts_without_root_network_or_a_place_to_write(tmp_path: Path) -> None:
    """The command of docs/pipelines.md, in an image that has been built by the one above it."""
    image = f"voxseg:{__version__}"
    nothing = run_image("--pull=never", "--entrypoint", "/bin/true", image)
    if nothing.returncode != 0:  # no engine, no image, or an engine that cannot start anything here
        pytest.skip(f"the image {image} cannot be started: {' '.join(nothing.stderr.split())}")
    tmp_path.chmod(0o777)  # the image has no root, who could write everywhere
    save_head(tmp_path / "scan.nii.gz")
    options = [
        "--network",
        "none",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--user",
        "10001:10001",
        "-v",
        f"{tmp_path}:/data",
    ]
    done = run_image(*options, image, "predict", "/data/scan.nii.gz")
    assert done.returncode == 0, done.stderr
    written = {"scan_seg.nii.gz", "scan_volumes.tsv", "scan_qc.png", "scan_seg.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz", *written}
    inside = np.asanyarray(nib.load(tmp_path / "scan_seg.nii.gz").dataobj)
    here = voxseg.load_model("brain", device="cpu").predict(tmp_path / "scan.nii.gz").labels
    assert (inside == here).mean() > 0.9999


def test_boutiques_runs_what_the_descriptor_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bosh = pytest.importorskip("boutiques", reason="Boutiques is not installed")
    descriptor = str(CONTAINERS / "voxseg.boutiques.json")
    bosh.validate(descriptor)
    assert json.loads(Path(descriptor).read_text())["tool-version"] == __version__
    model = write_model(tmp_path / "model")
    save_head(tmp_path / "scan.nii.gz")
    invocation = tmp_path / "invocation.json"
    invocation.write_text(
        json.dumps({"scan": "scan.nii.gz", "output_folder": "out", "model": str(model), "device": "cpu", "threads": 1})
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    done = bosh.execute("launch", descriptor, str(invocation), "--skip-data-collection")
    assert done.exit_code == 0, done.stderr
    assert not done.missing_files
    assert sorted(Path(file.file_name).name for file in done.output_files) == [
        "scan_qc.png",
        "scan_seg.nii.gz",
        "scan_volumes.tsv",
    ]
