import json

import pytest

from voxseg.data.datasets.case import Case, Dataset
from voxseg.data.datasets.splits import Split, make_splits, read_splits, write_splits
from voxseg.errors import UserError


def dataset(folder, subjects):
    """A case for each letter, `subjects` naming whose it is."""
    cases = tuple(Case(f"{subject}{k}", {}, None, subject) for k, subject in enumerate(subjects))
    return Dataset(folder, "patterns", cases)


def test_each_case_is_held_out_once_and_subjects_stay_together(tmp_path):
    data = dataset(tmp_path, "aaabbcdefghhij")
    splits = make_splits(data, 4, seed=3)
    everything = {case.id for case in data.cases}
    assert sorted(i for split in splits for i in split.validation) == sorted(everything)
    for split in splits:
        assert set(split.train) == everything - set(split.validation)
        assert not {i[0] for i in split.train} & {i[0] for i in split.validation}
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_alone_decides(tmp_path):
    data = dataset(tmp_path, "abcdefghijklmnopqrstuvwxyz")
    assert make_splits(data, 5, 0) == make_splits(Dataset(tmp_path / "x", "brats", data.cases), 5, 0)
    assert make_splits(data, 5, 0) != make_splits(data, 5, 1)
    # Fixed for good: a run that is resumed with a later version must find the same division.
    assert make_splits(dataset(tmp_path, "abcdefgh"), 2, 0)[0].validation == ("a0", "b1", "g6", "h7")


@pytest.mark.parametrize(
    ("subjects", "folds", "message"),
    [
        ("aabb", 3, "2 subjects cannot be divided into 3 folds; give 2 to 2 folds"),
        ("aaa", 2, "1 subject cannot be divided into 2 folds; give more cases, or train on all of them"),
        ("ab", 1, "2 subjects cannot be divided into 1 folds; give 2 to 2 folds"),
    ],
)
def test_too_many_folds(tmp_path, subjects, folds, message):
    with pytest.raises(UserError) as caught:
        make_splits(dataset(tmp_path, subjects), folds, 0)
    assert str(caught.value) == f"{tmp_path}: {message}"


def test_files_go_there_and_back(tmp_path):
    data = dataset(tmp_path, "abcde")
    splits = make_splits(data, 5, 0)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", data) == splits
    assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]


def test_nnunet_file_that_leaves_cases_out(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a0", "b1"], "val": ["c2"]}]))
    assert read_splits(path, dataset(tmp_path, "abcd")) == [Split(("a0", "b1"), ("c2",))]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, 'is not a list of splits; write [{"train": [case, ...], "val": [case, ...]}, ...]'),
        ([], 'is not a list of splits; write [{"train": [case, ...], "val": [case, ...]}, ...]'),
        ([{"train": ["a0"]}], "has no list 'val' of cases; write"),
        ([{"train": ["a0"], "val": []}], "has no list 'val' of cases; write"),
        ([{"train": ["a0", "x"], "val": ["a1"]}], "names under 'train' what the data set lacks: x; its cases are a0, "
         "a1, b2 and 1 other"),
        ([{"train": ["a0", 7], "val": ["a1"]}], "names under 'train' what the data set lacks: a0, 7; its cases are"),
        ([{"train": ["b2", "b2"], "val": ["a1"]}], "names b2 twice under 'train'; name each case once"),
        ([{"train": ["a0", "b2"], "val": ["a1"]}], "has scans of a under both 'train' and 'val'; keep all scans of a "
         "subject on one side"),
        ([{"train": ["c3"], "val": ["a1"]}, {"train": ["c3"], "val": ["c3"]}], "split 1: has scans of c under both"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, value, message):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError) as caught:
        read_splits(path, dataset(tmp_path, "aabc"))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
