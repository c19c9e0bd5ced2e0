"""The wrong things that users do, each told in one exact line."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tiny_datasets import AFFINE, SHAPE, brats, brats_case, decathlon, nnunet, save, scan, tumour
from voxseg.data.datasets.check import check_dataset
from voxseg.data.datasets.contents import could_be_labels, fingerprint
from voxseg.data.datasets.examine import count_labels
from voxseg.data.datasets.find import find_dataset
from voxseg.data.datasets.summary import summarise
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.volume import read_header
from voxseg.errors import UserError

CASE = "BraTS20_Training_002"
SEG = f"{CASE}/{CASE}_seg.nii.gz"
FLAIR = f"{CASE}/{CASE}_flair.nii.gz"
TABLE = [{"id": 1, "name": "core"}, {"id": 2, "name": "oedema"}, {"id": 4, "name": "enhancing"}]


def scheme(classes=(1, 2, 4), unlisted="refuse"):
    return LabelScheme.model_validate({"classes": list(classes), "unlisted": unlisted, "table": TABLE})


def findings(folder, *arguments, **options):
    report = check_dataset(find_dataset(folder), *arguments, **options)
    assert report.ok == (not report.errors)
    return [(finding.level, finding.case, finding.text) for finding in report.findings]


def moved(millimetres):
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-400])


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    content[-1] ^= 0x01  # the length: else only reading all of it would tell
    path.write_bytes(content)


def empty_file(path):
    path.write_bytes(b"")


def swap(first, second):
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def float_scan():
    return (scan(7) / np.float32(1000)).astype(np.float32)


def odd_label():
    labels = tumour()
    labels[3, 3, 3:5] = 3
    return labels


def half_a_label():
    labels = tumour().astype(np.float32)
    labels[3, 3, 3] = 0.5
    return labels


def nan_scan():
    data = float_scan()
    data[0, 0, 0] = np.nan
    return data


MISTAKES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "nothing wrong": (lambda folder: None, []),
    "missing modality": (
        lambda folder: (folder / FLAIR).unlink(),
        [("error", "has no flair; add the file, or leave out the case or the modality")],
    ),
    "missing modalities": (
        lambda folder: [(folder / CASE / f"{CASE}_{name}.nii.gz").unlink() for name in ("t1", "t2")],
        [("error", "has no t1 and no t2; add the file, or leave out the case or the modality")],
    ),
    "missing label": (
        lambda folder: (folder / SEG).unlink(),
        [("error", "has no label file; add it, or leave out the case")],
    ),
    "label 3 in BraTS 2020": (
        lambda folder: save(folder / SEG, odd_label()),
        [("error", "holds the label 3 (2 voxels); known are 1 necrotic and non-enhancing core, 2 oedema, 4 enhancing "
          "tumour (BraTS 2018 to 2021); correct the file, or check with the config of your own labels (--config)")],
    ),
    "fractions in a label file": (
        lambda folder: save(folder / SEG, half_a_label()),
        [("error", f"{SEG}: 1 of its voxels are not whole numbers, such as 0.5; a label file needs a whole number in "
          "each voxel: resample labels with nearest neighbours")],
    ),
    "whole numbers in a float label file": (lambda folder: save(folder / SEG, tumour().astype(np.float32)), []),
    "empty label": (
        lambda folder: save(folder / SEG, np.zeros(SHAPE, dtype=np.uint8)),
        [("warning", f"{SEG} is empty: no voxel has a label")],
    ),
    "rounded affine": (lambda folder: save(folder / FLAIR, scan(7), moved(0.005)), []),
    "affine off by less than a voxel": (
        lambda folder: save(folder / FLAIR, scan(7), moved(0.5)),
        [("warning", "flair: the corners lie 0.50 mm from those of the label, less than a voxel")],
    ),
    "different affine": (
        lambda folder: save(folder / FLAIR, scan(7), np.diag([1.0, 1, 2, 1])),
        [("error", "flair: the corners lie 24 mm from those of the label, more than a voxel; correct the affine in "
          "one of the headers")],
    ),
    "other affine of the label": (
        lambda folder: save(folder / SEG, tumour(), moved(-70)),
        [("error", "flair, t1, t1ce, t2: the corners lie 70 mm from those of the label, more than a voxel; correct "
          "the affine in one of the headers")],
    ),
    "image of another grid": (
        lambda folder: save(folder / FLAIR, scan(7, (9, 14, 10))),
        [("warning", "flair: another grid than that of the label (9 x 14 x 10 voxels, the label 12 x 14 x 10); will be "
          "resampled")],
    ),
    "label of another grid": (
        lambda folder: save(folder / SEG, tumour(shape=(12, 14, 20))),
        [("error", "the grid of the label is that of no image (12 x 14 x 20 voxels, flair 12 x 14 x 10); give labels "
          "drawn on an image")],
    ),
    "label cut short": (
        lambda folder: cut_short(folder / FLAIR),
        [("error", f"{FLAIR}: is cut short or damaged; copy or export it again")],
    ),
    "image cut short": (
        lambda folder: (folder / SEG).write_bytes((folder / SEG).read_bytes()[:-20]),
        [("error", f"{SEG}: is cut short or damaged; copy or export it again")],
    ),
    "image damaged": (
        lambda folder: damaged(folder / FLAIR),
        [("error", f"{FLAIR}: is cut short or damaged; copy or export it again")],
    ),
    "empty file": (
        lambda folder: empty_file(folder / FLAIR),
        [("error", f"{FLAIR}: is an empty file; copy or export the scan again")],
    ),
    "no gzip at all": (
        lambda folder: (folder / FLAIR).write_text("404 not found, and some more text so that it is long enough"),
        [("error", f"{FLAIR}: cannot be read as an image (Not a gzipped file (b'40')); check that it opens elsewhere")],
    ),
    "label and image swapped": (
        lambda folder: swap(folder / FLAIR, folder / SEG),
        [("error", f"{SEG} holds 551 different values; it is a scan and no label file"),
         ("warning", f"{FLAIR} holds the values 0, 1, 2, 4 alone; is it a segmentation and not flair?")],
    ),
    "label given as an image": (
        lambda folder: (folder / FLAIR).write_bytes((folder / SEG).read_bytes()),
        [("error", f"{FLAIR} holds the labels and not flair; give the scan"),
         ("warning", "flair and label are the same file; is one of them copied or misnamed?")],
    ),
    "one image under two names": (
        lambda folder: save(folder / FLAIR, scan(21)),
        [("warning", "flair and t1 are the same file; is one of them copied or misnamed?")],
    ),
    "image of another case": (
        lambda folder: save(folder / FLAIR, scan(10)),
        [("warning", "flair is the same file as flair of BraTS20_Training_002; is one of them copied or misnamed?")],
    ),
    "constant image": (
        lambda folder: save(folder / FLAIR, np.zeros(SHAPE, dtype=np.int16)),
        [("error", f"{FLAIR}: every voxel is 0; give a scan with an image in it")],
    ),
    "NaN in an image": (
        lambda folder: save(folder / FLAIR, nan_scan()),
        [("error", f"{FLAIR}: 1 of its voxels are not finite numbers (NaN or infinite); replace them, by 0 for "
          "instance")],
    ),
    "impossible spacing": (
        lambda folder: save(folder / FLAIR, scan(7), np.diag([1.0, 1, 200, 1])),
        [("error", f"{FLAIR}: the voxel spacing is 1 x 1 x 200 mm (between 0.05 and 20 mm is possible); correct the "
          "header, or convert the scan again from its source")],
    ),
    "colours": (
        lambda folder: save(folder / FLAIR, np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])),
        [("error", f"{FLAIR}: is a colour image (RGB); give the grey-scale scan")],
    ),
    "4-D image": (
        lambda folder: save(folder / FLAIR, np.stack([scan(7), scan(8)], axis=-1)),
        [("error", f"{FLAIR} holds 2 volumes, one is wanted")],
    ),
    "4-D label": (
        lambda folder: save(folder / SEG, np.stack([tumour(), tumour()], axis=-1)),
        [("error", f"{SEG} holds 2 volumes; a label file has one")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(tmp_path, mistake):
    brats(tmp_path)
    change, expected = MISTAKES[mistake]
    change(tmp_path)
    case = "BraTS20_Training_001" if mistake == "image of another case" else CASE
    assert findings(tmp_path) == [(level, case, text) for level, text in expected]


def test_with_the_config_of_a_training(tmp_path):
    brats(tmp_path)
    save(tmp_path / SEG, odd_label())
    expected = (
        "holds the label 3 (2 voxels); known are 1 core, 2 oedema, 4 enhancing (labels.classes of the config); correct "
        "the file, or name them there (unlisted: background takes them for background)"
    )
    assert findings(tmp_path, ["t1ce", "flair"], scheme()) == [("error", CASE, expected)]
    assert findings(tmp_path, ["t1ce", "flair"], scheme(unlisted="background")) == []


def test_images_that_are_not_asked_for_do_not_matter(tmp_path):
    brats(tmp_path)
    (tmp_path / FLAIR).unlink()
    assert findings(tmp_path, ["t1", "t2"]) == []
    with pytest.raises(UserError) as caught:
        findings(tmp_path, ["t1c"])
    assert (
        str(caught.value)
        == f"{tmp_path}: no case has an image t1c; choose among flair, t1, t1ce, t2 (--images, preparation.images)"
    )


def test_structures_that_no_case_has(tmp_path):
    for k in (1, 2):
        brats_case(tmp_path / f"P{k}", ids=(2, 1), seed=k)
    absent = "in no case: 4 (enhancing); labels.classes has them, and training would learn to leave them out"
    assert findings(tmp_path, None, scheme()) == [("warning", "", absent)]
    nothing = "no case has any of the structures in labels.classes; is it the config of another data set?"
    assert findings(tmp_path, None, scheme(classes=(4,), unlisted="background")) == [("error", "", nothing)]
    brats_case(tmp_path / "P3", ids=(4,), seed=3)
    bare = "has none of the structures in labels.classes (its labels are 1, 2)"
    assert findings(tmp_path, None, scheme(classes=(4,), unlisted="background")) == [
        ("warning", "P1", bare),
        ("warning", "P2", bare),
    ]


def test_two_cases_of_one_id(tmp_path):
    brats_case(tmp_path / "HGG" / "P1", seed=1)
    brats_case(tmp_path / "LGG" / "P1", seed=2)
    text = f"is the id of 2 cases ({tmp_path / 'HGG' / 'P1'}, {tmp_path / 'LGG' / 'P1'}); ids have to differ"
    assert findings(tmp_path) == [("error", "P1", text)]


def test_bids_images_keep_their_own_field_of_view(tmp_path):
    anat = tmp_path / "sub-1" / "anat"
    save(anat / "sub-1_T1w.nii.gz", scan(1))
    save(anat / "sub-1_T2w.nii.gz", scan(2), moved(30))
    save(anat / "sub-1_dseg.nii.gz", tumour())
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\tcore\n2\toedema\n")
    assert findings(tmp_path) == [
        ("warning", "sub-1", "T2w: the corners lie 30 mm from those of the label; will be resampled"),
        ("warning", "sub-1", "holds the label 4 (48 voxels); known are 1 core, 2 oedema (BIDS); correct the file, or "
         "check with the config of your own labels (--config)"),
    ]  # fmt: skip
    save(anat / "sub-1_dseg.nii.gz", tumour((1, 2)), moved(60))
    assert {level for level, _, _ in findings(tmp_path)} == {"error"}


def test_files_that_a_description_promises(tmp_path):
    decathlon(tmp_path)
    (tmp_path / "imagesTr" / "BRATS_001.nii.gz").unlink()
    save(tmp_path / "imagesTr" / "BRATS_002.nii.gz", scan(3))
    texts = [text for _, _, text in findings(tmp_path)]
    assert texts == [
        *["imagesTr/BRATS_001.nii.gz: does not exist; check the path"],
        "imagesTr/BRATS_002.nii.gz holds 1 volume, number 2 is wanted for T1w",
        "imagesTr/BRATS_002.nii.gz holds 1 volume, number 3 is wanted for t1gd",
        "imagesTr/BRATS_002.nii.gz holds 1 volume, number 4 is wanted for T2w",
    ]


def test_nnunet_channels(tmp_path):
    nnunet(tmp_path, labels={"background": 0, "organ": 1})
    (tmp_path / "imagesTr" / "case_001_0001.nii.gz").unlink()
    for k in (1, 2):
        (tmp_path / "imagesTr" / f"case_002_000{k - 1}.nii.gz").unlink()
    told = findings(tmp_path)
    assert told[:2] == [
        ("error", "case_001", "has no PET; add the file, or leave out the case or the modality"),
        ("error", "case_002", "has no images; add them, or leave out the case"),
    ]
    assert all("holds the label 2" in text for _, _, text in told[2:4])


def test_quick_reads_headers_only(tmp_path):
    brats(tmp_path)
    save(tmp_path / SEG, half_a_label())
    assert findings(tmp_path, quick=True) == []
    cut_short(tmp_path / FLAIR)
    text = f"{FLAIR}: is cut short or damaged; copy or export it again"
    assert findings(tmp_path, quick=True) == [("error", CASE, text)]


def large_noise(path):
    """Too large and too noisy to be taken for a label file, so that it is not read without need."""
    data = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    data[0, 0, 0] = np.nan
    return save(path, data)


def test_full_reads_every_image(tmp_path):
    folder = tmp_path / "P1"
    large_noise(folder / "P1_flair.nii.gz")
    save(folder / "P1_seg.nii.gz", tumour(shape=(40, 40, 40)))
    assert findings(tmp_path) == []
    ((level, case, text),) = findings(tmp_path, full=True)
    assert (level, case) == ("error", "P1")
    assert text.startswith("P1/P1_flair.nii.gz: 1 of its voxels are not finite numbers")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_may_be_a_label_file(tmp_path, suffix):
    noise = large_noise(tmp_path / f"noise{suffix}")
    labels = save(tmp_path / f"labels{suffix}", tumour(shape=(120, 120, 120)))
    assert not could_be_labels(noise, read_header(noise))
    assert could_be_labels(labels, read_header(labels))


def test_the_same_content_compressed_in_another_way(tmp_path):
    first = save(tmp_path / "a.nii.gz", scan(0))
    second, third = tmp_path / "b.nii.gz", save(tmp_path / "c.nii.gz", scan(1))
    with gzip.open(second, "wb", compresslevel=1) as file:
        file.write(gzip.decompress(first.read_bytes()))
    assert first.read_bytes() != second.read_bytes()
    assert fingerprint(first) == fingerprint(second) != fingerprint(third)


def test_uncompressed_files(tmp_path):
    for k in (1, 2):
        for file in brats_case(tmp_path / f"P{k}", seed=k).iterdir():
            nib.save(nib.load(file), file.with_suffix(""))
            file.unlink()
    assert findings(tmp_path) == []
    path = tmp_path / "P1" / "P1_t2.nii"
    path.write_bytes(path.read_bytes()[:-10])
    text = "P1/P1_t2.nii: is cut short (3,712 bytes announced, 3,702 are there); copy or export it again"
    assert findings(tmp_path) == [("error", "P1", text)]


def test_gzip_in_several_members_is_complete(tmp_path):
    brats(tmp_path)
    path = tmp_path / FLAIR
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(piece) for piece in (content[:1000], content[1000:], b"")))
    assert findings(tmp_path) == []


def test_summary(tmp_path):
    brats(tmp_path, number=5)
    for k in (1, 2, 3):
        labels = odd_label()
        labels[1, 1, 1:k] = 2  # no two alike
        case = f"BraTS20_Training_{k:03d}"
        save(tmp_path / case / f"{case}_seg.nii.gz", labels)
    (tmp_path / FLAIR).unlink()
    save(tmp_path / "BraTS20_Training_004" / "BraTS20_Training_004_flair.nii.gz", scan(7, (20, 14, 10)))
    report = check_dataset(find_dataset(tmp_path), ["flair", "t1"])
    expected = f"""\
{tmp_path}
BraTS 2018 to 2021: 5 cases

