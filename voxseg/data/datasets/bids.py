"""The Brain Imaging Data Structure: raw images, and label images (`dseg`) in derivatives or beside them.

Source of the names: the BIDS specification, "Anatomy imaging data" and "Derivatives: segmentations".
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from voxseg.data.datasets.case import Case, Dataset, Finding, ImageFile, in_order, left_out
from voxseg.data.datasets.listing import walk
from voxseg.data.paths import NIFTI_SUFFIXES, scan_name

__all__ = ["BidsFile", "bids_files", "find_bids", "raw_images"]

NOT_IMAGES = ("dseg", "probseg", "mask", "defacemask")
NATIVE_SPACES = ("", "orig", "individual", "T1w", "T2w", "FLAIR")
OF_LABELS_ALONE = ("space", "desc", "label", "atlas", "seg", "hemi", "res", "den")
"""Entities that say what a label image is, and not which scan it belongs to."""


@dataclass(frozen=True)
class BidsFile:
    """A NIfTI file with a name of BIDS.

    Attributes:
        path: the file.
        entities: of its name, such as `{"sub": "01", "run": "1"}`.
        suffix: the last part of its name, such as `T1w`.
    """

    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def session(self) -> tuple[str, str]:
        """Subject and session, the latter "" where there are none."""
        return self.entities["sub"], self.entities.get("ses", "")

    @property
    def modality(self) -> str:
        """The suffix; with contrast agent, `_ce` after it."""
        return f"{self.suffix}_ce" if "ce" in self.entities else self.suffix


def find_bids(folder: Path, labels: bool) -> Dataset | None:
    """The sessions of a BIDS data set that have anatomical images; None if there are none.

    Sessions without labels are left out if labels are wanted, with a warning: that some are not labelled is usual.
    """
    raw = _raw(folder)
    images = _anatomical(raw)
    if not images:
        return None
    derived = bids_files(folder / "derivatives") if (folder / "derivatives").is_dir() else []
    targets = [file for file in [*raw, *derived] if file.suffix == "dseg"]
    cases, findings, bare = [], [], []
    for session in dict.fromkeys(file.session for file in images):
        case = "_".join(f"{key}-{value}" for key, value in zip(("sub", "ses"), session, strict=True) if value)
        label, problems = _label(case, [file for file in targets if file.session == session])
        chosen, others = _images(case, [file for file in images if file.session == session], label)
        if labels and label is None and not problems:
            bare.append(case)
            continue
        cases.append(Case(case, chosen, label.path if label else None, f"sub-{session[0]}"))
        findings += (problems if labels else []) + others
    if bare and cases:
        findings.append(left_out(bare, "*_dseg.nii.gz"))
    elif bare:  # the caller says that there are no labels at all
        cases = [Case(case, {}, None, case) for case in bare]
    return Dataset(folder, "bids", in_order(cases), _label_names(folder, targets), {}, tuple(findings), "BIDS")


def raw_images(folder: Path) -> list[BidsFile]:
    """The anatomical images of a data set, without its derivatives."""
    return _anatomical(_raw(folder))


def _raw(folder: Path) -> list[BidsFile]:
    return [file for place in sorted(folder.glob("sub-*")) if place.is_dir() for file in bids_files(place)]


def _anatomical(files: list[BidsFile]) -> list[BidsFile]:
    images = [file for file in files if file.suffix not in NOT_IMAGES and file.entities.get("part") != "phase"]
    return [file for file in images if file.path.parent.name == "anat"]


def bids_files(folder: Path) -> list[BidsFile]:
    """The NIfTI files below a folder whose names are those of BIDS."""
    files = []
    for place, names in walk(folder):
        for name in names:
            if not name.lower().endswith(NIFTI_SUFFIXES):
                continue
            *parts, suffix = scan_name(Path(name)).split("_")
            entities = dict(part.split("-", 1) for part in parts if "-" in part)
            if "sub" in entities:
                files.append(BidsFile(place / name, entities, suffix))
    return files


def _label(case: str, candidates: list[BidsFile]) -> tuple[BidsFile | None, list[Finding]]:
    """The label image of a session: the only one, or the only one in the space of its scans."""
    native = [file for file in candidates if file.entities.get("space", "") in NATIVE_SPACES]
    if len(native or candidates) <= 1:
        return next(iter(native or candidates), None), []
    names = ", ".join(sorted(str(Path(*file.path.parts[-4:])) for file in native or candidates))
    text = f"has {len(native or candidates)} label files ({names}); keep one, or name it with layout: patterns"
    return None, [Finding("error", case, text, "several labels")]


def _images(case: str, files: list[BidsFile], label: BidsFile | None) -> tuple[dict[str, ImageFile], list[Finding]]:
    """One image of each modality: the only one, or the one that the name of the label image tells."""
    told = {} if label is None else {k: v for k, v in label.entities.items() if k not in OF_LABELS_ALONE}
    chosen, findings = {}, []
    for modality in sorted({file.modality for file in files}):
        candidates = [file for file in files if file.modality == modality]
        matching = [file for file in candidates if told.items() <= file.entities.items()]
        if len(candidates) > 1 and len(matching) != 1:
            names = ", ".join(file.path.name for file in candidates)
            text = f"has {len(candidates)} {modality} images ({names}); keep one, or name it with layout: patterns"
            findings.append(Finding("error", case, text, f"several {modality}"))
            continue
        chosen[modality] = ImageFile((candidates if len(candidates) == 1 else matching)[0].path)
    return chosen, findings


def _label_names(folder: Path, targets: list[BidsFile]) -> dict[int, str]:
    """What the ids mean, by the first `dseg.tsv` with the columns index and name: of a file, a pipeline or all."""
    tables = [file.path.with_name(f"{scan_name(file.path)}.tsv") for file in targets[:1]]
    tables += sorted(folder.glob("derivatives/*/*dseg.tsv")) + sorted(folder.glob("*dseg.tsv"))
    for path in tables:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
        except (OSError, UnicodeDecodeError):
            continue
        names = {
            int(row["index"]): row["name"]
            for row in rows
            if re.fullmatch(r"\d+", row.get("index") or "") and "name" in row
        }
        names.pop(0, None)
        if names:
            return names
    return {}
