"""A case with a dense target from its files to arrays on the working grid, where the target turns with the grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.datasets.case import Case, Dataset, Finding, left_out
from voxseg.data.datasets.read import read_image
from voxseg.data.field_files import check_field_header, read_field, read_mask
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.preparation import PreparationConfig, prepare, sample
from voxseg.data.prepared_case import image_files
from voxseg.data.volume import read_header
from voxseg.errors import UserError

__all__ = ["MASK", "TARGET", "check_field_case", "field_cases", "prepare_field_case", "read_target", "resample_field"]

TARGET, MASK = "target", "mask"
"""Names under which a data set lists the files of a case's field and, if it is not known everywhere, of its mask."""

INSIDE = 0.5
"""Share of a voxel that has to be known for its value to count."""


def field_cases(dataset: Dataset) -> Dataset:
    """The cases that have a target; the others are left out, with a finding.

    Raises:
        UserError: none has.
    """
    with_target = [case for case in dataset.cases if TARGET in case.images]
    if not with_target:
        remedy = f"give a pattern for {TARGET} in dataset.patterns, or a column {TARGET} in the table of paths"
        raise UserError(dataset.folder, "has no targets to learn", remedy)
    bare = [case.id for case in dataset.cases if TARGET not in case.images]
    findings: tuple[Finding, ...] = (left_out(bare, TARGET),) if bare else ()
    return replace(dataset, cases=tuple(with_target), findings=(*dataset.findings, *findings))


def check_field_case(case: Case, preparation: PreparationConfig, target: FieldTarget) -> None:
    """Look at the headers of a case.

    Raises:
        UserError: a file is missing or cannot be read, the target has other components than it should or lies
            elsewhere than the first image, or the mask is on another grid than the target.
    """
    files = image_files(case, preparation)
    grids = {name: read_header(file.path).geometry for name, file in files.items()}
    first, path = next(iter(grids.values())), case.images[TARGET].path
    field = check_field_header(path, target)
    if not field.overlaps(first):
        remedy = "give a target in the space of its image"
        raise UserError(
            path, f"shows another place than {next(iter(files.values())).path.name}: they do not overlap", remedy
        )
    if MASK in case.images:
        mask = case.images[MASK].path
        moved = read_header(mask, labels=True).geometry.displacement(field)
        if not moved < min(field.spacing) / 2:
            raise UserError(mask, f"is not on the grid of its target {path.name}", "give a mask with the same voxels")


def read_target(case: Case, target: FieldTarget) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, Geometry]:
    """The field of a case in world axes ``[C, X, Y, Z]``, where it is known ``[X, Y, Z]`` (None: everywhere), its grid.

    Raises:
        UserError: a file cannot be read, or holds values that are not finite where they count.
    """
    mask = read_mask(case.images[MASK].path)[0] if MASK in case.images else None
    fields, geometry = read_field(case.images[TARGET].path, target, mask)
    return fields, mask, geometry


def resample_field(
    fields: NDArray[np.float32], mask: NDArray[np.bool_] | None, geometry: Geometry, grid: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A field on another grid; its components go on referring to the same axes.

    Components are interpolated linearly, which commutes with turning them, and only between voxels where the field is
    known: it does not fade towards the edge of the mask. Tensors with positive eigenvalues keep such ones.

    Args:
        fields: ``[C, X, Y, Z]``, 0 where it is not known.
        mask: where it is known, ``[X, Y, Z]``; None for everywhere.
        geometry: their grid.
        grid: the grid wanted.

    Returns:
        ``[C, *grid.shape]`` float32, and where it is known there: voxels of which half is.
    """
    known = np.ones(geometry.shape, dtype=np.uint8) if mask is None else mask.astype(np.uint8)
    share, inside = sample(known, geometry, grid)
    there = inside & (share >= INSIDE - 1e-4)
    share = share.clamp(min=INSIDE / 2)
    result = np.zeros((len(fields), *grid.shape), dtype=np.float32)
    for channel, values in zip(result, fields, strict=True):
        channel[:] = (sample(values, geometry, grid)[0] / share * there).numpy()
    return result, there.numpy()


def prepare_field_case(
    case: Case, preparation: PreparationConfig, target: FieldTarget
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.uint8], Geometry]:
    """Read a case and bring it onto the working grid.

    Args:
        case: has all images of `preparation`, a target, and perhaps a mask.
        preparation: from scans to what the network sees.
        target: what is learned.

    Returns:
        Images ``[C, X, Y, Z]`` float32; the field ``[K, X, Y, Z]`` float32 with components in the axes of the grid;
        where it is known ``[X, Y, Z]`` uint8; and the grid.

    Raises:
        UserError: as `check_field_case` and `read_target`.
    """
    check_field_case(case, preparation, target)
    prepared = prepare([read_image(file) for file in image_files(case, preparation).values()], preparation)
    fields, known = resample_field(*read_target(case, target), prepared.grid)
    # Columns of the grid's axes are its directions in the world: the transposed matrix tells vectors in its own axes.
    return prepared.image, target.turned(fields, prepared.grid.rigid_axes.T), known.astype(np.uint8), prepared.grid
