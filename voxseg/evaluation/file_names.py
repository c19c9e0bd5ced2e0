"""Which case a label file belongs to, by its name and the folders that it lies in. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.listing import walk
from voxseg.data.paths import SUFFIXES, scan_name

__all__ = ["IMAGE", "LABELS", "UNSAID", "NamedFile", "list_files", "named_file"]

LABELS, UNSAID, IMAGE = 0, 1, 2
"""What a name says: that it is a segmentation, nothing, that it is a scan or a probability."""

_LABEL_WORDS = (
    r"(?!prob)[a-z0-9+.]*seg|segm|seg(?:mentation)?s?|label[-_]?maps?|labels?|pred(?:s|iction|ictions|icted)?|masks?|roi"
    r"|fields?|targets?|gt|ground[-_]?truth|truth|manual|references?|[a-z0-9.+]*parc(?:ellation)?|lesions?|tumou?rs?"
)
_IMAGE_WORDS = (
    r"t1|t1w|t1n|t1c|t1ce|t1gd|t1weighted|t2|t2w|t2f|t2star|flair|pd|pdw|ct|pet|dwi|adc|swi|bold|mri?|orig|nu|norm"
    r"|images?|img|scans?|probseg|prob(?:s|abilit(?:y|ies))?"
)
_CHANNEL = "0000"
"""What nnU-Net puts behind the name of a case for the first of its images."""

_COMMON = {"", "brain", "head", "volume", "vol", "anat", "native", "final", "result", "output", "out", "case"}
"""Names that are the same in every folder."""

_OF_LABELS_ALONE = ("space", "desc", "label", "atlas", "seg", "hemi", "res", "den")
"""BIDS entities that say what a label image is, and not which scan it belongs to."""


@dataclass(frozen=True)
class NamedFile:
    """A file that may be the segmentation of a case.

    Attributes:
        path: where it is.
        says: `LABELS`, `UNSAID` or `IMAGE`.
        names: what its own name calls the case, the most telling first; empty for names such as `labels.nii.gz`.
        places: what the folders that it lies in call the case, likewise.
    """

    path: Path
    says: int
    names: tuple[str, ...]
    places: tuple[str, ...]


def list_files(folder: Path) -> list[NamedFile]:
    """All files below a folder that have the suffix of a scan, hidden ones left out."""
    return [
        named_file(place / name, folder)
        for place, names in walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]


def named_file(path: Path, folder: Path) -> NamedFile:
    """What the name of a file and those of the folders between it and `folder` say."""
    stem = scan_name(path)
    parents = path.relative_to(folder).parent.parts
    places = _distinct(["_".join(parents), *reversed(parents)]) if parents else (folder.resolve().name,)
    bids = _bids(stem)
    base, labelled = _strip(stem, _LABEL_WORDS)
    if not labelled and (match := re.fullmatch(rf"(?:{_LABEL_WORDS})[-_. ]+(.+)", stem, re.IGNORECASE)):
        base, labelled = match[1], True
    bare, image = _strip(base, _IMAGE_WORDS)
    says = LABELS if labelled else IMAGE if image else UNSAID
    if bids is not None:
        # A mask of the brain lies beside the segmentation in many derivatives.
        says = UNSAID if stem.lower().endswith("_mask") else says
        return NamedFile(path, says, bids, places)
    own = [name for name in (base, bare, bare.removesuffix(f"_{_CHANNEL}")) if bare.lower() not in _COMMON]
    if own and parents:
        own.insert(0, "/".join((*parents, own[0])))
    return NamedFile(path, says, _distinct(own), places)


def _strip(stem: str, words: str) -> tuple[str, bool]:
    """A name without the words at its end, and whether there were any."""
    found = False
    while match := re.fullmatch(rf"(?:(.+?)[-_. ]+)?(?:{words})", stem, re.IGNORECASE):
        stem, found = match[1] or "", True
    return stem, found


def _bids(stem: str) -> tuple[str, ...] | None:
    """The entities that tell scans apart, and subject and session alone; None if the name has no subject."""
    parts = [part.split("-", 1) for part in stem.split("_") if "-" in part]
    entities = {key: value for key, value in parts if key not in _OF_LABELS_ALONE}
    if "sub" not in entities:
        return None
    session = {key: entities[key] for key in ("sub", "ses") if key in entities}
    return _distinct("_".join(f"{k}-{v}" for k, v in some.items()) for some in (entities, session))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
