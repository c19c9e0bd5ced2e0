"""Label maps of whole heads, from which scans are generated."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import LabelTable
from voxseg.data.layout import LABEL_TABLE, T1_PRIOR, find_label_maps
from voxseg.data.relaxation import relaxation
from voxseg.errors import UserError

COARSE_MM = 4.0
"""Spacing of the overview of each head, from which the intensity range of the whole scan is estimated."""

CSF = 24
"""FreeSurfer's id of the fluid around the brain: inside the skull, but not part of the brain."""

FOLDED = ((8, 7), (47, 46))
"""FreeSurfer's ids of the cerebellar cortex of each side, and of the white matter that branches into its folds."""


WHITE_MATTER = (2, 41)
DEEP = (10, 11, 12, 13, 18, 26, 28, 49, 50, 51, 52, 54, 58, 60)
"""FreeSurfer's ids of grey matter within the white matter: thalamus, caudate, putamen, pallidum, amygdala, accumbens,
ventral diencephalon. Their borders are faint: fibres run through, and grey matter without a name (claustrum, basal
forebrain) lies beside them in what label maps call white matter."""


@dataclass(frozen=True)
class HeadMap:
    """One head, stored as the rows of `LabelMaps`' tables.

    Attributes:
        name: of its file, without the ending.
        rows: uint8 [X, Y, Z] in RAS+ order, padded by one voxel of background on every side.
        spacing: voxel size in mm, [3].
        brain_low: first voxel of the brain along each axis, [3].
        brain_high: last voxel of the brain along each axis, [3].
        coarse: uint8 rows of every n-th voxel, about 4 mm apart, flattened [N].
        coarse_position: the voxel coordinates of those, float32 [N, 3].
    """

    name: str
    rows: Tensor
    spacing: Tensor
    brain_low: Tensor
    brain_high: Tensor
    coarse: Tensor
    coarse_position: Tensor


