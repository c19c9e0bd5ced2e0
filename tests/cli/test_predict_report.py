import nibabel as nib
import numpy as np
import pytest

from models import TWO_IMAGES, write_model
from voxseg.cli.main import run

FILES = ["a_qc.png", "a_report.html", "a_seg.json", "a_seg.nii.gz", "a_volumes.tsv"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def save(path, seed=0):
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (40, 44, 36)), indexing="ij")
    noise = np.random.default_rng(seed).integers(300, 900, x.shape)
    data = (noise * (x**2 + y**2 + z**2 < 15**2)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([-2.0, 2, 2, 1])), path)
    return path


def call(*arguments):
    with pytest.raises(SystemExit) as caught:
        run(["predict", *map(str, arguments)])
    return caught.value.code or 0


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_page_is_one_file_more(tmp_path, model, capsys):
    scan = save(tmp_path / "a.nii.gz")
    assert call(scan, "--model", model, "--report", "--device", "cpu", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == FILES
    captured = capsys.readouterr()
    assert "a_seg.json, a_report.html to" in captured.out
    assert captured.err == ""
    text = (tmp_path / "out" / "a_report.html").read_text(encoding="utf-8")
    assert "a.nii.gz" in text
    assert "model tiny" in text
    assert str(tmp_path) not in text
    volumes = [line.split("\t") for line in (tmp_path / "out" / "a_volumes.tsv").read_text().splitlines()[1:]]
    for _, name, _, _, mm3, _ in volumes:
        assert name in text
        assert float(mm3) == 0 or f"{float(mm3) / 1000:.2f}" in text.replace("\u202f", "")


def test_no_page_unless_it_is_asked_for(tmp_path, model):
    assert call(save(tmp_path / "a.nii.gz"), "--model", model, "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == [name for name in FILES if "report" not in name]


def test_images_of_a_case_can_be_chosen_from(tmp_path):
    model = write_model(tmp_path / "two", images=TWO_IMAGES)
    images = [f"{name}={save(tmp_path / f'{name}.nii.gz', seed)}" for seed, name in enumerate(TWO_IMAGES)]
    options = [part for image in images for part in ("--image", image)]
    assert call(*options, "--model", model, "--report", "-o", tmp_path / "out") == 0
    text = (tmp_path / "out" / "flair_report.html").read_text(encoding="utf-8")
    assert '{"name":"flair","low":' in text
    assert '{"name":"t1","low":' in text
    assert "flair: flair.nii.gz<br>t1: t1.nii.gz" in text


def test_what_is_missing_is_told_before_anything_is_computed(tmp_path, model, capsys, monkeypatch):
    scan = save(tmp_path / "a.nii.gz")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call(scan, "--model", model, "--report") == 2
    expected = "voxseg: --report: needs the package nilearn, which has the script of the viewer; install it with: "
    assert capsys.readouterr().err == f"{expected}pip install 'voxseg[report]'\n"
    assert names(tmp_path) == ["a.nii.gz"]


def test_all_files_or_none(tmp_path, model, monkeypatch):
    scan = save(tmp_path / "a.nii.gz")

    def write(path, *rest):
        path.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr("voxseg.report.scan_page.write_scan_page", write)
    assert call(scan, "--model", model, "--report") == 130
    assert names(tmp_path) == ["a.nii.gz"]
