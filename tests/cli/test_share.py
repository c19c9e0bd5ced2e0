import subprocess
import sys

import pytest

from voxseg.cli._share import claimed, is_complete, part_of
from voxseg.errors import UserError


def test_parts_hold_everything_once():
    items = list("abcdefghijk")
    for count in (1, 2, 3, 11, 20):
        parts = [part_of(items, f"{i}/{count}") for i in range(1, count + 1)]
        assert sorted(item for part in parts for item in part) == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part_of(items, None) == items
    assert part_of(items, "2/4") == ["b", "f", "j"]


@pytest.mark.parametrize("wrong", ["", "3", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/2/3", "1.0/2", "²/3"])
def test_what_is_no_part_is_told(wrong):
    with pytest.raises(UserError, match="--part"):
        part_of([1], wrong)


def outputs(folder, name="a"):
    return [folder / f"{name}{suffix}" for suffix in ("_seg.nii.gz", "_volumes.tsv")]


def test_complete_is_all_files_and_none_empty(tmp_path):
    paths = outputs(tmp_path)
    assert not is_complete(paths)
    paths[0].write_text("x")
    assert not is_complete(paths)
    paths[1].touch()
    assert not is_complete(paths)
    paths[1].write_text("x")
    assert is_complete(paths)


def test_a_claim_is_for_one(tmp_path):
    target, paths = tmp_path / "new" / "a", outputs(tmp_path / "new")
    with claimed(target, paths) as mine:
        assert mine
        with claimed(target, paths) as again:
            assert not again
        for path in paths:
            path.write_text("x")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)
    with claimed(target, paths) as mine:
        assert not mine
    paths[0].unlink()
    with claimed(target, paths) as mine:
        assert mine


def test_the_claim_of_a_process_that_died_is_free(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from voxseg.cli._share import claimed\n"
        "with claimed(Path(sys.argv[1]), [Path(sys.argv[1] + '_seg.nii.gz')]) as mine: assert mine; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], check=True)
    assert [p.name for p in tmp_path.iterdir()] == [".a.claim"]
    with claimed(tmp_path / "a", outputs(tmp_path)) as mine:
        assert mine
    assert not list(tmp_path.iterdir())


RACE = """
import os, sys, time
from pathlib import Path
from voxseg.cli._share import claimed
folder = Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.001)
for k in range(40):
    result = folder / f"{k}_seg"
    with claimed(folder / str(k), [result]) as mine:
        if mine:
            with open(folder / "log", "ab", buffering=0) as log:
                log.write(f"{k}\\n".encode())
            result.write_text(str(os.getpid()))
"""


def test_of_several_processes_one_does_each_scan(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path)]) for _ in range(4)]
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in processes] == [0] * 4
    # Those that were claimed by another when this one came by are done by that one.
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(40))
    assert not list(tmp_path.glob("*.claim"))


def test_a_folder_that_may_not_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), claimed(tmp_path / "file" / "a", outputs(tmp_path)):
        raise AssertionError
