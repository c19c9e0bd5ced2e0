"""The record beside every output: complete, true, and without what identifies anybody."""

import getpass
import gzip
import hashlib
import importlib.metadata
import json
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import voxseg
from dicom_files import SECRETS, head, slices, write
from models import IDS, REGIONS, TWO_IMAGES, write_model
from voxseg.cli.main import run
from voxseg.provenance import plain, to_json


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(list(map(str, arguments)))
    assert ended.value.code == 0


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save(path, image_class=nib.Nifti1Image):
    """A scan in whose header there is somebody's name wherever there is room for one."""
    image = image_class(head(), np.diag([-2.0, 2, 2, 1]))
    image.header.set_xyzt_units("mm", "sec")
    for field, text in (
        ("descrip", b"Doe, Jane"),
        ("aux_file", b"jane"),
        ("db_name", b"JANE"),
        ("intent_name", b"DOE"),
    ):
        if field in image.header:
            image.header[field] = text
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"Jane Doe 1970"))
    image.set_sform(image.affine, 2)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    return path


def keys(value):
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys(inner)}
    return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()


@pytest.mark.parametrize(("image_class", "form"), [(nib.Nifti1Image, "NIfTI-1"), (nib.Nifti2Image, "NIfTI-2")])
def test_a_segmentation(tmp_path, model, capfd, image_class, form):
    scan = save(tmp_path / "scan.nii.gz", image_class)
    call("predict", scan, "--model", model, "--threads", 1, "--device", "cpu", "--max-memory", 3, "-o", tmp_path / "o")
    text = (tmp_path / "o" / "scan_seg.json").read_text()
    record = json.loads(text)
    assert (record["format"], record["kind"]) == (1, "segmentation")
    software = record["software"]
    assert software["voxseg"] == voxseg.__version__
    assert software["nibabel"] == importlib.metadata.version("nibabel")
    assert {"python", "torch", "SimpleITK", "numpy", "scipy"} <= set(software)
    assert record["model"] == {"name": "tiny", "sha256": sha256(model / "model.safetensors"), "licence": None}
    (image,) = record["inputs"]
    assert image["sha256"] == sha256(scan)
    assert (image["file"], image["bytes"], image["format"]) == ("scan.nii.gz", scan.stat().st_size, form)
    header = nib.load(scan).header
    for key in ("sform_code", "qform_code", "xyzt_units", "srow_x", "pixdim", "quatern_b", "dim"):
        assert np.array_equal(image["header"][key], header[key]), key
    assert image["geometry"]["affine_ras_mm"] == nib.load(scan).affine.tolist()
    assert (image["geometry"]["orientation"], image["geometry"]["handedness"]) == ("LAS", "left")
    assert record["settings"] == {
        "device": "cpu",
        "threads": 1,
        "max_memory": 3_000_000_000,
        "allow_import": False,
        "report": False,
        "probabilities": False,
    }
    assert record["warnings"] == []
    assert 0 <= record["quality"] <= 1
    assert record["started"].endswith("+00:00")
    assert {entry["file"] for entry in record["outputs"]} == {"scan_seg.nii.gz", "scan_volumes.tsv", "scan_qc.png"}
    for entry in record["outputs"]:
        assert entry["sha256"] == sha256(tmp_path / "o" / entry["file"])
    documented = (Path(__file__).parents[1] / "docs" / "provenance.md").read_text()
    known = set(software) | set(record["seconds"])
    assert not [key for key in keys(record) - known if f"`{key}`" not in documented]
    captured = capfd.readouterr()
    told = (text + captured.out + captured.err).casefold()
    told = told.replace(str(tmp_path).casefold(), "")
    assert not [name for name in ("jane", "doe", "1970", socket.gethostname().casefold()) if name in told]
    assert f"/{getpass.getuser()}/" not in told


def test_dicom(tmp_path, model, capfd):
    """Of the header of DICOM nothing but the modality; the hash is that of the images, whatever they are called."""
    study = write(slices(head(), tilt=0.5), tmp_path / "study")
    call("predict", study, "--model", model, "-o", tmp_path / "o", "--json")
    captured = capfd.readouterr()
    record = json.loads((tmp_path / "o" / "study_seg.json").read_text())
    (image,) = record["inputs"]
    assert (image["format"], image["files"]) == ("DICOM", 36)
    assert image["dicom"] == {"modality": "MR", "resampled": True}
    hashes = sorted(sha256(path) for path in study.iterdir())
    assert image["sha256"] == hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert any("tilted" in text for text in record["warnings"])
    assert json.loads(captured.out)["results"][0]["warnings"] == record["warnings"]
    told = (json.dumps(record) + captured.out + captured.err).casefold()
    assert not [secret for secret in SECRETS if secret in told]
    assert "20200101" not in told  # when the patient was scanned
    for number, path in enumerate(sorted(study.iterdir(), reverse=True)):
        path.rename(study / f"renamed-{number}")
    call("predict", study, "--model", model, "-o", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "study_seg.json").read_text())["inputs"][0]["sha256"] == image["sha256"]


