"""`voxseg watch`: every case exists exactly once in the end, whatever happens on the way."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imsave

from heads import toy_labels
from models import write_model
from voxseg.cli._case import CaseWork, Settings
from voxseg.cli._watching import Watcher
from voxseg.cli.main import run
from voxseg.errors import UserError
from voxseg.report.outputs import DICOM_OUTPUTS, OUTPUTS
from voxseg.service.arrivals import Arrivals


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def place(tmp_path):
    """A watched folder, and the one for the results."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch):
    """Drawing takes most of the time of a small case."""
    picture = io.BytesIO()
    imsave(picture, np.zeros((4, 4, 3)))
    monkeypatch.setattr("voxseg.report.qc.draw_qc", lambda path, *rest: path.write_bytes(picture.getvalue()))


def save(path, shift=0.0):
    values = toy_labels()[::3, ::3, ::3].astype(np.float32) + shift
    image = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
    nib.save(image(values, np.diag([6.0, 6, 6, 1])), path)
    return path


def watch(place, model, *more):
    arguments = ["watch", *map(str, place), "--model", model, "--once", "--settle", "0", "--every", "0", *more]
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--threads", "1", "--device", "cpu"])
    return ended.value.code or 0


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".watch")


def results(*cases):
    return sorted(case + end for case in cases for end in OUTPUTS)


def locks(out):
    return [path.name for path in (out / ".watch").iterdir() if path.suffix != ".json"]


def test_what_is_there_is_done_once(place, model, capsys):
    incoming, out = place
    save(incoming / "a.nii.gz")
    save(incoming / "größer b.mgz", 1)
    (incoming / "bad.nii.gz").write_bytes(b"no scan")
    (incoming / "notes.txt").write_text("hello")
    assert watch(place, model) == 1
    told = capsys.readouterr()
    assert names(out) == sorted([*results("a", "größer b"), "bad_failed.json"])
    problem = json.loads((out / "bad_failed.json").read_text())
    assert problem["scan"] == "bad.nii.gz"
    assert told.err == f"voxseg: {problem['problem']}\n"
    assert "notes.txt: is no scan; left alone" in told.out
    assert told.out.endswith("2 cases done, 1 failed\n")
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    assert watch(place, model) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.endswith("0 cases done, 0 failed\n")
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == before
    assert names(incoming) == ["a.nii.gz", "bad.nii.gz", "größer b.mgz", "notes.txt"]
    assert locks(out) == []


def test_what_changed_is_done_again(place, model):
    incoming, out = place
    (incoming / "a.nii.gz").write_bytes(b"no scan")
    save(incoming / "b.nii.gz")
    assert watch(place, model) == 1
    assert names(out) == sorted([*results("b"), "a_failed.json"])
    save(incoming / "a.nii.gz")
    values = np.zeros((9, 10, 11), np.float32)
    values[3:6, 3:6, 3:6] = 100
    nib.save(nib.Nifti1Image(values, np.diag([6.0, 6, 6, 1])), incoming / "b.nii.gz")
    assert watch(place, model) == 0
    assert names(out) == results("a", "b")
    assert nib.load(out / "b_seg.nii.gz").shape == (9, 10, 11)


def test_results_that_were_taken_away_are_not_made_again(place, model):
    incoming, out = place
    save(incoming / "a.nii.gz")
    assert watch(place, model) == 0
    for path in out.glob("a_*"):
        path.unlink()
    assert watch(place, model) == 0
    assert names(out) == []


def test_a_case_that_was_set_aside_is_tried_again_when_its_file_is_removed(place, model, capsys):
    incoming, out = place
    (incoming / "a.nii.gz").write_bytes(b"no scan")
    assert watch(place, model) == 1
    (out / "a_failed.json").unlink()
    assert watch(place, model) == 1
    assert names(out) == ["a_failed.json"]
    assert capsys.readouterr().err.count("voxseg: ") == 2


def test_two_arrivals_of_one_name(place, model, capsys):
    incoming, out = place
    save(incoming / "a.mgz")
    save(incoming / "a.nii.gz")
    assert watch(place, model) == 1
    assert "a.nii.gz: would write the same files as a.mgz; rename one of them" in capsys.readouterr().err
    assert names(out) == sorted([*results("a"), "a.nii.gz_failed.json"])
    assert watch(place, model) == 0
    (incoming / "a.nii.gz").rename(incoming / "b.nii.gz")
    assert watch(place, model) == 0
    assert set(results("a", "b")) < set(names(out))


