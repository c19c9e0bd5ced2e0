"""Files and folders are taken when they have stayed as they are, by a clock that the test moves."""

import os

import pytest

from voxseg.service.arrivals import Arrivals, state_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def names(arrivals):
    return [arrival.path.name for arrival in arrivals.look()]


def test_a_file_is_taken_when_it_has_stopped_growing(tmp_path, clock):
    arrivals = Arrivals(tmp_path, 5, clock)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"x")
    assert names(arrivals) == []
    clock.now = 4
    path.write_bytes(b"xx")
    assert names(arrivals) == []
    clock.now = 8.5
    assert names(arrivals) == []
    assert arrivals.arriving == 1
    clock.now = 9
    assert names(arrivals) == ["a.nii.gz"]
    assert arrivals.arriving == 0


def test_of_a_file_of_full_size_from_the_start_the_time_tells(tmp_path, clock):
    arrivals = Arrivals(tmp_path, 1, clock)
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(9))
    os.utime(path, ns=(5, 5))
    arrivals.look()
    clock.now = 1
    os.utime(path, ns=(5, 6))
    assert names(arrivals) == []
    clock.now = 2
    assert names(arrivals) == ["a.nii"]


def test_a_folder_is_all_that_is_in_it(tmp_path, clock):
    arrivals = Arrivals(tmp_path, 0, clock)
    (tmp_path / "exam" / "deep").mkdir(parents=True)
    assert (names(arrivals), arrivals.arriving) == ([], 0)  # nothing in it yet
    (tmp_path / "exam" / "deep" / "1").write_bytes(b"x")
    arrivals.look()
    first = arrivals.look()[0].state
    (tmp_path / "exam" / "deep" / "2").write_bytes(b"x")
    assert names(arrivals) == []
    assert names(arrivals) == ["exam"]
    assert state_of(tmp_path / "exam") != first
    (tmp_path / "exam" / "deep" / "2").rename(tmp_path / "exam" / "deep" / "3")
    assert names(arrivals) == []


def test_what_is_being_copied_is_not_looked_at(tmp_path, clock):
    arrivals = Arrivals(tmp_path, 0, clock)
    for name in (".a.nii.gz.Xy12", "a.nii.gz.part", "a.nii.gz~", "b.nii.crdownload"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nothing")
    arrivals.look()
    assert (names(arrivals), arrivals.arriving) == ([], 0)
    (tmp_path / "a.nii.gz.part").rename(tmp_path / "a.nii.gz")
    arrivals.look()
    assert names(arrivals) == ["a.nii.gz"]


def test_what_went_away_and_came_back_begins_anew(tmp_path, clock):
    arrivals = Arrivals(tmp_path, 0, clock)
    path = tmp_path / "a.nii"
    path.write_bytes(b"x")
    arrivals.look()
    path.rename(tmp_path / ".a")
    assert names(arrivals) == []
    (tmp_path / ".a").rename(path)
    assert names(arrivals) == []
    assert names(arrivals) == ["a.nii"]
