"""`voxseg.predict` and `voxseg.load_model`: the same as the command line, from whatever holds a scan."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import voxseg
from models import IDS, TWO_IMAGES, write_model
from strict import no_warnings
from voxseg.api import StructureVolume, VolumeTable
from voxseg.cli.main import run
from voxseg.data.segmentation import read_label_names
from voxseg.errors import UserError
from voxseg.testing import rotation_matrix

OUTPUTS = ["s_qc.png", "s_seg.json", "s_seg.nii.gz", "s_volumes.tsv"]
# Oblique, left-handed, anisotropic.
AFFINE = np.eye(4)
AFFINE[:3, :3] = rotation_matrix((1.0, 2.0, -1.0), 17).numpy() @ np.diag([-2.0, 2.1, 2.4])
AFFINE[:3, 3] = 31, -40, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a scan and what the command makes of it."""
    folder = tmp_path_factory.mktemp("api")
    write_model(folder / "tiny")
    nib.save(nib.Nifti1Image(head(), AFFINE), folder / "s.nii.gz")
    with pytest.raises(SystemExit) as caught:
        run(["predict", str(folder / "s.nii.gz"), "--model", str(folder / "tiny"), "-o", str(folder / "cli")])
    assert not caught.value.code
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return voxseg.load_model(folder / "tiny", device="cpu")


@pytest.fixture(scope="module")
def expected(folder):
    return np.asanyarray(nib.load(folder / "cli" / "s_seg.nii.gz").dataobj)


@pytest.fixture(autouse=True)
def _no_warnings():
    with no_warnings():
        yield