def test_a_folder_of_dicom(place, model):
    pytest.importorskip("highdicom")
    from dicom_files import head, slices, write

    incoming, out = place
    write(slices(head(), number=3, description="T1"), incoming / "exam")
    (incoming / "report").mkdir()
    (incoming / "report" / "page.pdf").write_bytes(b"%PDF")
    assert watch(place, model) == 1
    assert names(out) == sorted([f"exam{end}" for end in (*OUTPUTS, *DICOM_OUTPUTS)] + ["report_failed.json"])


def watcher(place, model):
    settings = Settings(Path(model), ("image",), "cpu", 1, None, False, False, False)
    return Watcher(CaseWork(settings), *place, Arrivals(place[0], 0))


class EndOfTestError(Exception):
    pass


def test_what_arrives_later_is_done_with_the_model_that_is_loaded(place, model, capsys):
    incoming, out = place
    one, looks = watcher(place, model), []
    predictors = set()

    def wait(seconds):
        looks.append(names(out) if out.exists() else [])
        predictors.add(id(one.work.predictor))
        if len(looks) == 2:
            save(incoming / "a.nii.gz")
        if len(looks) == 4:
            os.rename(incoming, incoming.with_name("away"))  # a share that is gone for a while
        if len(looks) == 6:
            os.rename(incoming.with_name("away"), incoming)
            save(incoming / "b.nii.gz")
        if len(looks) == 9:
            raise EndOfTestError

    one.work.load()
    with pytest.raises(EndOfTestError):
        one.run(7, False, wait)
    assert [len(found) for found in looks] == [0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert len(predictors) == 1
    assert capsys.readouterr().err.count("cannot be read") == 1


def test_a_full_disk_ends_the_program_and_is_no_fault_of_the_case(place, model, monkeypatch):
    save(place[0] / "a.nii.gz")
    one = watcher(place, model)

    def full(*arguments):
        raise UserError(place[1], "the results cannot be written (No space left on device)", "make room")

    with monkeypatch.context() as patch:
        patch.setattr(CaseWork, "write", full)
        with pytest.raises(UserError, match="No space"):
            one.run(0, True)
    assert names(place[1]) == []
    assert watch(place, model) == 0
    assert names(place[1]) == results("a")


def test_a_case_that_changes_while_it_is_read_is_not_set_aside(place, model, monkeypatch):
    path = save(place[0] / "a.nii.gz")
    whole, read, reads = path.read_bytes(), CaseWork.read, []
    path.write_bytes(whole[:500])

    def read_and_go_on_growing(self, task):
        reads.append(1)
        try:
            return read(self, task)
        finally:
            if len(reads) == 1:
                path.write_bytes(whole)

    monkeypatch.setattr(CaseWork, "read", read_and_go_on_growing)
    assert watch(place, model) == 0
    assert len(reads) == 2
    assert names(place[1]) == results("a")


def test_a_case_that_kills_the_program_is_set_aside_in_the_end(place, model, monkeypatch, capsys):
    save(place[0] / "a.nii.gz")
    save(place[0] / "b.nii.gz")

    class KilledError(BaseException):
        pass

    def die(self, loaded, progress):
        if "a.nii" in str(loaded.volumes[0].path):
            raise KilledError
        return segment(self, loaded, progress)

    segment = CaseWork.segment
    monkeypatch.setattr(CaseWork, "segment", die)
    monkeypatch.setattr("voxseg.service.ledger.Ledger.forget", lambda self, case: None)  # as there is no time for it
    for _ in range(3):
        with pytest.raises(KilledError):
            watcher(place, model).run(0, True)
    assert watch(place, model) == 1
    assert names(place[1]) == sorted([*results("b"), "a_failed.json"])
    assert "was killed 3 times" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["in", "in/results", "file"])
def test_folders_that_cannot_be(place, model, out, capsys):
    (place[0].parent / "file").touch()
    assert watch((place[0], place[0].parent / out), model) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert watch((place[0].parent / "none", place[1]), model) == 2


# Heavy modules are imported before the processes part, and nothing is computed, so that each is there at once.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import torch, nibabel, matplotlib.pyplot
import voxseg.inference.predictor, voxseg.inference.model, voxseg.report.qc, voxseg.data.volume
from voxseg.cli.main import run
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
voxseg.report.qc.draw_qc = lambda path, *rest: path.write_bytes(b"picture")  # it takes most of the time
ROOT, MODEL = Path(sys.argv[1]), sys.argv[2]
CALLS = ("replace", "fsync", "unlink")

