"""`voxseg predict` for models that take several images of a case, and for folders of cases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from models import TWO_IMAGES, write_model
from voxseg.cli import _cases
from voxseg.cli.main import run

OUTPUTS = ["_qc.png", "_seg.json", "_seg.nii.gz", "_volumes.tsv"]
SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("models") / "two", TWO_IMAGES, regions=True))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("models") / "one"))


def save(path: Path, seed: int = 0, shift: float = 0, volumes: int = 1) -> Path:
    """A noisy ball in empty space."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    noise = np.random.default_rng(seed).integers(300, 900, (*SHAPE, volumes))
    data = (noise * (x**2 + y**2 + z**2 < 15**2)[..., None]).astype(np.int16)
    affine = np.diag([-2.0, 2, 2, 1])
    affine[0, 3] = shift
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data[..., 0] if volumes == 1 else data, affine), path)
    return path


def case(folder: Path, name: str, modalities: tuple[str, ...] = ("flair", "t1"), label: bool = False) -> Path:
    """A case of BraTS 2020."""
    for seed, modality in enumerate((*modalities, *(["seg"] if label else []))):
        save(folder / name / f"{name}_{modality}.nii.gz", seed)
    return folder / name


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run(["predict", *map(str, arguments), "--device", "cpu"])
    return int(caught.value.code or 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_a_data_set_a_case_and_named_images_say_the_same(tmp_path: Path, model: str, capsys) -> None:
    data = tmp_path / "data"
    case(data, "Br_001", label=True)
    case(data, "Br_002", ("t1", "flair", "t2"))
    assert call(data, "--model", model, "-o", tmp_path / "all") == 0
    assert names(tmp_path / "all") == [f"Br_00{n}{suffix}" for n in (1, 2) for suffix in OUTPUTS]
    assert f"{data}, Br_002: wrote Br_002_seg.nii.gz" in capsys.readouterr().out
    assert call(data / "Br_001", "--model", model, "-o", tmp_path / "one") == 0
    assert names(tmp_path / "one") == ["Br_001" + suffix for suffix in OUTPUTS]
    flair, t1 = (data / "Br_001" / f"Br_001_{m}.nii.gz" for m in ("flair", "t1"))
    # In any order; beside the first image of the model, and named after it: Br_001_seg would be the manual labels.
    before = (data / "Br_001" / "Br_001_seg.nii.gz").read_bytes()
    assert call("--image", f"t1={t1}", "--image", f"flair={flair}", "--model", model) == 0
    assert {"Br_001_flair" + suffix for suffix in OUTPUTS} <= set(names(data / "Br_001"))
    assert (data / "Br_001" / "Br_001_seg.nii.gz").read_bytes() == before
    results = [tmp_path / "all" / "Br_001_seg.nii.gz", tmp_path / "one" / "Br_001_seg.nii.gz"]
    results.append(data / "Br_001" / "Br_001_flair_seg.nii.gz")
    arrays = [voxels(path) for path in results]
    assert len(np.unique(arrays[0])) > 1
    assert all(np.array_equal(arrays[0], array) for array in arrays)
    # Results beside the scans are not taken for labels or images of another case.
    assert call(data / "Br_001", "--model", model, "-o", tmp_path / "again") == 0
    assert names(tmp_path / "again") == ["Br_001" + suffix for suffix in OUTPUTS]


def test_images_are_taken_in_the_order_of_the_model(tmp_path: Path, model: str) -> None:
    flair, t1 = save(tmp_path / "a.nii.gz", 0), save(tmp_path / "b.nii.gz", 1)
    for name, one, other in (("right", flair, t1), ("swapped", t1, flair)):
        given = ["--image", f"flair={one}", "--image", f"t1={other}"]
        assert call(*given, "--model", model, "-o", tmp_path / name) == 0
    assert not np.array_equal(
        voxels(tmp_path / "right" / "a_seg.nii.gz"), voxels(tmp_path / "swapped" / "b_seg.nii.gz")
    )


def test_volumes_of_one_file(tmp_path: Path) -> None:
    """The Decathlon keeps the images of a case in one 4-D file."""
    folder = write_model(tmp_path / "model", {"FLAIR": {}, "T1w": {}})
    data = tmp_path / "Task01"
    save(data / "imagesTs" / "BRATS_485.nii.gz", volumes=2)
    description = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "oedema"},
        "training": [],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (data / "dataset.json").write_text(json.dumps(description))
    assert call(data, "--model", folder, "-o", tmp_path / "out") == 0
    result = nib.load(tmp_path / "out" / "BRATS_485_seg.nii.gz")
    assert result.shape == SHAPE
    assert np.array_equal(result.affine, nib.load(data / "imagesTs" / "BRATS_485.nii.gz").affine)