def head(shape=(40, 44, 36)):
    """A noisy ball in empty space."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    noise = np.random.default_rng(0).integers(300, 900, shape)
    return (noise * (x**2 + y**2 + z**2 < 15**2)).astype(np.int16)


def test_the_files_are_those_of_the_command(folder, tmp_path):
    result = voxseg.predict(folder / "s.nii.gz", model=folder / "tiny", device="cpu")
    written = result.save(tmp_path / "new" / "results")
    assert sorted(path.name for path in written) == OUTPUTS
    for path in written:
        if path.suffix != ".json":  # which tells times
            assert path.read_bytes() == (folder / "cli" / path.name).read_bytes(), path.name


def test_every_holder_of_a_scan_gives_the_same(folder, model, expected):
    path = folder / "s.nii.gz"
    given = head()
    read_only = given.copy()
    read_only.setflags(write=False)
    image = nib.load(path)
    results = {
        "path": model.predict(path),
        "text": model.predict(str(path)),
        "array": model.predict(given, affine=image.affine),
        "float64": model.predict(given.astype(np.float64), affine=image.affine),
        "read-only": model.predict(read_only, affine=image.affine),
        "read-only float32": model.predict(frozen(np.asfortranarray(given, dtype=np.float32)), affine=image.affine),
        "big-endian": model.predict(given.astype(">i2"), affine=image.affine),
        "nibabel": model.predict(image),
        "nibabel in memory": model.predict(nib.Nifti1Image(given, image.affine)),
        "nibabel with an axis of length 1": model.predict(nib.Nifti1Image(given[..., None], image.affine)),
    }
    for how, result in results.items():
        assert np.array_equal(result.labels, expected), how
        assert result.labels.dtype == expected.dtype, how
        assert np.array_equal(result.affine, image.affine), how


def frozen(array):
    array.setflags(write=False)
    return array


def test_simpleitk_is_in_lps(folder, model, expected):
    result = model.predict(sitk.ReadImage(str(folder / "s.nii.gz")))
    assert result.affine == pytest.approx(nib.load(folder / "s.nii.gz").affine, abs=1e-4)
    assert np.mean(result.labels != expected) < 1e-4  # the affine is rounded otherwise


def test_the_order_of_axes_is_that_of_the_affine(folder, model, expected):
    """Turned as an array with the affine turned along: the same voxels."""
    stored, other = (nib.orientations.axcodes2ornt(axes) for axes in ("RAS", "PIR"))
    change, back = nib.orientations.ornt_transform(stored, other), nib.orientations.ornt_transform(other, stored)
    turned = nib.Nifti1Image(head(), AFFINE).as_reoriented(change)
    result = model.predict(np.asarray(turned.dataobj), affine=turned.affine)
    assert result.labels.shape == (44, 36, 40)
    same = nib.Nifti1Image(result.labels, result.affine).as_reoriented(back)
    assert np.allclose(same.affine, AFFINE)
    assert np.mean(np.asarray(same.dataobj) != expected) < 1e-4


def test_scaled_files_are_scaled_as_the_command_scales_them(folder, model, tmp_path):
    image = nib.Nifti1Image(head(), AFFINE)
    image.header.set_slope_inter(0.37, 11.5)
    nib.save(image, tmp_path / "scaled.nii")
    loaded = nib.load(tmp_path / "scaled.nii")
    assert loaded.dataobj.slope == pytest.approx(0.37)
    of_file, of_image = model.predict(tmp_path / "scaled.nii"), model.predict(loaded)
    assert np.array_equal(of_file.volume.data, of_image.volume.data)
    assert np.array_equal(of_file.labels, of_image.labels)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, bool])
def test_the_scan_is_not_changed(model, dtype):
    scan = np.asfortranarray(head()).astype(dtype)
    before = scan.copy()
    model.predict(scan, spacing=2).plot()
    assert np.array_equal(scan, before)


def test_spacing_alone(model):
    result = model.predict(head(), spacing=(2, 2.5, 3))
    assert np.array_equal(result.affine, np.diag([2, 2.5, 3, 1]))
    assert np.array_equal(model.predict(head(), spacing=2).affine, np.diag([2.0, 2, 2, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"scan: is an array, which does not say where its voxels lie; give affine="),
        ({"affine": np.eye(4), "spacing": 1}, "scan: is given an affine and a spacing"),
        ({"affine": np.eye(3)}, r"affine: has the shape \(3, 3\)"),
        ({"affine": np.diag([1.0, 1, 0, 1])}, "scan: the voxel spacing is 1 x 1 x 0 mm"),
        ({"spacing": (1, 2)}, r"spacing: is \(1, 2\); give three"),
        ({"spacing": (1, 2, -1)}, r"spacing: is \(1, 2, -1\)"),
        ({"spacing": 1, "image": np.zeros((20, 20, 20))}, "scan: every voxel is 0"),
        ({"spacing": 1, "image": np.full((20, 20, 20), np.nan)}, "scan: 8,000 of its voxels are not finite"),
        ({"spacing": 1, "image": np.zeros((20, 20, 20, 3))}, "scan: is 4-D"),
        ({"spacing": 1, "image": np.zeros((20, 20))}, "scan: is 2-D"),
        ({"spacing": 1, "image": np.zeros((20, 20, 20), complex)}, "scan: holds complex numbers"),
        ({"spacing": 1, "image": np.full((20, 20, 20), "a")}, "scan: holds values of the type"),
        ({"image": "missing.nii.gz"}, "missing.nii.gz: does not exist"),
        ({"image": "missing.nii.gz", "affine": np.eye(4)}, "missing.nii.gz: is a file, which has its place"),
        ({"image": nib.Nifti1Image(head(), np.eye(4)), "spacing": 1}, "scan: knows its place in space, and spacing="),
        ({"image": [head(), head()], "spacing": 1}, "scan: has 2 images; the model takes image"),
        ({"image": {"t1": head()}, "spacing": 1}, "scan: has the images t1; the model takes image"),
    ],
)
def test_mistakes(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.predict(**{"image": head(), **arguments})


def test_mistakes_are_told_in_python_words(folder, tmp_path, model, monkeypatch):
    monkeypatch.setattr("voxseg.inference.memory.reusable_memory", lambda: 0)  # what earlier tests have freed
    with pytest.raises(UserError, match=r"^model='heart': there is no such model; give one of these names"):
        voxseg.load_model("heart")
    with pytest.raises(UserError, match=r"^device='abacus': there is no such device; give auto, cpu"):
        voxseg.load_model(folder / "tiny", device="abacus")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: is a file; give a folder, or a name that ends in .nii.gz"):
        model.predict(head(), spacing=2).save(tmp_path / "file")
    with pytest.raises(UserError, match=r"choose another folder$"):
        model.predict(head(), spacing=2).save(tmp_path / "file" / "results")
    tight = voxseg.load_model(folder / "tiny", device="cpu", max_memory=0.0001)
    with pytest.raises(UserError, match="allow more with max_memory, or"):
        tight.predict(head(), spacing=2)
    with pytest.raises(TypeError, match="a scan is a path, an array, or an image of nibabel or SimpleITK, this is int"):
        model.predict(3)


def test_models_of_several_images(tmp_path):
    model = voxseg.load_model(write_model(tmp_path / "two", TWO_IMAGES), device="cpu")
    assert model.images == ["flair", "t1"]
    flair, t1 = head(), head()[:, ::-1].astype(np.float32)
    listed = model.predict([flair, t1], affine=AFFINE)
    named = model.predict({"t1": nib.Nifti1Image(t1, AFFINE), "flair": nib.Nifti1Image(flair, AFFINE)})
    swapped = model.predict([t1, flair], affine=AFFINE)
    assert np.array_equal(listed.labels, named.labels)
    assert not np.array_equal(listed.labels, swapped.labels)
    with pytest.raises(UserError, match="scan: is one image; the model takes flair, t1: give a list"):
        model.predict(flair, affine=AFFINE)
    with pytest.raises(UserError, match="scan: has the images flair; the model takes flair, t1"):
        model.predict({"flair": flair}, affine=AFFINE)


def test_volumes(folder, model, expected):
    volumes = model.predict(folder / "s.nii.gz").volumes()
    one = abs(np.linalg.det(nib.load(folder / "s.nii.gz").affine)) / 1000
    assert [row.id for row in volumes] == IDS
    for row in volumes:
        assert row.voxels == np.count_nonzero(expected == row.id)
        assert row.ml == pytest.approx(row.voxels * one, rel=1e-6)
        assert volumes[row.name] == volumes.as_dict()[row.name] == row.ml
    with pytest.raises(KeyError):
        volumes["Spleen"]


def test_volumes_are_shown_and_become_a_data_frame():
    rows = [StructureVolume(17, "Left-<Hippocampus>", "left", 1000, 3.1415926), StructureVolume(9, "b", "none", 0, 0.0)]
    table = VolumeTable(rows)
    assert repr(table).splitlines()[1:] == [
        "   17  Left-<Hippocampus>      3.142",
        "    9  b                   not found",
    ]
    page = table._repr_html_()
    assert "Left-&lt;Hippocampus&gt;" in page
    assert "3.142" in page
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table)
    assert list(frame.columns) == ["id", "name", "side", "voxels", "ml"]
    assert frame.ml.tolist() == [3.1415926, 0.0]


def test_pictures(model):
    result = model.predict(head(), affine=AFFINE, name="a<b")
    figure = result.plot()
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG")
    page = result._repr_html_()
    assert "a&lt;b" in page
    assert "data:image/png;base64," in page
    assert len(page) < 300_000
    assert "a<b" in repr(result)


def test_label_files_and_nibabel(folder, model, expected, tmp_path):
    result = model.predict(folder / "s.nii.gz")
    for name in ("a.nii.gz", "b.nii"):
        assert result.save(tmp_path / "deep" / name) == [tmp_path / "deep" / name]
    assert (tmp_path / "deep" / "a.nii.gz").read_bytes() == (folder / "cli" / "s_seg.nii.gz").read_bytes()
    image = result.to_nibabel()
    assert np.array_equal(np.asanyarray(image.dataobj), expected)
    assert image.header.binaryblock == nib.load(tmp_path / "deep" / "b.nii").header.binaryblock
    assert sorted(read_label_names(image.header)) == IDS
    large = model.predict(nib.Nifti2Image(head(), AFFINE)).to_nibabel()
    assert isinstance(large, nib.Nifti2Image)
    assert np.array_equal(large.affine, AFFINE)


def test_progress_is_told(model):
    told = []
    model.predict(head(), spacing=2, progress=lambda stage, fraction: told.append((stage, fraction)))
    assert [stage for stage, _ in told] == sorted(
        [stage for stage, _ in told], key=["preparing", "network", "restoring"].index
    )
    assert told[-1] == ("restoring", 1.0)


def test_the_process_may_be_large_already(folder, monkeypatch):
    """A notebook that holds more than the default limit still segments."""
    import voxseg.api
    import voxseg.inference.memory

    for module in (voxseg.api, voxseg.inference.memory):
        monkeypatch.setattr(module, "resident_memory", lambda: 100 * 10**9)
    assert voxseg.load_model(folder / "tiny", device="cpu").predict(head(), spacing=2).segmentation.windows == 1


LIGHT = """
import sys
import voxseg
assert {"predict", "load_model", "Result", "__version__"} <= set(dir(voxseg))
assert set(voxseg.__all__) <= set(dir(voxseg))
heavy = {"torch", "numpy", "nibabel", "matplotlib", "scipy", "pydantic"} & set(sys.modules)
assert not heavy, heavy
try:
    voxseg.segment
except AttributeError as error:
    assert str(error) == "module 'voxseg' has no attribute 'segment'"
else:
    raise AssertionError
from voxseg import load_model, predict
assert predict is voxseg.predict
assert "torch" in sys.modules
assert "matplotlib.pyplot" not in sys.modules and "monai" not in sys.modules
"""


def test_importing_voxseg_is_light():
    ran = subprocess.run([sys.executable, "-W", "error", "-c", LIGHT], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
