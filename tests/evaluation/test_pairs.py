"""What is compared with what, for the ways in which people's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_datasets import brats, nnunet, save, scan, tumour
from voxseg.errors import UserError
from voxseg.evaluation.pair_table import read_table, references_of
from voxseg.evaluation.pairs import Pairing, find_references, find_scans, pair_up


def touch(folder: Path, *names: str) -> Path:
    """Empty files; nothing is read while files are matched."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def match(predictions: Path, references: Path, partial: bool = False) -> Pairing:
    return pair_up(predictions, find_references(references, [predictions]), "m", partial)


def matched(tmp_path: Path, predictions: list[str], references: list[str]) -> dict[str, tuple[str, str]]:
    """Prediction and reference of each case, as they were named."""
    out, truth = touch(tmp_path / "out", *predictions), touch(tmp_path / "truth", *references)
    pairing = match(out, truth)
    assert not pairing.problems
    return {
        pair.case: (str(pair.prediction.relative_to(out)), str(pair.reference.relative_to(truth)))
        for pair in pairing.pairs
    }


@pytest.mark.parametrize(
    ("prediction", "reference", "case"),
    [
        ("1003_seg.nii.gz", "1003/labels.nii.gz", "1003"),
        ("1003/t1_seg.nii.gz", "1003/labels.nii.gz", "1003"),
        ("1003/brain_seg.nii.gz", "1003/labels.nii.gz", "1003"),
        ("1003/1003_seg.nii.gz", "1003.nii.gz", "1003"),
        ("case_001_pred.nii", "case_001.nii.gz", "case_001"),
        ("case_001_0000_seg.nii.gz", "case_001.nii.gz", "case_001"),
        ("case-7-seg.mgz", "case-7_labels.nrrd", "case-7"),
        ("seg_12.nii.gz", "12_dseg.nii.gz", "12"),
        ("BraTS20_Training_001_flair_seg.nii.gz", "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz",
         "BraTS20_Training_001"),
        ("BraTS-GLI-00000-000.nii.gz", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", "BraTS-GLI-00000-000"),
        ("sub-01/anat/sub-01_ses-1_space-T1w_desc-net_dseg.nii.gz",
         "sub-01/ses-1/anat/sub-01_ses-1_desc-manual_dseg.nii.gz", "sub-01_ses-1"),
        ("sub-01_T1w_seg.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz", "sub-01"),
        ("sub-01_ses-1_run-2_T1w_seg.nii.gz", "sub-01_ses-1_dseg.nii.gz", "sub-01_ses-1"),
        ("bert/mri/aseg.mgz", "bert/labels.nii.gz", "bert"),
        ("bert_seg.nii.gz", "bert/labels.DKT31.manual+aseg.nii.gz", "bert"),
    ],
)  # fmt: skip
def test_names(tmp_path: Path, prediction: str, reference: str, case: str) -> None:
    """With a second case of the same pattern beside it, so that nothing fits because it is alone."""
    other = {"1003": "1107", "case_001": "case_002", "case-7": "case-8", "12": "13", "BraTS20_Training_001":
             "BraTS20_Training_002", "BraTS-GLI-00000-000": "BraTS-GLI-00002-000", "sub-01_ses-1": "sub-02_ses-1",
             "sub-01": "sub-02", "bert": "ernie"}[case]  # fmt: skip

    def second(name: str) -> str:
        return name.replace(case, other).replace("sub-01", "sub-02")

    found = matched(tmp_path, [prediction, second(prediction)], [reference, second(reference)])
    assert found == {case: (prediction, reference), other: (second(prediction), second(reference))}


def test_scans_beside_segmentations_are_not_taken_for_them(tmp_path: Path) -> None:
    predictions = ["a.nii.gz", "a_seg.nii.gz", "b/t1.nii.gz", "b/t1_seg.nii.gz", "c/c_flair.nii.gz", "c/c_pred.nii.gz"]
    references = ["a/labels.nii.gz", "a/t1.nii.gz", "b/labels.nii.gz", "b/brain.nii.gz", "c/labels.nii.gz"]
    found = matched(tmp_path, predictions, references)
    assert found == {
        "a": ("a_seg.nii.gz", "a/labels.nii.gz"),
        "b": ("b/t1_seg.nii.gz", "b/labels.nii.gz"),
        "c": ("c/c_pred.nii.gz", "c/labels.nii.gz"),
    }
    pairing = match(tmp_path / "out", tmp_path / "truth")
    assert [path.name for path in pairing.ignored] == ["a.nii.gz"]


def test_the_same_name_in_several_folders(tmp_path: Path) -> None:
    found = matched(
        tmp_path, ["x/1_seg.nii.gz", "y/1_seg.nii.gz", "y/2_seg.nii.gz"], ["x/1.nii.gz", "y/1.nii.gz", "y/2.nii.gz"]
    )
    assert found == {
        "x_1": ("x/1_seg.nii.gz", "x/1.nii.gz"),
        "y_1": ("y/1_seg.nii.gz", "y/1.nii.gz"),
        "2": ("y/2_seg.nii.gz", "y/2.nii.gz"),
    }


def test_folders_of_one_name_do_not_make_a_case(tmp_path: Path) -> None:
    """Two files with names of their own, alone in a folder `fold0` each, are two cases."""
    out, truth = (
        touch(tmp_path / "out", "fold0/a_seg.nii.gz", "b.nii.gz"),
        touch(tmp_path / "t", "fold0/c.nii.gz", "b.nii.gz"),
    )
    pairing = match(out, truth)
    assert [pair.case for pair in pairing.pairs] == ["b"]
    assert [case for case, _ in pairing.problems] == ["a", "c"]


def test_two_candidates_are_refused_and_a_pattern_tells_them_apart(tmp_path: Path) -> None:
    out = touch(tmp_path / "out", "a/aseg.mgz", "a/aparc+aseg.mgz", "b_seg.nii.gz")
    truth = touch(tmp_path / "truth", "a/labels.nii.gz", "b/labels.nii.gz")
    pairing = match(out, truth)
    assert [pair.case for pair in pairing.pairs] == ["b"]
    assert pairing.problems == (
        (
            "a",
            "has 2 predictions (a/aparc+aseg.mgz, a/aseg.mgz); tell them apart with a pattern in quotes such as "
            "'FOLDER/*/labels.nii.gz', or with a CSV table of pairs",
        ),
    )
    chosen = match(out / "*" / "aseg.mgz", truth, partial=True)
    assert [(pair.case, pair.prediction.name) for pair in chosen.pairs] == [("a", "aseg.mgz")]
    with pytest.raises(UserError, match=r"no case is clear; a has 2 predictions .*; tell them apart with a pattern"):
        match(out / "a", truth / "a")


def test_two_references_are_refused(tmp_path: Path) -> None:
    out = touch(tmp_path / "out", "a_seg.nii.gz", "b_seg.nii.gz")
    truth = touch(tmp_path / "truth", "a/labels.nii.gz", "a/labels_2.nii.gz", "a/aseg.nii.gz", "b/labels.nii.gz")
    pairing = match(out, truth)
    assert [pair.case for pair in pairing.pairs] == ["b"]
    assert pairing.problems[0][0] == "a"
    assert pairing.problems[0][1].startswith("has 3 references (a/aseg.nii.gz, a/labels.nii.gz, a/labels_2.nii.gz)")
    assert [pair.reference.name for pair in match(out, truth / "*/labels.nii.gz").pairs] == ["labels.nii.gz"] * 2


def test_patterns_name_cases_by_their_wildcards(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_pred.nii.gz", "a_manual.nii.gz", "b_pred.nii.gz", "b_manual.nii.gz")
    pairing = match(folder / "*_pred.nii.gz", folder / "*_manual.nii.gz")
    assert [(p.case, p.prediction.name, p.reference.name) for p in pairing.pairs] == [
        ("a", "a_pred.nii.gz", "a_manual.nii.gz"),
        ("b", "b_pred.nii.gz", "b_manual.nii.gz"),
    ]
    with pytest.raises(UserError, match="matches no file"):
        match(folder / "*.mgz", folder)
    with pytest.raises(UserError, match=r"pred\.nii\.gz: has no \* or a double one"):
        match(folder / "**" / "a_pred.nii.gz", folder)


def test_what_is_missing_on_either_side(tmp_path: Path) -> None:
    out = touch(tmp_path / "out", "a_seg.nii.gz", "x_seg.nii.gz")
    truth = touch(tmp_path / "truth", "a.nii.gz", "b.nii.gz")
    pairing = match(out, truth)
    problems = dict(pairing.problems)
    assert problems["b"] == f"has no prediction in {out}; segment it, or give --partial if that is as it should be"
    assert problems["x"] == f"x_seg.nii.gz has no reference in {truth}; add it, or take x_seg.nii.gz away"
    part = match(out, truth, partial=True)
    assert [case for case, _ in part.problems] == ["x"]
    assert part.missing == ("b",)


def test_predictions_within_the_folder_of_the_references(tmp_path: Path) -> None:
    truth = touch(tmp_path / "data", "a/labels.nii.gz", "a/t1.nii.gz", "predictions/a_seg.nii.gz")
    pairing = match(truth / "predictions", truth)
    assert [(p.prediction.name, p.reference.name) for p in pairing.pairs] == [("a_seg.nii.gz", "labels.nii.gz")]
    assert not pairing.problems
    other = touch(tmp_path / "other", "b_seg.nii.gz", "manual/b.nii.gz")
    assert [p.reference.name for p in match(other, other / "manual").pairs] == ["b.nii.gz"]


def test_two_files(tmp_path: Path) -> None:
    folder = touch(tmp_path, "mine.nii.gz", "theirs.nii.gz")
    for path in folder.iterdir():
        path.write_bytes(b"something")
    pairing = match(folder / "mine.nii.gz", folder / "theirs.nii.gz")
    assert [(p.case, p.prediction.name) for p in pairing.pairs] == [("mine", "mine.nii.gz")]
    with pytest.raises(UserError, match=r"is a file, and .* is none"):
        match(folder, folder / "mine.nii.gz")


def test_brats_folders(tmp_path: Path) -> None:
    data = brats(tmp_path / "data")
    names = [f"BraTS20_Training_00{k}" for k in (1, 2, 3)]
    out = touch(tmp_path / "out", *(f"{name}_seg.nii.gz" for name in names))
    pairing = match(out, data)
    assert [p.case for p in pairing.pairs] == names
    assert all(p.reference.name == f"{p.case}_seg.nii.gz" for p in pairing.pairs)
    assert find_references(data).title == "BraTS 2018 to 2021"
    # Results beside the scans, named after the first of them.
    touch(data, *(f"{name}/{name}_flair_seg.nii.gz" for name in names))
    beside = match(data, data)
    assert [p.prediction.name for p in beside.pairs] == [f"{name}_flair_seg.nii.gz" for name in names]


def test_nnunet_by_its_folder_and_by_labels_alone(tmp_path: Path) -> None:
    data = nnunet(tmp_path / "Dataset001")
    out = touch(tmp_path / "out", "case_001.nii.gz", "case_002.nii.gz")
    for place in (data, data / "labelsTr"):
        references = find_references(place)
        assert references.label_names == {1: "organ", 2: "lesion"}
        assert [p.case for p in pair_up(out, references).pairs] == ["case_001", "case_002"]


def test_bids(tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    for subject in ("01", "02"):
        save(bids / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz", scan(1))
        save(bids / "derivatives" / "manual" / f"sub-{subject}" / "anat" / f"sub-{subject}_dseg.nii.gz", tumour())
    out = touch(
        tmp_path / "net",
        *(f"sub-{s}/anat/sub-{s}_desc-net_dseg.nii.gz" for s in ("01", "02")),
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_label-GM_probseg.nii.gz",
    )
    for place in (bids, bids / "derivatives" / "manual"):
        pairing = match(out, place)
        assert [(p.case, p.prediction.name) for p in pairing.pairs] == [
            (f"sub-{s}", f"sub-{s}_desc-net_dseg.nii.gz") for s in ("01", "02")
        ]
        assert not pairing.problems


def test_tables(tmp_path: Path) -> None:
    folder = touch(tmp_path / "data", "p/a.nii.gz", "r/a.nii.gz")
    table = folder / "pairs.tsv"
    table.write_text("case\tprediction\treference\nfirst\tp/a.nii.gz\tr/a.nii.gz\nsecond\tp/b.nii.gz\t\n")
    pairing = read_table(table, "m")
    assert [(p.case, p.prediction, p.reference) for p in pairing.pairs] == [
        ("first", folder / "p/a.nii.gz", folder / "r/a.nii.gz")
    ]
    assert pairing.problems == (("second", "line 3 of pairs.tsv has no reference; fill it in"),)
    # Another model's folder is matched with the references of the table by the names of its cases.
    out = touch(tmp_path / "out", "first_seg.nii.gz")
    assert [p.case for p in pair_up(out, references_of(table, pairing)).pairs] == ["first"]
    table.write_text("Prediction;Reference\np/a.nii.gz;r/a.nii.gz\n")
    assert [p.case for p in read_table(table).pairs] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,prediction\na,b\n", "has no column 'reference'; the first line has to be case,prediction,reference"),
        ("case,prediction,reference\na,b\n", "line 2: has 2 cells, and the first line 3"),
        ("case,prediction,reference\na,b,c\na,d,e\n", "line 3: repeats the case a of line 2"),
        ("case,prediction,reference\na,b,\n", "has no complete row"),
        ("", "has no column 'prediction'"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(UserError) as caught:
        read_table(table)
    assert message in str(caught.value)


def test_nothing_fits(tmp_path: Path) -> None:
    out, truth = touch(tmp_path / "out", "a_seg.nii.gz", "b_seg.nii.gz"), touch(tmp_path / "truth", "c.nii.gz")
    with pytest.raises(UserError) as caught:
        match(out, truth)
    assert "no name fits one in" in str(caught.value)
    assert "(there is a_seg.nii.gz here, and c.nii.gz there)" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no label files"):
        match(tmp_path / "empty", truth)


def test_scans(tmp_path: Path) -> None:
    truth = touch(tmp_path / "truth", "a/labels.nii.gz", "a/t1.nii.gz", "b/labels.nii.gz", "b/t1.nii.gz")
    out = touch(tmp_path / "out", "a_seg.nii.gz", "b_seg.nii.gz", "a.nii.gz")
    pairs = match(out, truth).pairs
    assert find_scans(truth, pairs) == {c: truth / c / "t1.nii.gz" for c in ("a", "b")}
    assert find_scans(out, pairs) == {"a": out / "a.nii.gz"}
    assert find_scans(truth / "*/t1.nii.gz", pairs) == find_scans(truth, pairs)
    touch(truth, "a/t2.nii.gz")
    assert find_scans(truth, pairs) == {"b": truth / "b/t1.nii.gz"}
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no scan that belongs to one case alone"):
        find_scans(tmp_path / "none", pairs)
    data = brats(tmp_path / "data", 1)
    touch(tmp_path / "out2", "BraTS20_Training_001_seg.nii.gz")
    found = find_scans(data, match(tmp_path / "out2", data).pairs)
    assert [path.name for path in found.values()] == ["BraTS20_Training_001_flair.nii.gz"]