def watch(place, kill_at=None, log="log", once=True, number=None):
    child = os.fork()
    if child:
        return child
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    count = 0
    def counted(name):
        real = getattr(os, name)
        def call(path, *more, **options):
            nonlocal count, number
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            if number is not None and any(place.glob("out/.*.a_*")):  # in the middle of writing
                sent, number = number, None
                os.kill(os.getpid(), sent)
            done = real(path, *more, **options)
            if name == "replace":
                with open(place / log, "a") as file:
                    file.write(Path(more[0]).name + "\\n")
            return done
        setattr(os, name, call)
    for name in CALLS:
        counted(name)
    arguments = ["watch", str(place / "in"), str(place / "out"), "--model", MODEL, "--settle", "0", "--every", "0.01"]
    try:
        run([*arguments, *(["--once"] * once), "--device", "cpu", "--threads", "1"])
    except SystemExit as ended:
        os._exit(ended.code or 0)
    os._exit(99)

def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

SWEEP = """
def sweep(root, points):
    for point in points:
        place = root / str(point)
        (place / "in").mkdir(parents=True)
        for scan in (root / "scans").iterdir():
            os.link(scan, place / "in" / scan.name)
        codes = [code(watch(place, point)), code(watch(place))]
        (place / "codes").write_text(json.dumps(codes))
        if codes[0] == 0:
            break
"""

EVERY_POINT = """
import itertools
sweep(ROOT, itertools.count())
"""

# Beside the points: three processes in one folder, of which one is killed; and one for each signal.
SOME_POINTS = """
sweep(ROOT / "points", [3, 21, 36, 10**6])

place = ROOT / "three"
children = [watch(place, kill_at) for kill_at in (None, None, 30)]
(place / "codes").write_text(json.dumps([code(child) for child in children]))

for number in (signal.SIGTERM, signal.SIGINT):
    place = ROOT / str(int(number))
    (place / "code").write_text(str(code(watch(place, once=False, number=number))))
"""


def drive(program, root, model):
    command = [sys.executable, "-c", DRIVER + SWEEP + program, str(root), model]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def fill(folder, count):
    folder.mkdir(parents=True)
    for k in range(count):
        save(folder / f"{'abcdef'[k]}.nii.gz", k)


def check_points(folder):
    """What is there after the program was killed before each of some calls that change a folder, and started again."""
    points = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    wanted = [nib.load(folder / str(points[-1]) / "out" / f"{case}_seg.nii.gz").get_fdata() for case in "ab"]
    for point in points:
        place = folder / str(point)
        killed = -signal.SIGKILL if point < points[-1] else 0
        assert json.loads((place / "codes").read_text()) == [killed, 0], point
        assert names(place / "out") == results("a", "b"), point
        assert sorted(path.name for path in (place / "out" / ".watch").iterdir()) == ["a.json", "b.json"], point
        log = (place / "log").read_text().splitlines()
        for case, labels in zip("ab", wanted, strict=True):
            assert np.array_equal(nib.load(place / "out" / f"{case}_seg.nii.gz").get_fdata(), labels)
            assert json.loads((place / "out" / ".watch" / f"{case}.json").read_text())["status"] == "done"
            # The last file of a case gets its name once: a case that is complete is never done again.
            assert log.count(f"{case}_seg.json") == 1, point
            assert log.count(f"{case}_seg.nii.gz") in (1, 2), point
    return points


@pytest.fixture(scope="module")
def killed(tmp_path_factory, model):
    if not hasattr(os, "fork"):
        pytest.skip("Windows has neither fork nor SIGKILL")
    root = tmp_path_factory.mktemp("killed")
    fill(root / "points" / "scans", 2)
    fill(root / "three" / "in", 4)
    for number in (signal.SIGTERM, signal.SIGINT):
        fill(root / str(int(number)) / "in", 1)
    drive(SOME_POINTS, root, model)
    return root


def test_killed_at_some_points(killed):
    assert len(check_points(killed / "points")) == 4


def test_of_three_processes_on_a_folder_one_is_killed(killed):
    place = killed / "three"
    assert json.loads((place / "codes").read_text())[:2] == [0, 0]
    assert names(place / "out") == results(*"abcd")
    log = (place / "log").read_text().splitlines()
    assert [log.count(f"{case}_seg.json") for case in "abcd"] == [1] * 4
    assert locks(place / "out") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(killed, model, number):
    place = killed / str(int(number))
    assert (place / "code").read_text() == "0"
    assert [name for name in names(place / "out") if name.startswith(".")] == []
    assert locks(place / "out") == []
    assert watch((place / "in", place / "out"), model) == 0
    assert names(place / "out") == results("a")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither fork nor SIGKILL")
def test_killed_at_every_point(tmp_path, model):
    fill(tmp_path / "scans", 2)
    drive(EVERY_POINT, tmp_path, model)
    assert len(check_points(tmp_path)) > 40
