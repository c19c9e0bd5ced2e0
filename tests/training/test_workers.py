import os
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest

from voxseg.errors import UserError
from voxseg.training.workers import in_workers


def ten():
    return range(10)


def square(k):
    return k * k, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 3, 12])
def test_results_come_in_order(workers):
    results = list(in_workers(square, ten, workers))
    assert [value for value, _ in results] == [k * k for k in range(10)]
    assert len({pid for _, pid in results}) == min(max(workers, 1), 10)
    assert (results[0][1] == os.getpid()) == (workers == 0)


def large(k):
    return bytes(3 * 10**6)


def test_results_larger_than_a_pipe_and_an_early_end():
    results = in_workers(large, ten, 2)
    assert len(next(results)) == 3 * 10**6
    results.close()  # with workers in the middle of sending


def mistake(k):
    if k == 3:
        raise UserError("file", "is broken", "mend it")
    return k


def bug(k):
    return 1 // (3 - k)


def test_errors_come_at_their_place():
    results = in_workers(mistake, ten, 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"^file: is broken; mend it$"):
        next(results)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(in_workers(bug, ten, 2))


@pytest.mark.parametrize("function", [square, large])
def test_a_killed_worker_is_told_where_its_result_is_missing(function):
    def endless():
        return iter(int, 1)

    results = in_workers(function, endless, 2)
    next(results)
    os.kill(results.gi_frame.f_locals["processes"][1].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"data loading: a worker process was killed by SIGKILL, .*memory") as caught:
        list(islice(results, 10**5))  # small results fill a pipe by the thousand
    assert "\n" not in str(caught.value)


def test_workers_outlive_the_signals_that_end_the_main_process_gently():
    results = in_workers(square, ten, 2)
    first = next(results)
    for process in results.gi_frame.f_locals["processes"]:
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)
    assert [first[0], *(value for value, _ in results)] == [k * k for k in range(10)]


PROGRAM = """
import os, sys
sys.path.insert(0, {tests!r})
from test_workers import square, large
from voxseg.training.workers import in_workers
results = in_workers({function}, lambda: iter(int, 1), 2)
next(results)
print(*(process.pid for process in results.gi_frame.f_locals["processes"]), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(0)", "keep = [results]; raise SystemExit(0)"])
def test_no_worker_stays_behind(end):
    program = PROGRAM.format(tests=os.path.dirname(__file__), function="large", end=end)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -9), done.stderr
    left = [int(pid) for pid in done.stdout.split()]
    assert len(left) == 2
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if _alive(pid)]
        os.sched_yield()
    assert not left


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
