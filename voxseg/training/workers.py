"""Items computed ahead by other processes and given in their order.

Why not torch's DataLoader: its workers hand tensors over in /dev/shm, which is 64 MB in a container by default, and a
worker that is killed raises an exception wherever the main process happens to be. Here each worker has a pipe of its
own: a dead one ends that pipe, at the place where the next item is taken.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from voxseg.errors import UserError

__all__ = ["in_workers"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What tells a run to stop. Workers do not heed them: the main process ends them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(
    function: Callable[[Item], Result], items: Callable[[], Iterable[Item]], workers: int
) -> Iterator[Result]:
    """The function of each item, in their order.

    Args:
        function: has to be picklable where processes are not forked. What it gives is sent through a pipe.
        items: gives the items. Each worker goes through all of them and computes its own.
        workers: processes, each of which keeps up to three results ready; 0 computes in this process.

    Raises:
        UserError: the function raises it, or a worker is killed.
        RuntimeError: the function raises anything else; with its traceback.
    """
    if workers == 0:
        yield from map(function, items())
        return
    context = multiprocessing.get_context()
    forked = context.get_start_method() == "fork"
    processes: list[Any] = []
    pipes: list[Connection] = []
    # Python waits for daemons when it ends, and these do not heed its SIGTERM.
    atexit.register(_kill, processes)
    try:
        for number in range(workers):
            receiving, sending = context.Pipe(duplex=False)
            pipes.append(receiving)
            # A forked worker holds copies of what this process has open; the others have to see a closed pipe.
            inherited = list(pipes) if forked else []
            arguments = (function, items, number, workers, sending, inherited, os.getpid())
            process = context.Process(target=_work, args=arguments, daemon=True)
            with _signals_held():
                process.start()
            sending.close()
            processes.append(process)
        turn = 0
        while True:
            try:
                kind, value = pipes[turn].recv()
            except (EOFError, OSError):
                raise _killed(processes[turn]) from None
            if kind == "end":
                return
            if kind == "user error":
                raise UserError(*value)
            if kind == "error":
                raise RuntimeError(f"in a worker process:\n{value}")
            yield value
            turn = (turn + 1) % workers
    finally:
        _kill(processes)
        atexit.unregister(_kill)
        for pipe in pipes:
            pipe.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keeps signals waiting, so that none reaches a process that starts before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(processes: list[Any]) -> None:
    """Ends workers at once: they share nothing that could be left half done."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    processes.clear()


def _killed(process: Any) -> UserError:
    """What to tell of a worker that died."""
    process.join(5)
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
    memory = ", as systems do when memory runs out" if code == -signal.SIGKILL else ""
    remedy = "go on with --resume, with more memory or fewer dataset.workers (0 loads in the training process)"
    return UserError("data loading", f"a worker process {how}{memory}", remedy)


def _work(
    function: Callable[[Any], Any],
    items: Callable[[], Iterable[Any]],
    number: int,
    workers: int,
    pipe: Connection,
    inherited: list[Connection],
    parent: int,
) -> None:
    """A worker: every `workers`-th item, from `number`."""
    for connection in inherited:
        connection.close()
    # Ctrl-C and a scheduler's warning go to all processes; the main one then wants its next batch before it ends.
    for kind in SIGNALS:
        signal.signal(kind, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    sender = threading.Thread(target=_send, args=(ready, pipe), daemon=True)
    sender.start()
    try:
        for item in islice(items(), number, None, workers):
            ready.put(("result", function(item)))
        ready.put(("end", None))
    except UserError as error:
        # Its parts alone: what it came of may be nothing that can be sent.
        ready.put(("user error", (error.subject, error.problem, error.remedy)))
    except Exception:
        ready.put(("error", traceback.format_exc()))
    sender.join()


def _send(ready: queue.Queue[tuple[str, Any]], pipe: Connection) -> None:
    """Sends while the next result is computed."""
    kind = "result"
    while kind == "result":
        kind, value = ready.get()
        try:
            pipe.send((kind, value))
        except OSError:  # nobody listens any more
            os._exit(1)


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