def test_several_images_and_probabilities(tmp_path):
    model = write_model(tmp_path / "two", TWO_IMAGES, regions=True)
    flair, t1 = save(tmp_path / "flair.nii.gz"), save(tmp_path / "t1.nii.gz")
    images = ["--image", f"flair={flair}", "--image", f"t1={t1}"]
    call("predict", *images, "--model", model, "-o", tmp_path / "o", "--probabilities")
    record = json.loads((tmp_path / "o" / "flair_seg.json").read_text())
    assert [image["image"] for image in record["inputs"]] == ["flair", "t1"]
    assert {"flair_probabilities.nii.gz", "flair_probabilities.json"} <= {e["file"] for e in record["outputs"]}
    assert record["settings"]["probabilities"] is True
    names = json.loads((tmp_path / "o" / "flair_probabilities.json").read_text())
    assert names == {"LabelMap": [region["name"] for region in REGIONS]}
    stored, labels = nib.load(tmp_path / "o" / "flair_probabilities.nii.gz"), nib.load(tmp_path / "o/flair_seg.nii.gz")
    assert np.array_equal(stored.affine, labels.affine)
    # Regions are painted in their order, each where it is more probable than not.
    painted = np.zeros(labels.shape)
    for k, region in enumerate(REGIONS):
        painted[stored.get_fdata()[..., k] > 0.5] = region["label"]
    assert (painted != np.asanyarray(labels.dataobj)).mean() < 0.01  # where rounding to 1/255 decides
    assert len(np.unique(painted)) > 1
    content = gzip.decompress((tmp_path / "o" / "flair_probabilities.nii.gz").read_bytes())[:352].lower()
    assert not [name for name in (b"jane", b"doe") if name in content]


def test_probabilities_of_classes_and_what_fails_leaves_nothing(tmp_path, model, monkeypatch):
    scan = save(tmp_path / "scan.nii.gz")
    call("predict", scan, "--model", model, "-o", tmp_path / "o", "--probabilities")
    stored = nib.load(tmp_path / "o" / "scan_probabilities.nii.gz")
    labels = np.asanyarray(nib.load(tmp_path / "o" / "scan_seg.nii.gz").dataobj)
    assert stored.shape == (*labels.shape, len(IDS) + 1)
    likely = np.array([0, *IDS])[stored.get_fdata().argmax(-1)]
    assert (likely != labels).mean() < 0.02
    before = sorted(path.name for path in (tmp_path / "o").iterdir())
    call("predict", scan, "--model", model, "-o", tmp_path / "o", "--probabilities", "--skip-existing")
    monkeypatch.setattr("voxseg.report.qc.draw_qc", lambda *arguments: 1 / 0)
    for target in ("o", "new"):
        with pytest.raises(SystemExit) as ended:
            run(["predict", str(scan), "--model", str(model), "-o", str(tmp_path / target), "--probabilities"])
        assert ended.value.code == 1
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == before
    assert list((tmp_path / "new").iterdir()) == []


def test_bids_and_exports(tmp_path, model):
    raw = tmp_path / "raw"
    (raw / "sub-1" / "anat").mkdir(parents=True)
    scan = save(raw / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    call("bids", raw, tmp_path / "out", "participant", "--model", model)
    (sidecar,) = (tmp_path / "out").rglob("*_dseg.json")
    record = json.loads(sidecar.read_text())["Provenance"]
    assert record["inputs"][0]["sha256"] == sha256(scan)
    assert record["model"]["sha256"] == sha256(model / "model.safetensors")
    assert list(record["seconds"])[-1] == "writing"
    assert "sub-1_seg-tiny_dseg.nii.gz" in {entry["file"] for entry in record["outputs"]}
    call("export", "--format", "torchscript", "--model", model, "-o", tmp_path)
    exported = json.loads((tmp_path / "tiny.ts.json").read_text())["provenance"]
    assert (exported["kind"], exported["model"]) == ("exported model", record["model"])


def test_in_python(tmp_path, model):
    scan = save(tmp_path / "scan.nii.gz")
    voxseg.predict(scan, model).save(tmp_path / "o")
    record = json.loads((tmp_path / "o" / "scan_seg.json").read_text())
    assert record["inputs"][0]["sha256"] == sha256(scan)
    assert record["model"]["sha256"] == sha256(model / "model.safetensors")
    voxseg.predict(head(), model, spacing=2.0, name="array").save(tmp_path / "o")
    (image,) = json.loads((tmp_path / "o" / "array_seg.json").read_text())["inputs"]
    assert (image["file"], image["sha256"], image["format"]) == (None, None, "array")


def test_plain_values():
    value = {"a": np.float32("nan"), "b": (1, np.int16(2)), "c": Path("x"), 3: np.eye(2), "d": [None, True, 1.5]}
    assert plain(value) == {"a": None, "b": [1, 2], "c": "x", "3": [[1, 0], [0, 1]], "d": [None, True, 1.5]}
    assert json.loads(to_json({"name": "caf\udce9"})) == {"name": "caf\udce9"}