def test_a_table_of_cases(tmp_path: Path, model: str) -> None:
    save(tmp_path / "a.nii.gz"), save(tmp_path / "b.nii.gz", 1)
    (tmp_path / "cases.csv").write_text("case,flair,t1\npatient,a.nii.gz,b.nii.gz\n")
    assert call(tmp_path / "cases.csv", "--model", model, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["patient" + suffix for suffix in OUTPUTS]


def test_models_of_one_image_take_data_sets_of_one(tmp_path: Path, single: str, capsys) -> None:
    save(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    assert call(tmp_path / "bids", "--model", single, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["sub-01" + suffix for suffix in OUTPUTS]
    save(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    capsys.readouterr()
    assert call(tmp_path / "bids", "--model", single, "-o", tmp_path / "out") == 2
    assert "has the images T1w, T2w, and the model takes one (image); give the files" in capsys.readouterr().err


def test_one_case_without_an_image_does_not_stop_the_others(tmp_path: Path, model: str, capsys) -> None:
    data = tmp_path / "data"
    case(data, "Br_001", ("t1",))
    case(data, "Br_002")
    assert call(data, "--model", model, "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["Br_002" + suffix for suffix in OUTPUTS]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        f"voxseg: {data}, Br_001: has no image flair (it has t1); the model takes flair, t1; give"
    )
    assert lines[1:] == ["voxseg: 1 of 2 scans failed:", f"  {data}, Br_001"]


BY_NAME = "give --image flair=FILE --image t1=FILE"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Br_001/Br_001_t1.nii.gz"], "Br_001/Br_001_t1.nii.gz: is one image, and the model takes 2 of a case (flair"),
        (["nowhere.nii.gz"], "nowhere.nii.gz: does not exist"),
        (["nowhere"], "nowhere: does not exist"),
        (["Br_001"], "Br_001: is a data set, which results are not written into; give a folder for them with -o"),
        (["empty", "-o", "out"], "empty: is not a data set in a known layout"),
        (["other", "-o", "out"], f"other: has no image t1 (it has flair, t2); the model takes flair, t1; {BY_NAME}"),
        (["Br_001", "-o", "Br_001"], "Br_001/Br_001_seg.nii.gz: belongs to the data set and would be overwritten"),
        (["Br_001", "copy/Br_001", "-o", "out"], "copy/Br_001: would write the same files as Br_001 (out/Br_001_seg"),
        (["--image", "flair=a.nii.gz"], f"--image: t1 is missing; {BY_NAME}"),
        (["--image", "t2=a.nii.gz"], f"--image t2=a.nii.gz: the model takes no image t2; {BY_NAME}"),
        (["--image", "flair"], f"--image flair: is not NAME=FILE; {BY_NAME}"),
        (["--image", "flair="], "--image flair=: is not NAME=FILE"),
        (["--image", "t1=a.nii", "--image", "t1=b.nii"], "--image t1=b.nii: t1 is given twice"),
        (["Br_001", "--image", "t1=a.nii"], "--image: names the images of one case, and scans are given as well"),
        (["--image", "t1=a.nii", "--image", "flair=b.nii"], "b.nii: does not exist"),
        (
            ["--image", "flair=Br_001/Br_001_flair.nii.gz", "--image", "t1=far.nii.gz", "-o", "out"],
            "far.nii.gz: lies up to 6.0 mm elsewhere than Br_001_flair.nii.gz, which has as many voxels",
        ),
    ],
)
def test_usage_errors(tmp_path: Path, model: str, capsys, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    case(tmp_path, "Br_001", label=True)
    case(tmp_path / "copy", "Br_001")
    case(tmp_path / "other", "Br_007", ("flair", "t2"))
    save(tmp_path / "far.nii.gz", shift=6)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert call(*arguments, "--model", model) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"voxseg: {message}")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_foreign_networks_need_leave(tmp_path: Path, capsys) -> None:
    pytest.importorskip("monai")
    from safetensors.torch import save_file

    from voxseg.networks import NetworkConfig, build_network

    folder = write_model(tmp_path / "model")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 4, "channels": [4, 8], "strides": [2]}
    config["network"] = {
        "architecture": "monai.networks.nets:UNet",
        "arguments": arguments,
        "multiple_of": 2,
        "out_channels": 4,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    network = build_network(NetworkConfig(**config["network"]))
    save_file({name: w.contiguous() for name, w in network.state_dict().items()}, folder / "model.safetensors")
    scan = save(tmp_path / "a.nii.gz")
    assert call(scan, "--model", folder) == 2
    error = capsys.readouterr().err
    assert "the network monai.networks.nets:UNet would be imported, which runs code that is not voxseg's;" in error
    assert error.count("\n") == 1
    assert names(tmp_path) == ["a.nii.gz", "model"]
    assert call(scan, "--model", folder, "--allow-import") == 0
    assert voxels(tmp_path / "a_seg.nii.gz").shape == SHAPE


def test_finding_cases_needs_nothing_heavy() -> None:
    """A wrong path is told within half a second."""
    import subprocess
    import sys

    program = f"import {_cases.__name__}, voxseg.inference.locate, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "nibabel", "matplotlib", "monai", "scipy"} & set(loaded)
