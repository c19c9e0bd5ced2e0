"""Test–retest and longitudinal agreement: what volumes of repeated scans of the same people say of each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median

import numpy as np

from voxseg.evaluation.agreement_scans import RepeatedScan, Repeats
from voxseg.evaluation.agreement_statistics import (
    BlandAltman,
    Estimate,
    IntraclassCorrelation,
    Repeatability,
    bland_altman,
    intraclass_correlation,
    mean_estimate,
    repeatability,
    symmetric_percent,
    yearly_percent,
)
from voxseg.evaluation.agreement_volumes import MeasuredStructure

__all__ = ["Agreement", "Pair", "StructureAgreement", "compare"]


@dataclass(frozen=True)
class Pair:
    """A structure in two successive scans of somebody.

    Attributes:
        subject: who.
        first: the earlier session.
        second: the later one.
        first_ml: volume in the earlier one.
        second_ml: volume in the later one.
        years: between them; NaN if that is not known.
        dice: overlap of the two as they lie; NaN unless it was asked for and they have one grid.
    """

    subject: str
    first: str
    second: str
    first_ml: float
    second_ml: float
    years: float = math.nan
    dice: float = math.nan

    @property
    def difference_ml(self) -> float:
        """Later minus earlier."""
        return self.second_ml - self.first_ml

    @property
    def percent(self) -> float:
        """The difference in per cent of the mean of the two."""
        return symmetric_percent(self.first_ml, self.second_ml)

    @property
    def mean_ml(self) -> float:
        """Of the two."""
        return (self.first_ml + self.second_ml) / 2


@dataclass(frozen=True)
class StructureAgreement:
    """One structure in all subjects. Scans in which it is missing are counted, and enter no other figure.

    Attributes:
        structure: what it is.
        pairs: successive scans of a subject that both have it.
        subjects: that have it in at least two scans.
        missing: scans that lack it although another scan of the subject has it.
        absent: subjects who have it in no scan.
        mean_ml: mean over the subjects of their mean volume.
        absolute_ml: mean over the subjects of the mean absolute difference between successive scans.
        absolute_ml_median: median over the subjects of that.
        percent: mean over the subjects of the mean absolute symmetric difference, 200 |a - b| / (a + b).
        percent_median: median over the subjects of that.
        repeatability: within-subject scatter.
        icc: intraclass correlations.
        limits: Bland–Altman bias and limits of agreement, in ml.
        yearly: change in per cent a year, mean over the subjects; NaN where times are not known.
        dice: mean over the subjects; NaN unless it was asked for.
    """

    structure: MeasuredStructure
    pairs: tuple[Pair, ...]
    subjects: int
    missing: int
    absent: int
    mean_ml: float = math.nan
    absolute_ml: float = math.nan
    absolute_ml_median: float = math.nan
    percent: float = math.nan
    percent_median: float = math.nan
    repeatability: Repeatability = field(default=Repeatability())
    icc: IntraclassCorrelation = field(default=IntraclassCorrelation())
    limits: BlandAltman = field(default=BlandAltman())
    yearly: Estimate = field(default=Estimate())
    dice: float = math.nan


@dataclass(frozen=True)
class Agreement:
    """What repeated scans say of each other.

    Attributes:
        structures: in the order of their label table; those that no scan has are left out.
        repeats: the scans that could be read.
        volumes: ml by scan (subject and session) and structure; 0 where it is missing.
        not_found: names of the labels that no scan has.
        failures: files that could not be used, one line each.
        notes: what a reader has to know.
    """

    structures: tuple[StructureAgreement, ...]
    repeats: Repeats
    volumes: Mapping[tuple[str, str], Mapping[str, float]]
    not_found: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> int:
        """How many people."""
        return len(self.repeats.subjects)

    @property
    def scans(self) -> int:
        """Of all of them."""
        return sum(len(scans) for scans in self.repeats.subjects)


def compare(
    repeats: Repeats,
    structures: Sequence[MeasuredStructure],
    volumes: Mapping[tuple[str, str], Mapping[str, float]],
    overlaps: Mapping[tuple[str, str, str], Mapping[str, float]] | None = None,
    failures: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Agreement:
    """Compare volumes that are known.

    Args:
        repeats: the scans, by subject.
        structures: what to compare.
        volumes: ml, by subject and session, and by the name of the structure; 0 where it is missing.
        overlaps: Dice, by subject and two sessions, and by the name of the structure.
        failures: passed on.
        notes: passed on.
    """
    positions = _positions(repeats)
    compared, not_found = [], []
    for structure in structures:
        of_scan = {key: values[structure.name] for key, values in volumes.items()}
        if any(of_scan[scan.subject, scan.session] > 0 for scans in repeats.subjects for scan in scans):
            compared.append(_structure(structure, repeats, of_scan, positions, overlaps or {}))
        else:
            not_found.append(structure.name)
    return Agreement(tuple(compared), repeats, volumes, tuple(not_found), failures, notes)


def _structure(
    structure: MeasuredStructure,
    repeats: Repeats,
    ml: Mapping[tuple[str, str], float],
    positions: Mapping[tuple[str, str], int],
    overlaps: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> StructureAgreement:
    """All figures of one structure; `positions` are columns of the table for the intraclass correlations."""
    own, pairs, missing, absent = [], [], 0, 0
    for scans in repeats.subjects:
        having = [scan for scan in scans if ml[scan.subject, scan.session] > 0]
        missing += len(scans) - len(having) if having else 0
        absent += not having
        if len(having) > 1:
            own.append(having)
            pairs.append([_pair(structure, a, b, ml, overlaps) for a, b in pairwise(having)])
    every = tuple(pair for of_subject in pairs for pair in of_subject)
    if not own:
        return StructureAgreement(structure, every, 0, missing, absent)
    values = [[ml[scan.subject, scan.session] for scan in scans] for scans in own]
    absolute = [mean(abs(p.difference_ml) for p in of_subject) for of_subject in pairs]
    percent = [mean(abs(p.percent) for p in of_subject) for of_subject in pairs]
    yearly = [
        yearly_percent([scan.years for scan in scans], v)  # type: ignore[misc]
        for scans, v in zip(own, values, strict=True)
        if repeats.timed
    ]
    dice = [mean(p.dice for p in of_subject) for of_subject in pairs if not any(math.isnan(p.dice) for p in of_subject)]
    return StructureAgreement(
        structure,
        every,
        len(own),
        missing,
        absent,
        mean(mean(v) for v in values),
        mean(absolute),
        median(absolute),
        mean(percent),
        median(percent),
        repeatability(values),
        intraclass_correlation(_complete_table(own, values, positions)),
        bland_altman([[p.difference_ml for p in of_subject] for of_subject in pairs]),
        mean_estimate(yearly),
        mean(dice) if dice else math.nan,
    )


def _pair(
    structure: MeasuredStructure,
    first: RepeatedScan,
    second: RepeatedScan,
    ml: Mapping[tuple[str, str], float],
    overlaps: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> Pair:
    subject, a, b = first.subject, first.session, second.session
    years = math.nan if first.years is None or second.years is None else second.years - first.years
    dice = overlaps.get((subject, a, b), {}).get(structure.name, math.nan)
    return Pair(subject, a, b, ml[subject, a], ml[subject, b], years, dice)


def _positions(repeats: Repeats) -> dict[tuple[str, str], int]:
    """In which column of a table of subjects by repeats each scan belongs.

    Sessions that subjects share are columns; where nobody shares one (they are dates, say), the first scans of all
    subjects are a column, and so on. Of sessions that some subjects lack those are taken, most common first, with which
    the table of subjects that have all of them is largest. Scans that are not in the table are not in the result.
    """
    subjects = repeats.subjects
    having = {s: sum(any(s == scan.session for scan in scans) for scans in subjects) for s in repeats.sessions}
    if max(having.values()) < 2:
        named = {(scan.subject, scan.session): k for scans in subjects for k, scan in enumerate(scans)}
    else:
        named = {(x.subject, x.session): repeats.sessions.index(x.session) for own in subjects for x in own}
    columns: dict[str, set[int]] = {}
    for (subject, _), column in named.items():
        columns.setdefault(subject, set()).add(column)
    all_columns = [column for own in columns.values() for column in own]
    common = sorted(set(all_columns), key=lambda column: (-all_columns.count(column), column))
    sizes = {k: k * sum(set(common[:k]) <= own for own in columns.values()) for k in range(2, len(common) + 1)}
    best = max(sizes, key=lambda k: (sizes[k], -k)) if sizes else 0
    chosen = common[:best]
    return {key: chosen.index(column) for key, column in named.items() if column in chosen}


def _complete_table(
    own: Sequence[Sequence[RepeatedScan]],
    values: Sequence[Sequence[float]],
    positions: Mapping[tuple[str, str], int],
) -> np.ndarray:
    """`[n, k]`: volumes of the subjects who have all k repeats."""
    k = max(positions.values()) + 1 if positions else 0
    rows = []
    for scans, volumes in zip(own, values, strict=True):
        keys = [(scan.subject, scan.session) for scan in scans]
        row = {positions[key]: v for key, v in zip(keys, volumes, strict=True) if key in positions}
        if len(row) == k:
            rows.append([row[column] for column in range(k)])
    return np.array(rows, dtype=np.float64).reshape(len(rows), k)
