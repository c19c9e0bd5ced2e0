"""Data sets that a `dataset.json` describes: Medical Segmentation Decathlon, and nnU-Net in both of its versions.

Decathlon: a list `training` of image and label files; several modalities are the volumes of one 4-D file.
nnU-Net: `imagesTr/CASE_0000.nii.gz`, one file a channel, and `labelsTr/CASE.nii.gz`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxseg.data.datasets.case import Case, Dataset, Finding, ImageFile, in_order, some
from voxseg.data.datasets.listing import read_json, scan_files
from voxseg.data.paths import scan_name
from voxseg.errors import UserError

__all__ = ["DATASET_JSON", "find_listed"]

DATASET_JSON = "dataset.json"
ENDING = ".nii.gz"


def find_listed(folder: Path, labels: bool, layout: str = "auto") -> Dataset | None:
    """The data set of a `dataset.json`; None if the folder has none, or has one of the other layout.

    Args:
        folder: where it lies.
        labels: whether labels are wanted; otherwise test cases are found as well.
        layout: "decathlon", "nnunet", or "auto" to look.

    Raises:
        UserError: if the file is no JSON or lacks what is needed.
    """
    path = folder / DATASET_JSON
    if not path.is_file():
        return None
    description = read_json(path)
    if not isinstance(description, dict):
        raise UserError(path, "is not a JSON object", "see the layout of the Decathlon or of nnU-Net")
    modalities = _modalities(path, description)
    names, regions = _labels(path, description)
    found = "nnunet" if _is_nnunet(folder, description) else "decathlon"
    if layout not in ("auto", found):
        return None
    if found == "nnunet":
        cases, findings = _nnunet_cases(folder, description, modalities, labels)
    else:
        cases, findings = _decathlon_cases(folder, description, modalities, labels)
    if not cases:
        where = "in training" if found == "decathlon" else f"in imagesTr ({_wanted(description, modalities)})"
        raise UserError(path, f"describes a data set, but there are no cases {where}", "add them, or correct the names")
    title = {"decathlon": "Medical Segmentation Decathlon", "nnunet": "nnU-Net"}[found]
    return Dataset(folder, found, in_order(cases), names, regions, tuple(findings), title, tuple(modalities))


def _modalities(path: Path, description: dict[str, Any]) -> list[str]:
    """Names of the channels in their order; equal ones are numbered."""
    given = description.get("channel_names", description.get("modality"))
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict) or not given or not all(str(key).isdigit() for key in given):
        remedy = 'add for example "channel_names": {"0": "FLAIR", "1": "T1w"}'
        raise UserError(path, "does not name its modalities (channel_names or modality)", remedy)
    names = [str(given[key]) for key in sorted(given, key=int)]
    return [f"{name}_{k}" if names.count(name) > 1 else name for k, name in enumerate(names)]


def _labels(path: Path, description: dict[str, Any]) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Names of the label ids, and regions; `{"1": name}` (Decathlon) or `{name: 1}`, `{name: [1, 2]}` (nnU-Net)."""
    given = description.get("labels", {})
    names: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    try:
        for key, value in given.items():
            if isinstance(value, list):
                regions[key] = tuple(int(i) for i in value)
            elif key.isdigit() and not isinstance(value, int):
                names[int(key)] = str(value)
            else:
                names[int(value)] = key
    except (AttributeError, TypeError, ValueError):
        remedy = 'write for example "labels": {"background": 0, "tumour": 1}'
        raise UserError(path, "has labels that make no sense", remedy) from None
    names.pop(0, None)
    if regions:  # nnU-Net predicts each entry as a region of its own then
        regions |= {name: (i,) for i, name in names.items()}
    return names, regions


def _is_nnunet(folder: Path, description: dict[str, Any]) -> bool:
    """Whether the channels are files of their own; version 1 of nnU-Net kept the Decathlon's description."""
    if "channel_names" in description or not isinstance(description.get("training"), list):
        return True
    images = [str(entry.get("image", "")) for entry in description["training"] if isinstance(entry, dict)]
    return not any((folder / image).is_file() for image in images) and any(
        (folder / image).with_name(f"{scan_name(Path(image))}_0000.nii.gz").is_file() for image in images
    )


