from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from heads import write_toy_heads
from voxseg.cli.synthesize import synthesize
from voxseg.data.datasets.find import find_dataset
from voxseg.data.labels import LabelTable
from voxseg.errors import UserError

SMALL = ["--set", "generator.window=[24, 20, 28]"]
PAIRS = {f"{kind}_{k:03d}.nii.gz" for kind in ("scan", "labels") for k in (0, 1)}
FILES = {"contact_sheet.png", "labels.csv", "provenance.json"} | PAIRS


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_heads(tmp_path_factory.mktemp("heads"), 1)


def run(*arguments: str | Path, config: str = "brain") -> None:
    """Run the command as `voxseg synthesize CONFIG ...`; exceptions come through."""
    app = typer.Typer()
    app.command()(synthesize)
    result = CliRunner().invoke(app, [config, *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_files(heads: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    run("-o", output, "-n", "2", "--data", heads, *SMALL)
    assert {path.name for path in output.iterdir()} == FILES
    record = json.loads((output / "provenance.json").read_text())
    assert record["kind"] == "generated scans"
    assert record["settings"]["seed"] == 0
    assert record["settings"]["generator"]["window"] == [24, 20, 28]
    for entry, folder in ((record["inputs"][0], heads), (record["outputs"][-1], output)):
        assert entry["sha256"] == hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    assert {entry["file"] for entry in record["outputs"]} == PAIRS
    assert len(LabelTable.read(output / "labels.csv")) == 16
    for k in range(2):
        scan, labels = nib.load(output / f"scan_{k:03d}.nii.gz"), nib.load(output / f"labels_{k:03d}.nii.gz")
        assert scan.shape == labels.shape == (24, 20, 28)
        assert scan.header.get_zooms() == labels.header.get_zooms() == (1.5, 1.5, 1.5)
        assert np.array_equal(scan.affine, labels.affine)
        assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
        middle = scan.affine @ [*((n - 1) / 2 for n in scan.shape), 1]
        assert middle.tolist() == [0, 0, 0, 1]
        assert labels.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 2, 3, 4, 10}


def test_same_seed_same_files(heads: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        run("-o", tmp_path / name, "-n", "1", "--data", heads, "--seed", seed, *SMALL)
    a, b, c = (np.asarray(nib.load(tmp_path / name / "scan_000.nii.gz").dataobj) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_unusable_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run("-o", tmp_path / "out", "--data", tmp_path)
    assert "holds no map_*.nii.gz" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data: is not set; give the folder of head label maps with --data"):
        run("-o", tmp_path / "out")


def test_output_that_is_a_file(heads: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="cannot be made"):
        run("-o", tmp_path / "out", "--data", heads, *SMALL)
    assert (tmp_path / "out").read_text() == "mine"


def test_nothing_is_half_written(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxseg.report.generated.write_segmentation", fail)
    with pytest.raises(UserError, match="No space left on device"):
        run("-o", tmp_path, "-n", "1", "--data", heads, *SMALL)
    assert list(tmp_path.iterdir()) == []


TUMOURS = ["--set", "spacing=6", "--set", "images=[flair, t1ce]"]


def test_tumours_are_a_data_set_that_is_found(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    run("-o", output, "-n", "2", *TUMOURS, config="tumours")
    expected = {"contact_sheet.png", "provenance.json", "Generated_001", "Generated_002"}
    assert {path.name for path in output.iterdir()} == expected
    dataset = find_dataset(output)
    assert [case.id for case in dataset.cases] == ["Generated_001", "Generated_002"]
    assert dataset.modalities == ["flair", "t1ce"]
    for case in dataset.cases:
        assert case.label == output / case.id / f"{case.id}_seg.nii.gz"
        labels = nib.load(case.label)
        assert labels.get_data_dtype() == np.uint8
        assert {0, 1, 2} <= set(np.unique(np.asarray(labels.dataobj))) <= {0, 1, 2, 4}
        for image in (nib.load(file.path) for file in case.images.values()):
            assert image.header.get_zooms() == (6, 6, 6)
            assert np.array_equal(image.affine, labels.affine)
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            assert np.asarray(image.dataobj)[np.asarray(labels.dataobj) > 0].min() > 0


def test_more_tumours_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    for name, number, seed in (("a", "1", "5"), ("b", "2", "5"), ("c", "1", "6")):
        run("-o", tmp_path / name, "-n", number, "--seed", seed, *TUMOURS, config="tumours")
    a, b, c = (
        np.asarray(nib.load(tmp_path / name / "Generated_001" / "Generated_001_flair.nii.gz").dataobj) for name in "abc"
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "spacin=2"], r"--set spacin: unknown key; did you mean 'spacing'\?"),
        (["--set", "spacing=none"], "--set spacing: 'none' is not allowed"),
        (["--set", "radius_mm=[20, 10]"], "least and a largest radius"),
        (["--data", "maps"], "--data: is not used by tumours"),
    ],
)
def test_tumours_that_cannot_be_made(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run("-o", tmp_path / "out", *arguments, config="tumours")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_config_that_generates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="brats2020: trains on a data set"):
        run("-o", tmp_path / "out", config="brats2020")
