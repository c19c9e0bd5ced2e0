import json
import multiprocessing
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from small_cases import IDS, PREPARATION, SCHEME, balls, write_case
from voxseg.data import cache as module
from voxseg.data.cache import CaseCache
from voxseg.data.prepared_case import prepare_case, sample_points
from voxseg.errors import UserError


@pytest.fixture
def case(tmp_path):
    return write_case(tmp_path / "data")


@pytest.fixture
def cache(tmp_path):
    return CaseCache(tmp_path / "cache", PREPARATION, SCHEME)


def test_the_arrays_are_those_of_the_preparation_without_the_empty_border(case, cache):
    (entry,) = cache.build([case])
    image, label, grid = prepare_case(case, PREPARATION, SCHEME)
    assert entry.image.dtype == np.float16
    assert entry.label.dtype == np.uint8
    assert entry.image.shape == (2, *entry.grid.shape)
    assert entry.label.shape == entry.grid.shape
    start = np.round((entry.grid.affine[:3, 3] - grid.affine[:3, 3]) / 1.5).astype(int)
    place = tuple(slice(s, s + n) for s, n in zip(start, entry.grid.shape, strict=True))
    assert np.array_equal(entry.image, image.numpy()[(slice(None), *place)].astype(np.float16))
    assert np.array_equal(entry.label, label[place])
    outside = np.ones(grid.shape, dtype=bool)
    outside[place] = False
    assert outside.any()
    assert (image.numpy()[:, outside] == 0).all()
    assert (label[outside] == 0).all()
    filled = np.flatnonzero((entry.image != 0).any((0, 2, 3)))
    assert filled[0] <= module.MARGIN
    assert len(entry.image[0]) - 1 - filled[-1] <= module.MARGIN


def test_what_sampling_needs_is_kept(case, cache):
    (entry,) = cache.build([case])
    ids, _ = balls()
    assert list(entry.voxels[1:]) == [(ids == i).sum() for i in IDS]
    assert entry.voxels[0] == entry.label.size - (ids > 0).sum()
    for k, (points, box) in enumerate(zip(entry.points, entry.boxes, strict=True), start=1):
        assert len(points) == entry.voxels[k]
        assert (entry.label[tuple(points.T)] == k).all()
        where = np.argwhere(entry.label == k)
        assert box == (*where.min(0), *where.max(0))


def test_points_are_bounded_and_spread():
    label = np.zeros((60, 60, 60), dtype=np.uint8)
    label[10:50, 10:50, 10:50] = 2
    label[0, 0, 0] = 3
    one, two, three = sample_points(label, 3, limit=1000)
    assert len(one) == 0
    assert len(two) == len(np.unique(two, axis=0)) == 1000
    assert np.abs(two.mean(0) - 29.5).max() < 1.5
    assert three.tolist() == [[0, 0, 0]]
    assert np.array_equal(two, sample_points(label, 3, limit=1000)[1])


def test_a_second_time_nothing_is_read(case, cache, monkeypatch):
    (first,) = cache.build([case])
    monkeypatch.setattr(module, "prepare_case", None)
    (second,) = cache.build([case])
    assert first == second == cache.open(case)
    assert cache.estimate([case]).missing == 0
    assert "all 1 cases are there" in cache.estimate([case]).line()


def changed(**changes):
    return PREPARATION.model_copy(update=changes)


@pytest.mark.parametrize(
    ("preparation", "scheme"),
    [
        (changed(spacing=2.0), SCHEME),
        (changed(images=dict(reversed(PREPARATION.images.items()))), SCHEME),
        (changed(images={"t1": PREPARATION.images["t1"]}), SCHEME),
        (PREPARATION, SCHEME.model_copy(update={"classes": [1, 2, 4]})),
        (PREPARATION, SCHEME.model_copy(update={"merge": {4: 1}})),
    ],
)
def test_another_config_is_another_entry(case, cache, preparation, scheme):
    other = CaseCache(cache.folder, preparation, scheme)
    assert other.entry(case) != cache.entry(case)
    cache.build([case])
    assert other.estimate([case]).missing == 1


def test_a_changed_file_is_another_entry(case, cache):
    before = cache.entry(case)
    os.utime(case.label, ns=(1, 1))
    assert cache.entry(case) != before


def test_names_and_colours_change_nothing(case, cache):
    table = tuple(entry.model_copy(update={"name": "other", "colour": "#123456"}) for entry in SCHEME.table)
    other = CaseCache(cache.folder, PREPARATION, SCHEME.model_copy(update={"table": table}))
    assert other.entry(case) == cache.entry(case)