@dataclass(frozen=True)
class LabelMaps:
    """Head label maps with what each of their labels means; row 0 of every table is the background.

    Attributes:
        heads: the label maps.
        t1_class: class of the T1 prior for each row, int64 [R].
        any_class: intensity class for any contrast, both sides alike, int64 [R].
        target: dense class index to predict, int64 [R].
        mirrored_target: the same for a head seen in a mirror, int64 [R].
        brain: whether the row belongs to the brain, bool [R].
        folds: for each row those of the white matter and of the fluid that run through its folds, which label maps do
            not show, int64 [2, R]; a row's own where there are none.
        white: whether the row is cerebral white matter, bool [R].
        deep: whether it is grey matter within that, bool [R].
        relaxation: T1 and T2 in ms and proton density of each row, float32 [3, R]; NaN where unknown.
        prior: mean of the class mean, its deviation, mean of the class deviation, its deviation, float32 [4, classes].
        table: the labels that the targets stand for.
    """

    heads: list[HeadMap]
    t1_class: Tensor
    any_class: Tensor
    target: Tensor
    mirrored_target: Tensor
    brain: Tensor
    folds: Tensor
    white: Tensor
    deep: Tensor
    relaxation: Tensor
    prior: Tensor
    table: LabelTable

    @classmethod
    def read(cls, folder: str | Path, scheme: LabelScheme, device: str | torch.device = "cpu") -> LabelMaps:
        """Read a folder with `labels.csv`, `t1_intensity_prior.csv` and `map_*.nii.gz`.

        Args:
            folder: the three kinds of file. `labels.csv` has the columns map_label, intensity_class_any_contrast,
                intensity_class_t1 and segmentation_label; the prior has intensity_class_t1, mean_of_mean,
                std_of_mean, mean_of_std and std_of_std.
            scheme: what is to be predicted.
            device: where the maps are kept, one byte a voxel.

        Raises:
            UserError: if a file is missing or makes no sense, or a map holds a label that `labels.csv` lacks.
        """
        folder = Path(folder)
        paths = find_label_maps(folder)
        columns = _read_columns(folder / LABEL_TABLE, LABEL_COLUMNS, whole=True).astype(np.int64)
        prior = _read_columns(folder / T1_PRIOR, PRIOR_COLUMNS, whole=False)
        columns = columns[np.argsort(columns[:, 0] != 0, kind="stable")]
        _check_tables(folder, columns, prior)
        base = LabelTable.freesurfer()
        classes = scheme.to_classes(columns[:, 3])
        table = scheme.predicted()
        tensors = {
            "t1_class": columns[:, 2],
            "any_class": _tie_sides(columns[:, 0], columns[:, 1], base),
            "target": classes,
            "mirrored_target": table.mirrored()[classes],
        }
        brain = (columns[:, 3] != 0) & (columns[:, 0] != CSF)
        return cls(
            heads=[_read_head(path, columns[:, 0], brain, device) for path in paths],
            brain=torch.from_numpy(brain).to(device),
            folds=torch.from_numpy(_folds(columns[:, 0])).to(device),
            white=torch.from_numpy(np.isin(columns[:, 0], WHITE_MATTER)).to(device),
            deep=torch.from_numpy(np.isin(columns[:, 0], DEEP)).to(device),
            relaxation=relaxation(columns[:, 0]).to(device),
            prior=torch.from_numpy(prior[np.argsort(prior[:, 0]), 1:].T.astype(np.float32)).contiguous().to(device),
            table=table,
            **{key: torch.from_numpy(value.astype(np.int64)).to(device) for key, value in tensors.items()},
        )

    def parted(self, names: Sequence[str]) -> tuple[LabelMaps, LabelMaps]:
        """The same without the heads of these names, and with them alone.

        Raises:
            UserError: if there is no head of a name, or none is left.
        """
        known = [head.name for head in self.heads]
        for name in names:
            if name not in known:
                remedy = f"choose of {', '.join(known)}, or hold none out: []"
                raise UserError(f"generator.held_out: {name}", "there is no such label map", remedy)
        if len(set(names)) == len(known):
            raise UserError("generator.held_out", "leaves no label map to train on", "hold out fewer")
        kept = [head for head in self.heads if head.name not in names]
        held_out = [head for head in self.heads if head.name in names]
        return replace(self, heads=kept), replace(self, heads=held_out)


LABEL_COLUMNS = ("map_label", "intensity_class_any_contrast", "intensity_class_t1", "segmentation_label")
PRIOR_COLUMNS = ("intensity_class_t1", "mean_of_mean", "std_of_mean", "mean_of_std", "std_of_std")


