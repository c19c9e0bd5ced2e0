"""A run on a data set: its cases found, checked, divided and prepared."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from voxseg.data.cache import CachedCase, CaseCache
from voxseg.data.datasets.case import Case, Dataset
from voxseg.data.datasets.check import check_dataset
from voxseg.data.datasets.find import find_dataset
from voxseg.data.datasets.splits import Split, make_splits, read_splits, write_splits
from voxseg.data.prepared_field import check_field_case, field_cases
from voxseg.errors import UserError
from voxseg.training.dataset_source import DatasetSource, window_bytes
from voxseg.training.distributed import Processes
from voxseg.training.field_validation import FieldValidation
from voxseg.training.run import Run
from voxseg.training.validation import CaseValidation, Validation

SPLITS = "splits.json"


def open_dataset(run: Run, processes: Processes) -> tuple[DatasetSource, Validation | None, dict[str, Any]]:
    """Opens the data set of a run; prepares and caches the cases to train on.

    Returns:
        The samples, what is validated on (None where every case is trained on), and the facts as in `Run`.

    Raises:
        UserError: the data do not fit the config; the message names the file.
    """
    config = run.config
    dataset = processes.leader_does(lambda: _find_cases(run))
    splits = processes.leader_does(lambda: _splits(run, dataset))
    # From here on the run has a folder: if it is stopped while its cases are prepared, it can be taken up.
    processes.leader_does(lambda: _begin(run, splits))
    fold = config.dataset.fold if config.dataset is not None else "all"
    split = Split(tuple(case.id for case in dataset.cases), ()) if fold == "all" else splits[fold]
    cases = {case.id: case for case in dataset.cases}
    cached = _cached(run, [cases[name] for name in split.train], processes)
    validation: Validation | None = None
    if split.validation:
        held_out = [cases[name] for name in split.validation]
        kind = CaseValidation if config.targets is None else FieldValidation
        validation = kind(held_out, config, processes.rank, processes.world)
    source = DatasetSource(cached, config, run.device, processes.rank, processes.world)
    facts = {"layout": dataset.layout, "training_cases": len(split.train), "validation_cases": len(split.validation)}
    return source, validation, facts


def _find_cases(run: Run) -> Dataset:
    """The cases, each with all images asked for and a label or a target."""
    config, settings = run.config, run.config.dataset
    assert config.data is not None
    assert settings is not None
    if config.targets is not None:
        dataset = field_cases(find_dataset(config.data, settings.layout, settings.patterns, labels=False))
        for case in dataset.cases:
            check_field_case(case, config.preparation, config.targets)
        return dataset
    dataset = find_dataset(config.data, settings.layout, settings.patterns)
    report = check_dataset(dataset, list(config.preparation.images), config.labels, progress=True)
    if not report.ok:
        first, *others = report.errors
        more = f" (and {len(others)} more)" if others else ""
        remedy = f"voxseg data check {config.data} tells all"
        raise UserError(first.case or config.data, f"{first.text}{more}", remedy)
    return dataset


def _splits(run: Run, dataset: Dataset) -> list[Split]:
    """The folds: those of the run itself where it has begun; none where every case is trained on."""
    settings, path = run.config.dataset, run.folder / SPLITS
    assert settings is not None
    if settings.fold == "all":
        return []
    if path.is_file() and run.store.exists():
        splits = read_splits(path, dataset)
    elif settings.split is not None:
        splits = read_splits(settings.split, dataset)
    else:
        splits = make_splits(dataset, settings.folds, run.config.seed)
    if settings.fold >= len(splits):
        raise UserError("dataset.fold", f"is {settings.fold}, but there are {len(splits)} splits", "give a lower one")
    return splits


def _begin(run: Run, splits: list[Split]) -> None:
    if not run.store.exists():
        run.write_config()
    if splits:
        write_splits(run.folder / SPLITS, splits)


def _cached(run: Run, cases: list[Case], processes: Processes) -> list[CachedCase]:
    """The prepared cases: each process prepares some, then those that another machine has prepared for itself."""
    config = run.config
    assert config.dataset is not None
    folder = config.dataset.cache or run.folder / "cache"
    cache = CaseCache(folder, config.preparation, config.labels, config.targets)
    if processes.leads:
        print(cache.estimate(cases).line(window_bytes(config)), file=sys.stderr)
    # Each process prepares some; then those that lie on a disk of another machine.
    _build(cache, cases[processes.rank :: processes.world], processes.leads)
    processes.wait()
    return _build(cache, cases, processes.leads)


def _build(cache: CaseCache, cases: list[Case], shown: bool) -> list[CachedCase]:
    """Prepares what is missing, with a bar where standard error is a terminal."""
    with tqdm(total=len(cases), desc="preparing", unit="case", disable=not (shown and sys.stderr.isatty())) as bar:
        return cache.build(cases, lambda done, total: _show(bar, done))


def _show(bar: tqdm[Any], done: int) -> None:
    bar.update(done - bar.n)
