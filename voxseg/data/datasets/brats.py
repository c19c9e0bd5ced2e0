"""The layouts of the BraTS challenges: one folder a case, the modality at the end of each file name.

2018 to 2021: `CASE_flair`, `_t1`, `_t1ce`, `_t2`, `_seg`. From 2023 on: `CASE-t2f`, `-t1n`, `-t1c`, `-t2w`, `-seg`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from voxseg.data.datasets.case import Case, Dataset, Finding, ImageFile, in_order
from voxseg.data.datasets.listing import walk
from voxseg.data.paths import NIFTI_SUFFIXES

__all__ = ["find_brats"]

UNTIL_2021 = ("flair", "t1", "t1ce", "t2")
SINCE_2023 = ("t1n", "t1c", "t2w", "t2f")
NAMES_UNTIL_2021 = {1: "necrotic and non-enhancing core", 2: "oedema", 4: "enhancing tumour"}
NAMES_SINCE_2023 = {
    1: "non-enhancing tumour core",
    2: "surrounding FLAIR hyperintensity",
    3: "enhancing tumour",
    4: "resection cavity",
}
FILE = re.compile(
    rf"(?P<case>.+)(?:_(?P<old>{'|'.join(UNTIL_2021)}|seg)|-(?P<new>{'|'.join(SINCE_2023)}|seg))\.nii(?:\.gz)?",
    re.IGNORECASE,
)
RESULT = re.compile(rf".+[_-](?:{'|'.join(UNTIL_2021 + SINCE_2023)}|seg)", re.IGNORECASE)
"""What comes before the last part in the name of a result: `voxseg predict` writes `CASE_flair_seg.nii.gz`."""

TIME_POINT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+", re.IGNORECASE)
PAEDIATRIC = "brats-ped"
"""The children's challenge gives the ids other meanings."""


def find_brats(folder: Path) -> Dataset | None:
    """The BraTS cases directly in a folder and in those below it, with and without labels; None if there are none."""
    cases: list[Case] = []
    findings: list[Finding] = []
    for place, names in walk(folder):
        for case, problems in _cases(place, names):
            cases.append(case)
            findings.extend(problems)
    if not any(case.images for case in cases):
        return None
    modern = any(name in SINCE_2023 for case in cases for name in case.images)
    meanings = NAMES_SINCE_2023 if modern else NAMES_UNTIL_2021
    title = "BraTS 2023 to 2025" if modern else "BraTS 2018 to 2021"
    if any(case.id.lower().startswith(PAEDIATRIC) for case in cases):
        meanings = {}
    return Dataset(folder, "brats", in_order(cases), meanings, {}, tuple(findings), title)


def _cases(folder: Path, names: list[str]) -> Iterator[tuple[Case, list[Finding]]]:
    """The cases whose files lie directly in a folder: one, or several told apart by their names."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        match = FILE.fullmatch(name)
        if match and not RESULT.fullmatch(match["case"]):
            modality = (match["old"] or match["new"]).lower()
            groups.setdefault(match["case"], {}).setdefault(modality, []).append(name)
    foreign: list[str] = []
    if folder.name in groups:  # the folder of that case: files of another one do not belong here
        foreign = [name for case, files in groups.items() if case != folder.name for n in files.values() for name in n]
        groups = {folder.name: groups[folder.name]}
    for case, files in groups.items():
        findings = [_foreign(case, name) for name in foreign]
        if "seg" not in files and len(groups) == 1:
            files |= _odd_label(names, foreign)
        findings += [_ambiguous(case, names) for names in files.values() if len(names) > 1]
        # The compressed one of two, which is how the challenges hand them out.
        chosen = {modality: folder / max(names, key=len) for modality, names in files.items()}
        label = chosen.pop("seg", None)
        images = {name: ImageFile(chosen[name]) for name in (*UNTIL_2021, *SINCE_2023) if name in chosen}
        match = TIME_POINT.fullmatch(case)
        yield Case(case, images, label, match[1] if match else case), findings


def _odd_label(names: list[str], foreign: list[str]) -> dict[str, list[str]]:
    """A segmentation under an irregular name, as case 355 of 2020 has it (`W39_1998.09.19_Segm.nii`)."""
    regular = [name for name in names if not name.startswith(".") and name not in foreign]
    odd = [name for name in regular if "seg" in name.lower() and name.lower().endswith(NIFTI_SUFFIXES)]
    odd = [name for name in odd if not FILE.fullmatch(name)]
    return {"seg": odd} if len(odd) == 1 else {}


def _foreign(case: str, name: str) -> Finding:
    text = f"its folder holds {name}, which is named after another case; move it, or name it after this one"
    return Finding("error", case, text, "foreign file")


def _ambiguous(case: str, names: list[str]) -> Finding:
    text = f"has both {' and '.join(sorted(names))}, and {max(names, key=len)} is taken; delete one of them"
    return Finding("warning", case, text, "two files for one")
