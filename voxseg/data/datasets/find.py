"""Finding the cases of a data set in any of the known layouts. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from voxseg.data.datasets.bids import find_bids
from voxseg.data.datasets.brats import find_brats
from voxseg.data.datasets.case import Dataset
from voxseg.data.datasets.nnunet import DATASET_JSON, find_listed
from voxseg.data.datasets.patterns import find_patterns
from voxseg.data.datasets.table import find_table
from voxseg.errors import UserError

__all__ = ["LAYOUTS", "find_dataset"]

LAYOUTS = {
    "brats": "BraTS (CASE_flair, _t1, _t1ce, _t2, _seg or CASE-t2f, -t1n, -t1c, -t2w, -seg, .nii.gz or .nii)",
    "decathlon": f"Medical Segmentation Decathlon ({DATASET_JSON} with a list 'training')",
    "nnunet": f"nnU-Net ({DATASET_JSON}, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz)",
    "bids": "BIDS (sub-*/[ses-*/]anat/*_T1w.nii.gz, labels *_dseg.nii.gz)",
    "table": "a CSV table (one column of paths a modality, and a column 'label')",
    "patterns": "files that match the patterns given",
}
"""The layouts by their names in a config, and what is looked for, in the order of looking."""


def find_dataset(
    folder: Path, layout: str = "auto", patterns: Mapping[str, str] | None = None, labels: bool = True
) -> Dataset:
    """Find the cases of a data set.

    Args:
        folder: the folder of the data set or of a single case, or a CSV table of paths.
        layout: one of `LAYOUTS`, or "auto" to look.
        patterns: for the layout "patterns": the path within the folder for each image by name and for "label", with
            `*` in place of what tells the cases apart.
        labels: whether labels are wanted. Otherwise cases without labels are found too, such as test cases, and
            `label` is None where there is none.

    Raises:
        UserError: if nothing is recognised, no case has labels although they are wanted, or a file that describes
            the data set is wrong.
    """
    folder = Path(folder)
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"layout {layout}", "is not known", f"use one of auto, {', '.join(LAYOUTS)}")
    if not folder.exists():
        raise UserError(folder, "does not exist", "check the path")
    if folder.is_file() and (layout not in ("auto", "table") or not folder.name.lower().endswith((".csv", ".tsv"))):
        raise UserError(folder, "is a file", "give the folder of a data set, or a CSV table of paths")
    dataset = _look(folder, layout, patterns or {}, labels)
    if dataset is None:
        raise _nothing_found(folder, layout)
    for case in dataset.cases:
        if "/" in case.id or "\\" in case.id or case.id in ("", ".", ".."):
            raise UserError(dataset.folder, f"has a case {case.id!r}", "name it so that a file can be named after it")
    if labels and not any(case.label for case in dataset.cases):
        problem = f"holds {_count(len(dataset.cases))} in the layout {dataset.layout}, but no labels"
        raise UserError(folder, problem, f"labels are looked for as in {LAYOUTS[dataset.layout]}")
    return dataset


def _look(folder: Path, layout: str, patterns: Mapping[str, str], labels: bool) -> Dataset | None:
    """The data set in the layout given, or in the first that is recognised."""
    if folder.is_file() or layout == "table":
        return find_table(folder, labels)
    if layout == "patterns" or (layout == "auto" and patterns):
        return find_patterns(folder, patterns, labels)
    if layout in ("decathlon", "nnunet"):
        return find_listed(folder, labels, layout)
    if layout == "brats":
        return find_brats(folder)
    if layout == "bids":
        return find_bids(folder, labels)
    if (folder / DATASET_JSON).is_file():
        return find_listed(folder, labels)
    if not labels and folder.name.startswith("images") and (folder.parent / DATASET_JSON).is_file():
        return _part(find_listed(folder.parent, labels), folder)
    return find_bids(folder, labels) or find_brats(folder) or find_table(folder, labels)


def _part(whole: Dataset | None, folder: Path) -> Dataset | None:
    """Those cases of a data set whose images lie in one folder of it, such as `imagesTs`."""
    cases = whole.cases if whole is not None else ()
    inside = tuple(case for case in cases if all(image.path.parent == folder for image in case.images.values()))
    return replace(whole, folder=folder, cases=inside) if whole is not None and inside else None


def _nothing_found(folder: Path, layout: str) -> UserError:
    """What was looked for, and where it might be."""
    if layout != "auto":
        return UserError(folder, f"is not in the layout {layout}", f"looked for: {LAYOUTS[layout]}")
    inside = sorted(path.parent for path in folder.glob(f"*/{DATASET_JSON}"))
    if inside:
        more = f" or one of {len(inside) - 1} others in it" if len(inside) > 1 else ""
        return UserError(folder, f"is not a data set, but {inside[0].name} in it is", f"give {inside[0]}{more}")
    known = "; ".join(what for name, what in LAYOUTS.items() if name != "patterns")
    remedy = "arrange it so, or give patterns of paths in a config (dataset.patterns)"
    return UserError(folder, f"is not a data set in a known layout (looked for: {known})", remedy)


def _count(cases: int) -> str:
    return f"{cases} case{'s' * (cases != 1)}"
