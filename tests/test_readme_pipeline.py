"""The lines of the README's "Use it in your pipeline" run as they stand, in a folder that has what they name."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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


def save_head(path: Path) -> None:
    """A ball of tissue in empty space, at 4 mm."""
    x, y, z = np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij")
    noise = np.random.default_rng(0).integers(300, 900, x.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((noise * (x**2 + y**2 + z**2 < 17**2)).astype(np.int16), np.diag([-4.0, 4, 4, 1]))
    nib.save(image, path)


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
