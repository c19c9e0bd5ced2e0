"""`voxseg predict` with DICOM in and out."""

import gzip
import re
import warnings

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_files import SECRETS, head, slices, write
from models import TWO_IMAGES, write_model
from voxseg.cli.main import run
from voxseg.data.labels import LabelTable


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def call(*arguments):
    """Run the command; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        run(["predict", *map(str, arguments)])
    return caught.value.code or 0


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def labels(path):
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def test_series_are_listed_and_picked(tmp_path, model, capsys):
    study = write(slices(head(), number=3), tmp_path / "study")
    write(slices(head(), number=4, description="other"), study)
    write(slices(head()[:, :, :1], number=9, description="scout"), study)
    assert call(study, "--list-series") == 0
    listed = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", listed[2].strip()) == ["3", "MR", "40 x 44 x 36, 2 x 2 x 2 mm", "T1 mprage"]
    assert listed[4].endswith("  no volume: has images of one place only, and is no volume")
    assert call(study, "--model", model, "-o", tmp_path / "out") == 2
    assert "choose with --series (3, 4, or all)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call(study, "--model", model, "-o", tmp_path / "out", "--series", "all") == 0
    assert {name.split("_seg.nii.gz")[0] for name in names(tmp_path / "out") if name.endswith("_seg.nii.gz")} == {
        "study_series-3",
        "study_series-4",
    }


def test_dicom_and_nifti_of_it_have_the_same_labels(tmp_path, model):
    write(slices(head()), tmp_path / "dicom")
    data = head()
    affine = np.diag([-2.0, -2, 2, 1])
    affine[:3, 3] = 40, 50, -30
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "nifti.nii.gz")
    assert call(tmp_path / "dicom", tmp_path / "nifti.nii.gz", "--model", model) == 0
    one, two = labels(tmp_path / "dicom_seg.nii.gz"), labels(tmp_path / "nifti_seg.nii.gz")
    assert len(np.unique(one[0])) > 1
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert "nifti_seg.dcm" not in names(tmp_path)
    read = hd.seg.segread(tmp_path / "dicom_seg.dcm").get_volume(combine_segments=True, allow_missing_positions=True)
    table = LabelTable.read(f"{model}/labels.csv")
    for k, label in enumerate(table, start=1):
        there, here = np.argwhere(read.array == k), np.argwhere(one[0] == label.id)
        assert len(there) == len(here)
        if len(here):
            ras = (read.affine[:3, :3] @ there.mean(0) + read.affine[:3, 3]) * [-1, -1, 1]
            assert np.allclose(ras, one[1][:3, :3] @ here.mean(0) + one[1][:3, 3], atol=1e-3)
    assert pydicom.dcmread(tmp_path / "dicom_qc.dcm").SeriesDescription.startswith("voxseg")


def test_one_bad_folder_does_not_stop_the_others(tmp_path, model, capsys):
    write(slices(head()), tmp_path / "good")
    bad = slices(head())
    write(bad[:10] + bad[12:], tmp_path / "bad")
    assert call(tmp_path / "bad", tmp_path / "good", "--model", model, "-o", tmp_path / "out") == 1
    assert "about 2 of its slices are missing" in capsys.readouterr().err
    assert "good_seg.nii.gz" in names(tmp_path / "out")


def test_models_of_several_images_take_series_by_name(tmp_path, capsys):
    model = write_model(tmp_path / "two", TWO_IMAGES)
    study = write(slices(head(), number=3), tmp_path / "study")
    write(slices(head(), number=4, description="other"), study)
    assert call(study, "--model", model) == 2
    assert "give --series flair=NUMBER --series t1=NUMBER" in capsys.readouterr().err
    assert call(study, "--model", model, "--series", "flair=3", "--series", "t1=4") == 0
    assert "study_seg.nii.gz" in names(tmp_path)


def test_series_without_dicom_is_refused(tmp_path, model, capsys):
    nib.save(nib.Nifti1Image(head(), np.eye(4)), tmp_path / "a.nii.gz")
    assert call(tmp_path / "a.nii.gz", "--series", "3", "--model", model) == 2
    assert "--series: picks series of DICOM" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--json",), ("--debug",)], ids=["plain", "json", "debug"])
def test_nothing_that_identifies_the_patient_leaves_the_files(tmp_path, model, capfd, monkeypatch, more):
    """Not in what is told, even with tracebacks, nor in names of files or in files that are no DICOM."""
    monkeypatch.setenv("VOXSEG_DEBUG", "0")  # --debug sets it for the process
    write(slices(head(), tilt=0.5), tmp_path / "study")
    bad = write(slices(head())[:5], tmp_path / "bad")
    odd = slices(head())
    odd[3].PixelSpacing = None  # pydicom would quote what is wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns when they are made too
        odd[4].PatientBirthDate, odd[5].StudyTime = "19530704-odd", "zebulon"
        write(odd, tmp_path / "odd")
    scans = [tmp_path / "study", bad, tmp_path / "odd"]
    given = ["predict", *scans, "--model", model, "-o", tmp_path / "out", "--verbose", "--report", "--probabilities"]
    front = [one for one in more if one == "--debug"]
    with pytest.raises(SystemExit) as ended:
        run([*front, *map(str, given), *(one for one in more if one not in front)])
    assert ended.value.code == 1
    call(tmp_path / "study", "--list-series", *(one for one in more if one not in front))
    captured = capfd.readouterr()
    told = (captured.out + captured.err).casefold()
    assert "tilted" in told
    assert ("traceback" in told) == (more == ("--debug",))
    for path in (tmp_path / "out").iterdir():
        told += path.name.casefold()
        if path.suffix != ".dcm":
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            told += content.decode("latin-1").casefold()
    assert not [secret for secret in SECRETS if secret in told]