def _decathlon_cases(
    folder: Path, description: dict[str, Any], modalities: list[str], labels: bool
) -> tuple[list[Case], list[Finding]]:
    path = folder / DATASET_JSON
    entries = [(entry, True) for entry in description["training"]]
    if not labels:
        entries += [(entry, False) for entry in description.get("test", [])]
    cases = []
    for entry, training in entries:
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        label = label if training else None
        if not isinstance(image, str) or isinstance(label, str) != training:
            remedy = 'write {"image": "./imagesTr/CASE.nii.gz", "label": "./labelsTr/CASE.nii.gz"}'
            raise UserError(path, f"has an entry in training or test that makes no sense ({entry!r:.80})", remedy)
        file = folder / image
        volumes: list[int | None] = [None] if len(modalities) == 1 else list(range(len(modalities)))
        images = {name: ImageFile(file, volume) for name, volume in zip(modalities, volumes, strict=True)}
        case = scan_name(file)
        cases.append(Case(case, images, folder / label if label else None, case))
    listed = {case.images[modalities[0]].path.name for case in cases}
    unlisted = [name for name in scan_files(folder / "imagesTr", (".nii.gz", ".nii")) if name not in listed]
    return cases, [_unlisted(unlisted)] if unlisted else []


def _nnunet_cases(
    folder: Path, description: dict[str, Any], modalities: list[str], labels: bool
) -> tuple[list[Case], list[Finding]]:
    if isinstance(description.get("dataset"), dict):
        return list(_paths_given(folder, description["dataset"], modalities)), []
    ending = str(description.get("file_ending", ENDING))
    found: dict[str, dict[str, ImageFile]] = {}
    odd = []
    for place in ("imagesTr",) if labels else ("imagesTr", "imagesTs"):
        for name in scan_files(folder / place, (ending,)):
            match = re.fullmatch(r"(.+)_(\d{4})", name[: -len(ending)])
            if match and int(match[2]) < len(modalities):
                image = ImageFile(folder / place / name)
                found.setdefault(match[1], {})[modalities[int(match[2])]] = image
            else:
                odd.append(f"{place}/{name}")
    targets = {name[: -len(ending)]: folder / "labelsTr" / name for name in scan_files(folder / "labelsTr", (ending,))}
    ids = {*found, *targets} if labels else set(found)
    cases = [
        Case(case, {n: found[case][n] for n in modalities if n in found.get(case, {})}, targets.get(case), case)
        for case in ids
    ]
    findings = [_odd_names(odd, _wanted(description, modalities))] if odd else []
    promised = description.get("numTraining")
    if labels and isinstance(promised, int) and promised != len(cases):
        text = f"{DATASET_JSON} speaks of {promised} training cases, and {len(cases)} are there"
        findings.append(Finding("warning", "", text, "number of cases"))
    return cases, findings


def _paths_given(folder: Path, listed: dict[str, Any], modalities: list[str]) -> Iterator[Case]:
    """The cases of the key `dataset`: {case: {"images": [one a channel], "label": path}}."""
    for case, entry in listed.items():
        try:
            images = {n: ImageFile(folder / p) for n, p in zip(modalities, entry["images"], strict=True)}
            label = folder / entry["label"] if entry.get("label") else None
        except (AttributeError, KeyError, TypeError, ValueError):
            remedy = f'give "images" with {len(modalities)} paths, and "label"'
            raise UserError(folder / DATASET_JSON, f"dataset: the entry of {case} makes no sense", remedy) from None
        yield Case(case, images, label, case)


def _unlisted(names: list[str]) -> Finding:
    have = "are" if len(names) > 1 else "is"
    text = f"in imagesTr {some(names)} {have} not listed in {DATASET_JSON}, and left out"
    return Finding("warning", "", text, "unlisted files")


def _wanted(description: dict[str, Any], modalities: list[str]) -> str:
    """The names that nnU-Net's files have by the description."""
    ending = description.get("file_ending", ENDING)
    last = f"CASE_{len(modalities) - 1:04d}{ending}"
    return last if len(modalities) == 1 else f"CASE_0000{ending} to {last}"


def _odd_names(names: list[str], wanted: str) -> Finding:
    have = "are" if len(names) > 1 else "is"
    text = f"{some(names)} {have} left out: {DATASET_JSON} makes the names {wanted}"
    return Finding("warning", "", text, "odd names")
