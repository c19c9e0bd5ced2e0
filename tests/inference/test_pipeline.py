import signal
import subprocess
import sys
import threading

import pytest

from voxseg.inference.pipeline import Throughput, run_pipeline


class FatalError(Exception):
    pass


class Work:
    """Steps that record what they do, and fail where they are told to."""

    def __init__(self, **failing):
        self.failing, self.events, self.told, self.lock = failing, [], [], threading.Lock()

    def step(self, name, task):
        with self.lock:
            self.events.append((name, task))
        if (name, task) in self.failing.get("at", {}):
            raise self.failing["at"][name, task]

    def read(self, task):
        self.step("read", task)
        return f"scan {task}"

    def segment(self, task, scan):
        assert scan == f"scan {task}"
        assert threading.current_thread() is threading.main_thread()
        self.step("segment", task)
        return f"labels {task}"

    def write(self, task, scan, labels):
        assert (scan, labels) == (f"scan {task}", f"labels {task}")
        self.step("write", task)
        return f"file {task}"

    def run(self, count, **options):
        return run_pipeline(range(count), self.read, self.segment, self.write, self.told.append, **options)


def test_every_task_is_done_once_and_told_in_order():
    work = Work()
    result = work.run(7)
    assert [outcome.task for outcome in work.told] == list(range(7))
    assert [outcome.written for outcome in work.told] == [f"file {k}" for k in range(7)]
    assert all(outcome.error is None and outcome.seconds > 0 for outcome in work.told)
    for step in ("read", "segment", "write"):
        assert [task for name, task in work.events if name == step] == list(range(7))
    assert (result.done, result.failed) == (7, 0)
    assert result.seconds > 0


def test_steps_overlap():
    """The network of a scan goes on while the next one is read and the last one is written."""
    reading, writing = threading.Event(), threading.Event()

    def read(task):
        if task == 2:
            reading.set()
        return task

    def segment(task, scan):
        if task == 1:  # fails unless both go on beside it
            assert reading.wait(20)
            assert writing.wait(20)
        return scan

    def write(task, scan, found):
        if task == 0:
            writing.set()

    told = []
    run_pipeline(range(3), read, segment, write, told.append)
    assert [outcome.error for outcome in told] == [None] * 3


def test_one_at_a_time_if_memory_is_short():
    work = Work()
    work.run(4, ahead=lambda now, following: False)
    assert work.events == [(name, task) for task in range(4) for name in ("read", "segment", "write")]


def test_no_more_than_three_scans_are_held():
    alive, most = set(), []

    class Scan:
        def __init__(self, task):
            self.task = task
            alive.add(task)
            most.append(len(alive))

        def __del__(self):
            alive.discard(self.task)

    run_pipeline(range(12), Scan, lambda task, scan: None, lambda task, scan, found: None, lambda outcome: None)
    assert max(most) <= 3
    assert not alive


def test_errors_end_their_own_task_only():
    errors = {("read", 0): ValueError("a"), ("segment", 2): OSError("b"), ("write", 3): MemoryError("c")}
    work = Work(at=errors)
    result = work.run(5)
    assert [outcome.task for outcome in work.told] == list(range(5))
    assert [type(outcome.error) for outcome in work.told] == [ValueError, type(None), OSError, MemoryError, type(None)]
    assert (result.done, result.failed) == (2, 3)
    assert ("segment", 0) not in work.events
    assert ("write", 2) not in work.events


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), FatalError()])
def test_interruptions_end_everything_but_what_is_being_written(error):
    work = Work(at={("segment", 2): error})
    with pytest.raises(type(error)):
        work.run(6, fatal=(FatalError,))
    assert [outcome.task for outcome in work.told] == [0, 1]
    assert ("write", 2) not in work.events
    assert not any(task > 3 for _, task in work.events)
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("reading", "writing"))]


def test_what_telling_raises_is_not_lost():
    def tell(outcome):
        raise KeyError(outcome.task)

    work = Work()
    with pytest.raises(KeyError):
        run_pipeline(range(3), work.read, work.segment, work.write, tell)


def test_nothing_to_do():
    assert Work().run(0).line() == "0 scans in 0 s, 0.0 an hour"


def test_throughput_is_told():
    assert Throughput(30, 2, 1800.0).line() == "30 scans in 30 min, 60 an hour"
    assert Throughput(1, 0, 45.0).line() == "1 scan in 45 s, 80 an hour"
    assert Throughput(3, 0, 10800.0).line() == "3 scans in 3.0 h, 1.0 an hour"


KILLED = """
import signal, sys, time
from pathlib import Path
from voxseg.data.staging import staged
from voxseg.inference.pipeline import run_pipeline
folder = Path(sys.argv[1])

def end(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it

def segment(task, scan):
    if task == 2:
        print("begun", flush=True)
        while True:  # until the signal comes
            time.sleep(0.01)

def write(task, scan, found):
    with staged(folder / f"{task}.a", folder / f"{task}.b") as (one, other):
        one.write_text("a")
        if task == 1:  # the signal comes while this goes on
            while not (folder / "sent").exists():
                time.sleep(0.01)
        other.write_text("b")

run_pipeline(range(5), lambda task: task, segment, write, lambda outcome: None)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, stderr=-3)
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    (tmp_path / "sent").touch()
    assert process.wait(30) != 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.a", "0.b", "1.a", "1.b", "sent"]
