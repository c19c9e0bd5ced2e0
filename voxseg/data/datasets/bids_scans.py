"""The scans of a BIDS data set that a model is to segment: every run of every session. Imports nothing heavy.

Other than for training (`find_bids`), where a session is one case, each image of a session is a scan of its own here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.bids import BidsFile, raw_images
from voxseg.errors import UserError

__all__ = ["BidsScan", "find_scans", "modality_of"]

MODALITIES = {
    "image": "T1w",
    "t1": "T1w",
    "t1n": "T1w",
    "t1w": "T1w",
    "t1c": "T1w_ce",
    "t1ce": "T1w_ce",
    "t1gd": "T1w_ce",
    "t2": "T2w",
    "t2w": "T2w",
    "flair": "FLAIR",
    "t2f": "FLAIR",
    "pd": "PDw",
}
"""BIDS's suffixes for the names that models give their images; with contrast agent, `_ce` after it."""

OF_ONE_IMAGE = ("ce", "acq", "mod", "echo", "inv", "flip", "part")
"""Entities that differ between the images of one case."""


@dataclass(frozen=True)
class BidsScan:
    """One segmentation to be made.

    Attributes:
        images: files by the names of the model's images; missing ones are left out.
        stem: what the names of its derivatives begin with, such as `sub-01_ses-2_run-1`.
        folder: of its derivatives, relative to their data set, such as `sub-01/ses-2/anat`.
    """

    images: Mapping[str, Path]
    stem: str
    folder: Path


def modality_of(image: str) -> str | None:
    """BIDS's suffix for an image of a model; None if its name says nothing."""
    return MODALITIES.get(image.lower())


def find_scans(
    folder: Path, modalities: Mapping[str, str], subjects: Sequence[str] = (), sessions: Sequence[str] = ()
) -> tuple[list[BidsScan], list[str]]:
    """The scans of a data set.

    Every image of the first modality is a scan. The others are those with the same entities (run and the like), or the
    only ones of their modality in the session.

    Args:
        folder: of the data set.
        modalities: BIDS's suffix of each image of the model, in the model's order.
        subjects: labels with or without `sub-`; all if there are none.
        sessions: labels with or without `ses-`; all, and what belongs to no session, if there are none.

    Returns:
        The scans, in the order of their names; and the participants without any.

    Raises:
        UserError: if there is no such data set, participant or session, or there is nothing to segment.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(folder, problem, "give the folder of a BIDS data set")
    known = sorted(place.name.removeprefix("sub-") for place in folder.glob("sub-*") if place.is_dir())
    if not known:
        raise UserError(folder, "is no BIDS data set: it has no folders sub-*", "give the folder that holds them")
    wanted = _wanted("--participant-label", "sub-", subjects, known) or known
    files = [file for file in raw_images(folder) if file.entities["sub"] in wanted]
    present = sorted({file.session[1] for file in files} - {""})
    chosen = _wanted("--session-label", "ses-", sessions, present)
    files = [file for file in files if not chosen or file.session[1] in chosen]
    scans = []
    first = next(iter(modalities.values()))
    for file in files:
        if file.modality == first:
            images = _images(file, [other for other in files if other.session == file.session], modalities)
            scans.append(BidsScan({name: image.path for name, image in images.items()}, *_place(images.values())))
    if not scans:
        raise UserError(folder, f"has no {_shown(first)} image among those asked for", "check the labels, or --image")
    found = {scan.folder.parts[0].removeprefix("sub-") for scan in scans}
    return sorted(scans, key=lambda scan: (scan.folder, scan.stem)), [f"sub-{s}" for s in wanted if s not in found]


def _wanted(option: str, prefix: str, labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Labels without their prefix, once each; every one has to be known."""
    result = list(dict.fromkeys(label.removeprefix(prefix) for label in labels))
    for label in result:
        if label not in known:
            listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise UserError(f"{option} {label}", "is not in the data set", f"it has {listed or 'none'}")
    return result


def _images(file: BidsFile, session: Sequence[BidsFile], modalities: Mapping[str, str]) -> dict[str, BidsFile]:
    """The images of a scan by the model's names."""
    name, *others = modalities
    images, own = {name: file}, _shared(file)
    for other in others:
        candidates = [candidate for candidate in session if candidate.modality == modalities[other]]
        matching = [candidate for candidate in candidates if _shared(candidate) == own]
        if len(matching or candidates) == 1:
            images[other] = (matching or candidates)[0]
    return images


def _shared(file: BidsFile) -> dict[str, str]:
    return {key: value for key, value in file.entities.items() if key not in OF_ONE_IMAGE}


def _place(images: Iterable[BidsFile]) -> tuple[str, Path]:
    """Stem and folder of the derivatives: of the entities, those that all images have."""
    first, *others = images
    same = {k: v for k, v in first.entities.items() if all(other.entities.get(k) == v for other in others)}
    return "_".join(f"{k}-{v}" for k, v in same.items()), Path(*_levels(first.session), "anat")


def _levels(session: tuple[str, str]) -> list[str]:
    return [f"{key}-{value}" for key, value in zip(("sub", "ses"), session, strict=True) if value]


def _shown(modality: str) -> str:
    return modality.replace("_ce", " with contrast agent (ce-*)")
