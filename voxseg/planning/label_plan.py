"""Which structures a config for a new data set should predict, with their names, sides and regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from voxseg.data.label_scheme import LabelEntry, Region
from voxseg.data.labels import LabelTable
from voxseg.errors import UserError
from voxseg.planning.fingerprint import Fingerprint

__all__ = ["LabelPlan", "plan_labels", "split_side"]

BRATS_OLD = ("flair", "t1", "t1ce", "t2")
SIDES = {"left": "left", "right": "right", "l": "left", "r": "right", "lh": "left", "rh": "right"}
WHITE_MATTER = 2
"""FreeSurfer's id: where it is among the labels, they make up one brain."""
FREESURFER_SHARE = 0.8
"""Share of ids in FreeSurfer's table from which on unnamed ids are taken to be FreeSurfer's."""


@dataclass(frozen=True)
class LabelPlan:
    """The `labels` block.

    Attributes:
        classes: ids told apart.
        table: what they mean; empty for FreeSurfer's ids.
        regions: overlapping unions, in the order of painting.
        refuse: whether any other id is a mistake in the data.
        sides: whether left and right are told apart.
        unpaired: names with a side but without a partner.
        scattered: whether a structure may be in several pieces, so that none may be dropped.
    """

    classes: tuple[int, ...]
    table: tuple[LabelEntry, ...]
    regions: tuple[Region, ...] = ()
    refuse: bool = True
    sides: bool = False
    unpaired: tuple[str, ...] = ()
    scattered: bool = False


def plan_labels(fingerprint: Fingerprint) -> LabelPlan:
    """The structures of a data set.

    Raises:
        UserError: there are more than 255.
    """
    if fingerprint.layout == "brats" and fingerprint.label_names:
        return _brats(fingerprint)
    declared = {*fingerprint.label_names, *(i for ids in fingerprint.regions.values() for i in ids)}
    ids = sorted(declared | set(fingerprint.voxels))
    if len(ids) > 255:
        raise UserError("the label files", f"hold {len(ids)} different labels", "a network can tell 255 apart at most")
    if fingerprint.regions:
        table = tuple(LabelEntry(id=i, name=fingerprint.label_names.get(i, f"label {i}")) for i in ids)
        return LabelPlan(tuple(ids), table, _regions(fingerprint.regions), scattered=True)
    known = [i for i in ids if i in LabelTable.freesurfer()]
    if not declared and len(known) >= 3 and len(known) >= FREESURFER_SHARE * len(ids):
        sides = any(LabelTable.freesurfer().by_id(i).side != "none" for i in known)
        return LabelPlan(tuple(known), (), refuse=False, sides=sides, scattered=WHITE_MATTER not in known)
    table, unpaired = _with_sides({i: fingerprint.label_names.get(i, f"label {i}") for i in ids})
    sides = any(entry.side != "none" for entry in table)
    return LabelPlan(tuple(ids), table, sides=sides, unpaired=unpaired, scattered=_is_scattered(table))


def split_side(name: str) -> tuple[str, str]:
    """The side that a structure's name tells, and the name without it.

    `Left-Putamen`, `putamen_R`, `kidney left` and `lh.thalamus` are understood; a single letter only at either end.

    Returns:
        "left", "right" or "none", and the rest of the name in small letters.
    """
    tokens = [token for token in re.split(r"[-_ .,/()]+", name.lower()) if token]
    for position, token in enumerate(tokens):
        if token in SIDES and len(tokens) > 1 and (len(token) > 2 or position in (0, len(tokens) - 1)):
            return SIDES[token], " ".join(tokens[:position] + tokens[position + 1 :])
    return "none", " ".join(tokens)


def _brats(fingerprint: Fingerprint) -> LabelPlan:
    """The regions of the BraTS challenges; the enhancing tumour is 4 until 2021, and 3 from 2023 on."""
    old = all(image.name in BRATS_OLD for image in fingerprint.images)
    enhancing = 4 if old else 3
    classes = [1, 2, enhancing]
    regions = [
        Region(name="whole tumour", ids=tuple(classes), label=2),
        Region(name="tumour core", ids=(1, enhancing), label=1),
        Region(name="enhancing tumour", ids=(enhancing,), label=enhancing),
    ]
    if not old and 4 in fingerprint.voxels:
        classes.append(4)
        regions.append(Region(name="resection cavity", ids=(4,), label=4))
    table = tuple(LabelEntry(id=i, name=fingerprint.label_names[i]) for i in classes)
    return LabelPlan(tuple(classes), table, tuple(regions), scattered=True)


def _regions(declared: Mapping[str, Sequence[int]]) -> tuple[Region, ...]:
    """Regions from the largest to the smallest, which is painted last, each with the id that is its own.

    That is an id which no smaller region claims; of several the lowest.
    """
    ordered = sorted(declared.items(), key=lambda item: -len(item[1]))
    result = []
    for place, (name, ids) in enumerate(ordered):
        claimed = {i for _, others in ordered[place + 1 :] for i in others}
        own = sorted(set(ids) - claimed) or sorted(ids)
        result.append(Region(name=name, ids=tuple(ids), label=own[0]))
    return tuple(result)


def _with_sides(names: Mapping[int, str]) -> tuple[tuple[LabelEntry, ...], tuple[str, ...]]:
    """Entries with their sides and partners, and the names that have a side but no partner."""
    split = {i: split_side(name) for i, name in names.items()}
    entries, unpaired = [], []
    for i, name in names.items():
        side, rest = split[i]
        partners = [k for k, (other, same) in split.items() if same == rest and other not in (side, "none")]
        if side != "none" and len(partners) == 1:
            entries.append(LabelEntry(id=i, name=name, side="left" if side == "left" else "right", partner=partners[0]))
            continue
        if side != "none":
            unpaired.append(name)
        entries.append(LabelEntry(id=i, name=name))
    return tuple(entries), tuple(unpaired)


def _is_scattered(table: Sequence[LabelEntry]) -> bool:
    """Whether structures may lie apart: paired ones, several, or what the names call a lesion."""
    lesion = re.compile(r"lesion|tumou?r|cancer|metasta|infarct|stroke|hyperintens|nodule|edema|oedema", re.IGNORECASE)
    return len(table) > 1 or any(lesion.search(entry.name) for entry in table) or table[0].name.startswith("label ")