image   cases  voxels (R x A x S)    spacing in mm
flair  4 of 5  12 (12-20) x 14 x 10  1 x 1 x 2
t1          5  12 x 14 x 10          1 x 1 x 2
label       5  12 x 14 x 10          1 x 1 x 2

label  name                             cases  share of voxels  median volume (range) in ml
    0  background                           5          71.29 %
    1  necrotic and non-enhancing core      5           8.50 %  0.28 (0.28-0.29)
    2  oedema                               5          17.18 %  0.58
    3                                       3           0.07 %  0.004
    4  enhancing tumour                     5           2.96 %  0.096 (0.096-0.11)

error: BraTS20_Training_002: has no flair; add the file, or leave out the case or the modality
error: BraTS20_Training_001: holds the label 3 (2 voxels); known are 1 necrotic and non-enhancing core, 2 oedema, 4 \
enhancing tumour (BraTS 2018 to 2021); correct the file, or check with the config of your own labels (--config)
error: the like in BraTS20_Training_002, BraTS20_Training_003 (--verbose shows each)
warning: BraTS20_Training_004: flair: another grid than that of the label (20 x 14 x 10 voxels, the label 12 x 14 x \
10); will be resampled

4 errors, 1 warning: training would stop"""
    assert "\n".join(summarise(report)) == expected
    assert sum(line.startswith("error: BraTS20") for line in summarise(report, verbose=True)) == 4


def test_summary_of_cases_that_differ(tmp_path):
    for k, height in enumerate((10, 12, 18), start=1):
        shape = (12, 14, height)
        affine = np.diag([-1, 1, k, 1.0])[[1, 0, 2, 3]]  # the first stored axis runs to the front
        save(tmp_path / f"P{k}" / f"P{k}_flair.nii.gz", scan(k, shape), affine)
        save(tmp_path / f"P{k}" / f"P{k}_seg.nii.gz", tumour(shape=shape), affine)
    lines = summarise(check_dataset(find_dataset(tmp_path)), {1: "one"})
    assert lines[4:6] == [
        "flair      3  14 x 12 x 12 (10-18)  1 x 1 x 2 (1-3)",
        "label      3  14 x 12 x 12 (10-18)  1 x 1 x 2 (1-3)",
    ]
    assert lines[9].split() == ["1", "one", "3", "10.00", "%", "0.38", "(0.14-1.0)"]
    assert lines[-1] == "no errors, no warnings: training can begin"


def test_real_brats(shared_data):
    report = check_dataset(find_dataset(shared_data / "brats"), ["flair", "t1ce"], scheme())
    assert report.findings == ()
    assert all(set(one.counts) == {0, 1, 2, 4} for one in report.facts)
    assert [one.grids["flair"].shape for one in report.facts] == [(240, 240, 155)] * 4


@pytest.mark.parametrize("largest", [4, 14175, 70000])
def test_labels_are_counted(largest):
    labels = np.asfortranarray(np.random.default_rng(0).integers(0, 5, (70, 80, 90)).astype(np.int32))
    labels[0, 0, :7] = largest
    ids, numbers = np.unique(labels, return_counts=True)
    assert count_labels(labels) == dict(zip(ids.tolist(), numbers.tolist(), strict=True))


def test_a_bar_is_drawn_on_terminals_only(tmp_path, capsys):
    check_dataset(find_dataset(brats(tmp_path)), progress=True)
    assert capsys.readouterr() == ("", "")
