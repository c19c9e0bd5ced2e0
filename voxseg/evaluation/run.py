"""Evaluating many cases: one after the other or in several processes; what fails is told and the rest is done."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace

from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError
from voxseg.evaluation.case import evaluate_case
from voxseg.evaluation.pairs import Pair
from voxseg.evaluation.read_pair import read_pair
from voxseg.evaluation.result import CaseEvaluation, Evaluation, MetricSettings, Problem
from voxseg.evaluation.structures import structures_of

__all__ = ["evaluate", "evaluate_pair"]

Progress = Callable[[str], object]
"""Is called with the name of each case that is done."""


def evaluate(
    pairs: Sequence[Pair],
    scheme: LabelScheme,
    settings: MetricSettings | None = None,
    progress: Progress | None = None,
    *,
    resample: bool = False,
    problems: Iterable[Problem] = (),
    only_present: bool = False,
    jobs: int = 1,
    on_error: Callable[[BaseException], object] | None = None,
) -> Evaluation:
    """Score each prediction against its reference.

    Args:
        pairs: of one model or of several; the order in which models come first is kept.
        scheme: what the ids in all files mean.
        settings: tolerance and lesions.
        progress: told of each pair that is done.
        resample: whether predictions on other grids are resampled to those of their references.
        problems: cases that could not even be matched, to be listed with the others.
        only_present: whether structures that are in no file are left out.
        jobs: processes at a time; each takes up to 1 GB for scans of 256³.
        on_error: told of each exception that became a problem.

    Returns:
        All cases that could be scored, and why the others could not.
    """
    settings = settings or MetricSettings()
    problems = list(problems)
    models = tuple(dict.fromkeys([pair.model for pair in pairs] + [problem.model for problem in problems]))
    done: list[CaseEvaluation] = []
    for pair, outcome in _outcomes(pairs, scheme, settings, resample, jobs):
        if isinstance(outcome, CaseEvaluation):
            done.append(outcome)
        else:
            if on_error is not None:
                on_error(outcome)
            problems.append(Problem(pair.case, pair.model, _explained(outcome, pair)))
        if progress is not None:
            progress(pair.case)

    def place(item: CaseEvaluation | Problem) -> tuple[int, str]:
        return models.index(item.model), item.case

    done.sort(key=place)
    problems.sort(key=place)
    structures = structures_of(scheme)
    kept = list(range(len(structures)))
    if only_present and done:
        kept = [k for k in kept if any(case.scores[k].status != "absent" for case in done)]
        done = [replace(case, scores=tuple(case.scores[k] for k in kept)) for case in done]
    return Evaluation(tuple(structures[k] for k in kept), settings, models, tuple(done), tuple(problems))


def evaluate_pair(pair: Pair, scheme: LabelScheme, settings: MetricSettings, resample: bool = False) -> CaseEvaluation:
    """Score one prediction.

    Raises:
        UserError: as `read_pair`.
    """
    files = read_pair(pair.prediction, pair.reference, scheme, resample)
    scores, sides = evaluate_case(files.prediction, files.reference, files.geometry.spacing, scheme, settings)
    return CaseEvaluation(pair.case, pair.model, pair.prediction, pair.reference, scores, sides, files.notes)


def _outcomes(
    pairs: Sequence[Pair], scheme: LabelScheme, settings: MetricSettings, resample: bool, jobs: int
) -> Iterator[tuple[Pair, CaseEvaluation | Exception]]:
    """Each pair with what came of it, as they are done."""
    if min(jobs, len(pairs)) <= 1:
        for pair in pairs:
            try:
                yield pair, evaluate_pair(pair, scheme, settings, resample)
            except Exception as error:
                yield pair, error
        return
    # Forked processes would inherit the threads of torch in the state they happen to be in.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(pairs)), context, _prepare_worker) as pool:
        before = set(multiprocessing.active_children())
        waiting: dict[Future[CaseEvaluation], Pair] = {
            pool.submit(evaluate_pair, pair, scheme, settings, resample): pair for pair in pairs
        }
        workers = set(multiprocessing.active_children()) - before
        try:
            for future in as_completed(waiting):
                try:
                    yield waiting[future], future.result()
                except Exception as error:
                    yield waiting[future], error
        except BaseException:  # Ctrl-C, or a consumer that went away
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise


def _prepare_worker() -> None:
    """Several processes share the cores; Ctrl-C is for the first one, which ends the others."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _explained(error: BaseException, pair: Pair) -> str:
    """One line on what went wrong with a case."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{pair.prediction}: ran out of memory; evaluate it on a machine with more, or with fewer --jobs"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{pair.prediction}: {what}; this is a bug in voxseg, please report it with what --debug shows"
