"""How `voxseg watch` goes through a folder, one case at a time; imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path

from voxseg.cli._case import CaseWork, Written, failure_of
from voxseg.cli._cases import Task, find_tasks
from voxseg.cli._progress import REPORT_STAGE, STAGES, Progress, say
from voxseg.cli._result import add_result
from voxseg.cli._telling import Teller
from voxseg.data.dicom.files import is_dicom
from voxseg.data.paths import SUFFIXES
from voxseg.errors import UserError
from voxseg.service.arrivals import Arrival, Arrivals, state_of
from voxseg.service.ledger import Ledger, Record

__all__ = ["Watcher"]

ATTEMPTS = 3  # a case that was at work when the program was killed so often is no longer tried


class _End(Enum):
    """How a turn of a case ends."""

    DONE = "done"
    FAILED = "failed"
    OLD = "was done or failed before"
    TAKEN = "is in the hands of another process"
    CHANGED = "changed or went away meanwhile"


class Watcher:
    """Segments what arrives in a folder; every case once, whatever ends the process.

    Args:
        work: how a case is done.
        incoming: the folder; nothing is ever written there.
        results: folder of the results.
        arrivals: what has arrived in the first one.
        series: which DICOM series to take; the only volume by default.
        verbose: whether more is told of each case.
    """

    def __init__(
        self,
        work: CaseWork,
        incoming: Path,
        results: Path,
        arrivals: Arrivals,
        series: tuple[str, ...] = (),
        verbose: bool = False,
    ) -> None:
        self.work, self.incoming, self.results, self.arrivals = work, incoming, results, arrivals
        self.series, self.verbose = series, verbose
        self.ledger = Ledger(results)
        self.teller = Teller(1, verbose)
        self.finished: dict[str, tuple[str, list[str]]] = {}  # state, and cases set aside, of arrivals gone through
        self.aside: list[str] = []  # of the arrival at hand
        self.unreadable = ""

    def run(self, every: float, once: bool, wait: Callable[[float], None] = time.sleep) -> None:
        """Go through the folder again and again.

        Args:
            every: seconds between looks where there is nothing to do.
            once: whether to end when all that is there is done or has failed.
            wait: called with `every`.

        Raises:
            UserError: if the model or the folder of results cannot be used.
        """
        while True:
            pending = self._go_through()
            if once and not pending:
                return
            wait(every)

    def _go_through(self) -> bool:
        """Do what has arrived, looking again after each arrival; whether something is left that is not ready."""
        tried: set[Arrival] = set()
        while True:
            following = next((a for a in self._look() if a not in tried and not self._is_finished(a)), None)
            if following is None:
                left = any(not self._is_finished(a) for a in tried)
                return left or self.arrivals.arriving > 0 or bool(self.unreadable)
            tried.add(following)
            self._take(following)

    def _look(self) -> list[Arrival]:
        try:
            found = self.arrivals.look()
        except OSError as error:  # a share that is away for a while
            if not self.unreadable:
                self.unreadable = error.strerror or str(error)
                say(f"voxseg: {self.incoming}: cannot be read ({self.unreadable}); trying again", error=True)
            return []
        self.unreadable = ""
        return found

    def _is_finished(self, arrival: Arrival) -> bool:
        """Whether all cases of an arrival are done or set aside, in the state that it is in."""
        state, aside = self.finished.get(arrival.path.name, ("", []))
        return state == arrival.state and all(map(self.ledger.is_set_aside, aside))

    def _take(self, arrival: Arrival) -> None:
        """Do the cases of an arrival."""
        self.aside = []
        ends = [self._turn(arrival, case, task) for case, task in self._cases(arrival.path)]
        if not {_End.TAKEN, _End.CHANGED}.intersection(ends):
            self.finished[arrival.path.name] = (arrival.state, self.aside)

    def _cases(self, path: Path) -> list[tuple[str, Task]]:
        """The cases of an arrival by their names among the results; what is wrong is told when their turn comes."""
        dicom = is_dicom(path)
        if not (dicom or path.is_dir() or path.name.lower().endswith(SUFFIXES)):
            say(f"{path}: is no scan; left alone")
            return []
        try:
            series = self.series if dicom else ()
            tasks = find_tasks([path], [], False, self.results, self.work.settings.names, series)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            bug = UserError(path, text, "please report this as a bug in voxseg")
            problem = error if isinstance(error, UserError) else bug
            return [(path.name, Task(str(path), {}, self.results / path.name, problem=problem))]
        return [("_".join(task.target.relative_to(self.results).parts), task) for task in tasks]

    def _turn(self, arrival: Arrival, case: str, task: Task) -> _End:
        """Do a case, unless it is done or another process is at it."""
        with self.ledger.claim(case) as mine:
            if not mine:
                return _End.TAKEN
            record, new = self.ledger.read(case), Record(arrival.path.name, arrival.state, "begun")
            if record is not None and record.arrival != new.arrival and (self.incoming / record.arrival).exists():
                return self._refuse(case, new, task, record.arrival)
            outputs = self.work.outputs(task)
            if record is not None and (record.arrival, record.state) == (new.arrival, new.state):
                if self._is_old(case, record):
                    return _End.OLD
                if record.status == "begun":
                    self.ledger.clear(case, outputs)
                    if self.ledger.has_results(case, outputs):
                        self.ledger.finish(case, replace(new, status="done"))
                        add_result(scan=task.subject, status="done", files=outputs)
                        say(f"{task.subject}: its results were complete when the program was ended")
                        return _End.DONE
                    new = replace(new, attempts=record.attempts)
            self.ledger.clear(case, outputs)
            return self._do(case, task, replace(new, attempts=new.attempts + 1))

    def _is_old(self, case: str, record: Record) -> bool:
        """Whether a case with a record of the state that it is in has come to its end."""
        set_aside = record.status == "failed" and self.ledger.is_set_aside(case)
        if set_aside:
            self.aside.append(case)
        return set_aside or record.status == "done"

    def _refuse(self, case: str, record: Record, task: Task, other: str) -> _End:
        """Set an arrival aside under its full name, as its case has the name of that of another one."""
        key = record.arrival if record.arrival != case else f"{case}_2"
        with self.ledger.claim(key) as mine:
            if not mine:
                return _End.TAKEN
            before = self.ledger.read(key)
            if before is not None and before.state == record.state and self._is_old(key, before):
                return _End.OLD
            problem = f"would write the same files as {other}"
            return self._failed(key, record, task, UserError(task.subject, problem, "rename one of them"))

    def _do(self, case: str, task: Task, record: Record) -> _End:
        """Segment a case and record what came of it."""
        if record.attempts > ATTEMPTS:
            problem = f"the program was killed {ATTEMPTS} times while it was segmented"
            remedy = "perhaps it takes too much memory: give --max-memory, or a smaller scan"
            return self._failed(case, record, task, UserError(task.subject, problem, remedy))
        done = replace(record, status="done", attempts=0)
        self.ledger.write(case, record)
        try:
            written = self._segment(task)
        except Exception as error:
            if isinstance(error, UserError) and Path(error.subject) == task.target.parent:
                self.ledger.forget(case)
                raise  # a full disk is no fault of the case
            if state_of(self.incoming / record.arrival) != record.state:
                self.ledger.forget(case)
                return _End.CHANGED
            return self._failed(case, record, task, error)
        except BaseException:  # Ctrl-C or a signal: the case is taken up again the next time
            if self.ledger.has_results(case, self.work.outputs(task)):
                self.ledger.finish(case, done)
            else:
                self.ledger.forget(case)
            raise
        self.ledger.finish(case, done)
        self.teller.wrote(task, written)
        return _End.DONE

    def _segment(self, task: Task) -> Written:
        loaded = self.work.read(task)
        plan = self.work.plan(loaded)
        self.teller.plan(task, (plan.grid, plan.run), plan.line())
        progress = Progress(task.target.name, STAGES | (REPORT_STAGE if self.work.settings.report else {}))
        try:
            segmentation = self.work.segment(loaded, progress)
            return self.work.write(task, loaded, segmentation, progress)
        finally:
            progress.close()

    def _failed(self, case: str, record: Record, task: Task, error: Exception) -> _End:
        failure = failure_of(task, error)
        self.ledger.fail(case, replace(record, status="failed", attempts=0), failure.message)
        self.aside.append(case)
        self.teller.failed(failure)
        return _End.FAILED
