"""Checking a data set before it is trained on: is every file there, readable, in its place, and what it should be?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxseg.data.datasets.case import Case, Dataset, Finding, some
from voxseg.data.datasets.contents import digest, fingerprint
from voxseg.data.datasets.examine import MOST_LABELS, CaseFacts, Depth, examine, unknown_labels
from voxseg.data.label_scheme import LabelScheme
from voxseg.errors import UserError

__all__ = ["Report", "check_dataset"]

COMPLETE = ("brats", "decathlon", "nnunet")
"""Layouts in which a label that the data set does not declare is a mistake."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        dataset: what was checked.
        images: the modalities that were asked for, in their order.
        facts: of each case.
        findings: what is wrong, errors first.
        depth: what was read.
    """

    dataset: Dataset
    images: tuple[str, ...]
    facts: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]
    depth: Depth

    @property
    def errors(self) -> list[Finding]:
        """What training would stop at."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What may be a mistake, and does not stop training."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether training can begin."""
        return not self.errors


def check_dataset(
    dataset: Dataset,
    images: Sequence[str] | None = None,
    scheme: LabelScheme | None = None,
    quick: bool = False,
    full: bool = False,
    progress: bool = False,
) -> Report:
    """Check the files of a data set. One label file is in memory at a time.

    Args:
        dataset: from `find_dataset`.
        images: the modalities that every case needs; all that occur by default.
        scheme: what the labels are used for; what the data set itself declares counts without it.
        quick: whether headers alone are read. Otherwise the voxels of label files are, and of images that may be label
            files.
        full: whether every voxel of every image is read, as training will.
        progress: whether a bar is drawn on standard error if that is a terminal.

    Raises:
        UserError: if no case has a modality that is asked for.
    """
    names = dataset.modalities
    wanted = list(images) if images is not None else names
    for name in wanted:
        if name not in names:
            raise UserError(
                dataset.folder,
                f"no case has an image {name}",
                f"choose among {', '.join(names)} (--images, preparation.images)",
            )
    depth: Depth = "headers" if quick else "everything" if full else "labels"
    raw = dataset.layout == "bids"
    facts = [examine(case, wanted, dataset.folder, depth, raw) for case in _with_progress(dataset.cases, progress)]
    findings = [*dataset.findings, *_same_ids(dataset), *(finding for one in facts for finding in one.findings)]
    findings += _unknown(dataset, facts, scheme)
    if scheme is not None:
        findings += _unused(facts, scheme)
    findings += _same_content(facts, wanted)
    findings = list(dict.fromkeys(findings))  # one file may be several images
    findings.sort(key=lambda finding: finding.level)  # "error" comes before "warning"; stable otherwise
    return Report(dataset, tuple(wanted), tuple(facts), tuple(findings), depth)


def _with_progress(cases: Sequence[Case], wanted: bool) -> Iterable[Case]:
    """The cases, with a bar on a terminal."""
    if not wanted:
        return cases
    from tqdm import tqdm

    bar: Iterable[Case] = tqdm(cases, desc="checking", unit="case", disable=None, leave=False)
    return bar


def _same_ids(dataset: Dataset) -> list[Finding]:
    """That two cases have the same id."""
    places: dict[str, list[Path]] = defaultdict(list)
    for case in dataset.cases:
        files = [*(image.path for image in case.images.values()), *([case.label] if case.label else [])]
        places[case.id] += [file.parent for file in files[:1]]
    return [
        Finding("error", case, f"is the id of {len(found)} cases ({some(found)}); ids have to differ", "same id")
        for case, found in places.items()
        if len(found) > 1
    ]


def _unknown(dataset: Dataset, facts: Sequence[CaseFacts], scheme: LabelScheme | None) -> list[Finding]:
    """Labels that the scheme refuses or, without one, that the data set does not declare."""
    if scheme is not None:
        known, names = set(scheme.classes), {label.id: label.name for label in scheme.base}
        source = "labels.classes of the config"
        remedy = "correct the file, or name them there (unlisted: background takes them for background)"
    else:
        known, names, source = dataset.label_ids, dict(dataset.label_names), dataset.title
        remedy = "correct the file, or check with the config of your own labels (--config)"
    strict = scheme is not None or dataset.layout in COMPLETE
    findings = []
    for one in facts:
        ids = set(one.counts or {})
        odd = scheme.unknown(ids) if scheme is not None else sorted(ids - known - {0}) if known else []
        if odd and len(ids) <= MOST_LABELS:
            text = f"{unknown_labels(one, odd, known, names)} ({source}); {remedy}"
            findings.append(Finding("error" if strict else "warning", one.case.id, text, "unknown label"))
    return findings


def _unused(facts: Sequence[CaseFacts], scheme: LabelScheme) -> list[Finding]:
    """Structures of the scheme that no case has, and cases that have none of them."""
    read = [one for one in facts if one.counts]
    if not read:
        return []
    findings, seen = [], set()
    for one in read:
        ids = np.array(sorted(one.counts or {}))
        classes = set(scheme.to_classes(ids).tolist()) - {0}
        seen |= classes
        if not classes and ids.any():
            text = f"has none of the structures in labels.classes (its labels are {some(ids[ids > 0].tolist(), 8)})"
            findings.append(Finding("warning", one.case.id, text, "no structure"))
    absent = [f"{i} ({name})" for k, (i, name) in enumerate(_named(scheme), start=1) if k not in seen]
    if not seen:
        text = "no case has any of the structures in labels.classes; is it the config of another data set?"
        return [Finding("error", "", text, "no structure at all")]
    if absent:
        text = f"in no case: {some(absent, 8)}; labels.classes has them, and training would learn to leave them out"
        findings.append(Finding("warning", "", text, "absent structure"))
    return findings


def _named(scheme: LabelScheme) -> list[tuple[int, str]]:
    return [(label.id, label.name) for label in scheme.predicted()]


def _same_content(facts: Sequence[CaseFacts], images: Sequence[str]) -> list[Finding]:
    """Files with the same content under several names; empty label files are alike by nature."""
    groups: dict[Hashable, dict[tuple[str, str], Path]] = defaultdict(dict)
    for one in facts:
        case = one.case
        files = {n: case.images[n].path for n in images if n in one.grids and not case.images[n].volume}
        if case.label is not None and one.counts is not None and set(one.counts) != {0}:
            files["label"] = case.label
        for name, path in files.items():
            groups[fingerprint(path)][case.id, name] = path
    findings = []
    for group in groups.values():
        if len(group) > 1:
            same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
            for key, path in group.items():
                same[digest(path)].append(key)
            findings += [_same_file(keys) for content, keys in same.items() if content and len(keys) > 1]
    return findings


def _same_file(keys: Sequence[tuple[str, str]]) -> Finding:
    """That the files `(case, name)` have the same content."""
    cases = list(dict.fromkeys(case for case, _ in keys))
    if len(cases) == 1:
        text = f"{' and '.join(name for _, name in keys)} are the same file; is one of them copied or misnamed?"
        return Finding("warning", cases[0], text, "same file")
    first, *others = keys
    told = some([f"{name} of {case}" for case, name in others])
    text = f"{first[1]} is the same file as {told}; is one of them copied or misnamed?"
    return Finding("warning", first[0], text, "same file of two cases")
