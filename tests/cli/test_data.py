import subprocess
import sys

import numpy as np
import pytest

from tiny_datasets import SHAPE, brats, save, scan, tumour
from voxseg.cli.main import run

CONFIG = """
name: tumours
steps: 10
dataset: {layout: LAYOUT}
labels:
  classes: [1, 2, 4]
  unlisted: refuse
  table: [{id: 1, name: core}, {id: 2, name: oedema}, {id: 4, name: enhancing}]
preparation:
  spacing: 2.0
  images: {flair: {scale: zscore}, t1ce: {scale: zscore}}
network:
  architecture: steerable_unet
  levels: [4x0e, 4x0e, 4x0e, 4x0e]
"""


def call(*arguments):
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        run(["data", "check", *map(str, arguments)])
    return caught.value.code or 0


def config(folder, layout="auto"):
    path = folder / "tumours.yaml"
    path.write_text(CONFIG.replace("LAYOUT", layout))
    return path


def test_a_good_data_set(tmp_path, capsys):
    assert call(brats(tmp_path)) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path}\nBraTS 2018 to 2021: 3 cases\n\nimage  cases  voxels (R x A x S)")
    assert captured.out.endswith("\n\nno errors, no warnings: training can begin\n")
    assert captured.err == ""


def test_warnings_do_not_fail(tmp_path, capsys):
    brats(tmp_path)
    path = "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz"
    save(tmp_path / path, np.zeros(SHAPE, dtype=np.uint8))
    assert call(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"warning: BraTS20_Training_001: {path} is empty: no voxel has a label" in lines
    assert lines[-1] == "no errors, 1 warning: training can begin"


def test_errors_fail_and_images_may_be_fewer(tmp_path, capsys):
    brats(tmp_path)
    (tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_t2.nii.gz").unlink()
    assert call(tmp_path) == 1
    line = "error: BraTS20_Training_001: has no t2; add the file, or leave out the case or the modality"
    assert line in capsys.readouterr().out.splitlines()
    assert call(tmp_path, "--images", "flair, t1ce") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["image", "flair", "t1ce", "label"]


def test_images_and_labels_of_a_config(tmp_path, capsys):
    folder = brats(tmp_path / "data")
    (folder / "BraTS20_Training_001" / "BraTS20_Training_001_t2.nii.gz").unlink()
    assert call(folder, "--config", config(tmp_path)) == 0
    assert "    2  oedema          3" in capsys.readouterr().out
    labels = tumour()
    labels[5, 5, 5] = 3
    save(folder / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii.gz", labels)
    assert call(folder, "--config", config(tmp_path)) == 1
    expected = "error: BraTS20_Training_001: holds the label 3 (1 voxel); known are 1 core, 2 oedema, 4 enhancing (lab"
    assert expected in capsys.readouterr().out
    assert call(folder, "--config", config(tmp_path), "--quick") == 0


def test_layout_of_a_config_and_in_its_place(tmp_path, capsys):
    folder = brats(tmp_path / "data")
    assert call(folder, "--config", config(tmp_path, "nnunet")) == 2
    assert capsys.readouterr().err.startswith(f"voxseg: {folder}: is not in the layout nnunet; looked for: nnU-Net (")
    assert call(folder, "--config", config(tmp_path, "nnunet"), "--layout", "brats") == 0


def test_patterns(tmp_path, capsys):
    for name in ("a", "b"):
        save(tmp_path / name / "t1.nii.gz", scan(ord(name)))
        save(tmp_path / name / "seg.nii.gz", tumour((ord(name),)))
    assert call(tmp_path, "--pattern", "t1=*/t1.nii.gz", "--pattern", "label=*/seg.nii.gz") == 0
    assert "patterns of paths: 2 cases" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "t1c"], "FOLDER: no case has an image t1c; choose among flair, t1, t1ce, t2 (--images, pr"),
        (["--pattern", "t1"], "--pattern t1: is not NAME=GLOB; write for example --pattern t1='*/t1.nii.gz'"),
        (["--pattern", "t1=*", "--layout", "bids"], "--layout bids: goes without --pattern; leave out one of them"),
        (["--config", "none"], "none: no such file and no such packaged config; packaged are: "),
        (["--config", "brain"], "brain: trains on generated scans and not on a data set; give a config with a block "
         "dataset"),
    ],
)  # fmt: skip
def test_wrong_calls(tmp_path, capsys, arguments, message):
    assert call(brats(tmp_path, 1), *arguments) == 2
    assert f"voxseg: {message}".replace("FOLDER", str(tmp_path)) in capsys.readouterr().err


def test_wrong_options(tmp_path, capsys):
    assert call(tmp_path, "--quick", "--full") == 2
    assert "--quick and --full exclude each other" in capsys.readouterr().err
    assert call(tmp_path, "--layout", "dicom") == 2
    assert call(tmp_path / "none") == 2
    assert capsys.readouterr().err.endswith(f"voxseg: {tmp_path / 'none'}: does not exist; check the path\n")


def test_help_and_wrong_folders_import_nothing_heavy(tmp_path):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('numpy', 'nibabel', 'torch') if m in sys.modules]))\n"
        "from voxseg.cli.main import run\n"
        f"run(['data', 'check', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not a data set in a known layout" in done.stderr
    assert done.stdout.strip() == "[]"


def test_real_folders(shared_data, capsys):
    assert call(shared_data / "brats") == 0
    out = capsys.readouterr().out
    assert "flair      4  240 x 240 x 155     1 x 1 x 1" in out
    assert "    2  oedema                               4           0.97 %  81.5 (35.4-148)" in out
    folder = shared_data / "oasis_manual" / "validation"
    assert call(folder, "--pattern", "t1=*/t1.nii.gz", "--pattern", "label=*/labels.nii.gz", "--quick") == 0
    assert "patterns of paths: 6 cases" in capsys.readouterr().out
