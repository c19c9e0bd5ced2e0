"""Which cases are trained on and which are held out: drawn by subject, or read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.case import Dataset, some
from voxseg.data.datasets.listing import read_json
from voxseg.data.staging import write_text
from voxseg.errors import UserError

__all__ = ["Split", "make_splits", "read_splits", "write_splits"]


@dataclass(frozen=True)
class Split:
    """One fold of a cross-validation.

    Attributes:
        train: ids of the cases to train on.
        validation: ids of the cases held out.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(dataset: Dataset, folds: int, seed: int) -> list[Split]:
    """Divide a data set into folds of about the same number of cases; each case is held out in exactly one.

    All cases of a subject are in one fold. The same on every machine and in every version, because nothing but a
    hash of seed and subject decides the order.

    Args:
        dataset: its cases, whose ids differ.
        folds: at least 2.
        seed: which division of the many.

    Raises:
        UserError: if there are fewer subjects than folds.
    """
    groups: dict[str, list[str]] = {}
    for case in dataset.cases:
        groups.setdefault(case.subject, []).append(case.id)
    if not 2 <= folds <= len(groups):
        people = f"{len(groups)} subject{'s' * (len(groups) != 1)}"
        remedy = f"give 2 to {len(groups)} folds" if len(groups) > 1 else "give more cases, or train on all of them"
        raise UserError(dataset.folder, f"{people} cannot be divided into {folds} folds", remedy)
    held_out: list[list[str]] = [[] for _ in range(folds)]
    order = sorted(groups, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())
    # Large groups first, so that the folds come out equal; the sort keeps the drawn order among equals.
    for subject in sorted(order, key=lambda subject: -len(groups[subject])):
        min(held_out, key=len).extend(groups[subject])
    everything = [case.id for case in dataset.cases]
    return [Split(tuple(i for i in everything if i not in fold), tuple(sorted(fold))) for fold in map(set, held_out)]


def read_splits(path: Path, dataset: Dataset) -> list[Split]:
    """Read `splits.json` of a run, or nnU-Net's `splits_final.json`: a list of {"train": [...], "val": [...]}.

    Raises:
        UserError: if the file makes no sense, names cases that the data set lacks, or has a subject on both sides.
    """
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise UserError(path, "is not a list of splits", 'write [{"train": [case, ...], "val": [case, ...]}, ...]')
    subjects = {case.id: case.subject for case in dataset.cases}
    return [_split(f"{path}, split {number}", value, subjects) for number, value in enumerate(values)]


def _split(where: str, value: object, subjects: dict[str, str]) -> Split:
    """One split of a file; `subjects` is whose scans each case is."""
    sides = []
    for key in ("train", "val"):
        ids = value.get(key) if isinstance(value, dict) else None
        if not isinstance(ids, list) or not ids:
            raise UserError(where, f"has no list {key!r} of cases", 'write {"train": [case, ...], "val": [case, ...]}')
        unknown = [i for i in ids if i not in subjects] if all(isinstance(i, str) for i in ids) else ids
        if unknown:
            problem = f"names under {key!r} what the data set lacks: {some(unknown)}"
            raise UserError(where, problem, f"its cases are {some(sorted(subjects))}")
        repeated = sorted({i for i in ids if ids.count(i) > 1})
        if repeated:
            raise UserError(where, f"names {some(repeated)} twice under {key!r}", "name each case once")
        sides.append(tuple(ids))
    train, validation = sides
    both = sorted({subjects[i] for i in train} & {subjects[i] for i in validation})
    if both:
        problem = f"has scans of {some(both)} under both 'train' and 'val'"
        raise UserError(where, problem, "keep all scans of a subject on one side")
    return Split(train, validation)


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write splits as `read_splits` and nnU-Net read them; complete or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    values = [{"train": list(split.train), "val": list(split.validation)} for split in splits]
    write_text(path, json.dumps(values, indent=1) + "\n")