def _read_columns(path: Path, columns: tuple[str, ...], whole: bool) -> np.ndarray:
    """The named columns of a table of numbers, [rows, columns]."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise UserError(path, f"has no column {missing[0]!r}", f"its columns are {', '.join(columns)}")
            rows = []
            for row in reader:
                try:
                    rows.append([int(row[c]) if whole else float(row[c]) for c in columns])
                except (TypeError, ValueError):
                    kind = "whole numbers" if whole else "numbers"
                    raise UserError(
                        f"{path}, line {reader.line_num}", f"does not hold {len(columns)} {kind}", "correct the line"
                    ) from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "a folder of label maps needs it") from None
    if not rows:
        raise UserError(path, "has no rows", "give at least one")
    return np.array(rows)


def _check_tables(folder: Path, columns: np.ndarray, prior: np.ndarray) -> None:
    """Refuse tables that contradict themselves or each other."""
    path = folder / LABEL_TABLE
    ids, counts = np.unique(columns[:, 0], return_counts=True)
    if counts.max() > 1:
        raise UserError(path, f"lists the label {ids[counts.argmax()]} twice", "list each label once")
    if columns.min() < 0 or len(columns) > 256:
        raise UserError(path, "has negative numbers or more than 256 rows", "number labels and classes from 0")
    if columns[0, 0] != 0:
        raise UserError(path, "has no row for the label 0", "add the background: 0,0,0,0")
    if sorted(prior[:, 0]) != list(range(len(prior))):
        raise UserError(folder / T1_PRIOR, "does not number its classes 0, 1, 2, ...", "renumber them")
    if columns[:, 2].max() >= len(prior):
        raise UserError(
            path,
            f"uses the T1 class {columns[:, 2].max()}, which t1_intensity_prior.csv lacks",
            "add the class there or use another here",
        )


def _tie_sides(ids: np.ndarray, classes: np.ndarray, base: LabelTable) -> np.ndarray:
    """Intensity classes where a structure of the right side has the class of its partner on the left."""
    known = dict(zip(ids.tolist(), classes.tolist(), strict=True))
    tied = classes.copy()
    for k, label_id in enumerate(ids.tolist()):
        label = base.by_id(label_id) if label_id in base else None
        if label is not None and label.side == "right" and label.partner in known:
            tied[k] = known[label.partner]
    return tied


def _folds(ids: np.ndarray) -> np.ndarray:
    """The rows of the white matter and of the fluid in the folds of each row, [2, R]."""
    row = {int(label): k for k, label in enumerate(ids)}
    folds = np.tile(np.arange(len(ids)), (2, 1))
    for cortex, white in FOLDED:
        if {cortex, white, CSF} <= row.keys():
            folds[:, row[cortex]] = row[white], row[CSF]
    return folds


def _read_head(path: Path, ids: np.ndarray, brain: np.ndarray, device: str | torch.device) -> HeadMap:
    """Read one label map as rows of the label table, in RAS+ order."""
    try:
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise UserError(path, "is not a volume", "give a NIfTI label map")
        if len(image.shape) != 3:
            raise UserError(path, f"has {len(image.shape)} dimensions", "give a 3-D label map")
        image = nib.as_closest_canonical(image)
        labels = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise UserError(path, f"cannot be read ({error})", "give a NIfTI label map") from None
    if labels.dtype.kind not in "iu":
        raise UserError(path, f"holds {labels.dtype}, not whole numbers", "save the label map as integers")
    unknown = np.setdiff1d(np.unique(labels), ids)
    if unknown.size:
        raise UserError(path, f"holds the label {unknown[0]}, which labels.csv lacks", "add a row for it there")
    lookup = np.zeros(int(ids.max()) + 1, dtype=np.uint8)
    lookup[ids] = np.arange(len(ids))
    rows = np.ascontiguousarray(np.pad(lookup[labels], 1))
    where = np.nonzero(brain[rows])
    if not where[0].size:
        raise UserError(path, "holds no label of the brain", "give a label map of a head")
    spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(0))
    if not np.isfinite(spacing).all() or (spacing < 1e-3).any():
        raise UserError(path, f"has the voxel size {spacing}", "give a label map with a valid affine")
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return _head(name, rows, spacing, np.array([[a.min(), a.max()] for a in where]), device)


def _head(name: str, rows: np.ndarray, spacing: np.ndarray, extent: np.ndarray, device: str | torch.device) -> HeadMap:
    """Put a head on the device, with its overview; `extent` is the first and last voxel of the brain, [3, 2]."""
    steps = np.maximum(1, np.round(COARSE_MM / spacing)).astype(int)
    coarse = rows[tuple(slice(step // 2, None, step) for step in steps)]
    position = np.stack(
        np.meshgrid(
            *(step // 2 + step * np.arange(n) for step, n in zip(steps, coarse.shape, strict=True)), indexing="ij"
        ),
        axis=-1,
    )
    return HeadMap(
        name=name,
        rows=torch.from_numpy(rows).to(device),
        spacing=torch.from_numpy(spacing).float(),
        brain_low=torch.from_numpy(extent[:, 0]).float(),
        brain_high=torch.from_numpy(extent[:, 1]).float(),
        coarse=torch.from_numpy(np.ascontiguousarray(coarse).reshape(-1)).to(device),
        coarse_position=torch.from_numpy(position.reshape(-1, 3).astype(np.float32)).to(device),
    )