@pytest.mark.parametrize("damage", ["cut", "meta", "gone", "points"])
def test_damaged_entries_are_made_anew(case, cache, damage):
    (entry,) = cache.build([case])
    image, label = np.array(entry.image), np.array(entry.label)
    file = entry.folder / {"cut": "image.npy", "meta": "meta.json", "gone": "label.npy", "points": "points.npy"}[damage]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="does not hold the case case"):
        cache.open(case)
    (again,) = cache.build([case])
    assert np.array_equal(again.image, image)
    assert np.array_equal(again.label, label)


def test_what_breaks_off_leaves_nothing(case, cache, monkeypatch):
    def save(file, array):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.np, "save", save)
    with pytest.raises(KeyboardInterrupt):
        cache.build([case])
    assert list(cache.folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(case, cache):
    name = cache.entry(case).name
    old, new = cache.folder / f".old.{name}", cache.folder / f".new.{name}"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    cache.build([case])
    assert not old.exists()
    assert new.exists()


def test_an_entry_that_another_process_finishes_first_stays(case, cache, monkeypatch):
    save, others = np.save, []

    def slow(file, array):
        if not others:
            others.append(True)
            cache.build([case])  # as the other process
            others.append((cache.entry(case) / "image.npy").stat().st_ino)
        save(file, array)

    monkeypatch.setattr(module.np, "save", slow)
    (entry,) = cache.build([case])
    assert (entry.folder / "image.npy").stat().st_ino == others[1]
    assert [folder.name for folder in cache.folder.iterdir()] == [entry.folder.name]


def test_a_folder_that_another_process_renames_while_one_looks(case, cache, monkeypatch):
    gone = cache.folder / f".gone.{cache.entry(case).name}"
    monkeypatch.setattr(module.Path, "glob", lambda folder, pattern: [gone])
    assert cache.build([case])


def _build(folder, cases):
    CaseCache(folder, PREPARATION, SCHEME).build(cases)


def test_several_processes(tmp_path):
    cases = [write_case(tmp_path / "data", f"c{k}", k) for k in range(3)]
    context = multiprocessing.get_context("fork")
    parts = (cases[:2], cases[1:])  # the second one is prepared twice
    processes = [context.Process(target=_build, args=(tmp_path / "cache", part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    cache = CaseCache(tmp_path / "cache", PREPARATION, SCHEME)
    assert cache.estimate(cases).missing == 0
    assert len(list(cache.folder.iterdir())) == 3


def test_the_estimate_is_a_bound(case, cache):
    estimate = cache.estimate([case, case])
    (entry, _) = cache.build([case, case])
    size = sum(file.stat().st_size for file in entry.folder.iterdir())
    assert size < estimate.disk / 2
    assert estimate.missing == 2
    line = estimate.line(window_bytes=2 * 10**9)
    assert "2 of 2 cases to prepare" in line
    assert "2.0 GB for windows" in line
    assert "\n" not in line


def test_a_full_disk_is_told_before(case, cache, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"1 cases need 0\.5 MB, 0\.0 MB are free; make room"):
        cache.build([case])
    assert not cache.folder.exists()


def test_a_folder_that_cannot_be_written(case, tmp_path):
    (tmp_path / "file").write_text("")
    cache = CaseCache(tmp_path / "file" / "cache", PREPARATION, SCHEME)
    with pytest.raises(UserError, match=r"cannot be written to .*dataset\.cache"):
        cache.build([case])


def test_missing_and_wrong_files(case, cache, tmp_path):
    without = write_case(tmp_path / "other", "b")
    object.__setattr__(without, "images", {"t1": without.images["t1"]})
    with pytest.raises(UserError, match=r"b: has no image 'flair' \(it has: t1\)"):
        cache.build([without])
    unlabelled = write_case(tmp_path / "third", "c")
    object.__setattr__(unlabelled, "label", None)
    with pytest.raises(UserError, match="c: has no label file"):
        cache.build([unlabelled])
    strict = CaseCache(cache.folder, PREPARATION, SCHEME.model_copy(update={"classes": [2, 1]}))
    with pytest.raises(UserError, match=r"case_seg\.nii\.gz: has the label 4"):
        strict.build([case])
    case.images["t1"].path.unlink()
    with pytest.raises(UserError, match=r"case_t1\.nii\.gz: cannot be read \(No such file"):
        cache.build([case])


def test_entries_travel_to_other_processes(case, cache):
    import pickle

    (entry,) = cache.build([case])
    again = pickle.loads(pickle.dumps(entry))
    assert again == entry
    assert len(pickle.dumps(entry)) < 4000
    assert torch.from_numpy(again.image).dtype == torch.float16
    shutil.rmtree(entry.folder)
    with pytest.raises(FileNotFoundError):
        again.image  # noqa: B018


def test_meta_is_readable(case, cache):
    (entry,) = cache.build([case])
    meta = json.loads((entry.folder / "meta.json").read_text())
    assert meta["images"] == ["t1", "flair"]
    assert meta["case"] == "case"
