"""What a dense target is: scalars, vectors, axes, symmetric tensors or any field, and how its numbers turn.

Files hold Cartesian components in one of several systems of axes; networks hold fields (irreps, in e3nn's basis) in the
axes of their working grid. Everything in between is an orthogonal matrix, so that nothing is lost on the way.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from voxseg.data.geometry import Geometry
from voxseg.steerable import (
    FieldType,
    Irrep,
    main_axis,
    representation,
    symmetric_from_fields,
    symmetric_to_fields,
)

__all__ = ["LOWER", "ORDERS", "FieldTarget"]

Array = NDArray[np.float32]

LOWER = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))
"""Entries of a symmetric tensor in NIfTI's order, the lower triangle row by row: xx, yx, yy, zx, zy, zz."""

ORDERS = {
    "lower": LOWER,
    "upper": ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)),
    "diagonal": ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)),
}
"""Orders in which files hold the six numbers of a symmetric tensor."""

_FIELDS = {"scalar": "1x0e", "vector": "1x1o", "axis": "1x0e+1x2e", "tensor": "1x0e+1x2e"}


class FieldTarget(BaseModel):
    """The `targets` block of a training config and of a model: a field that is learned in the place of labels.

    Attributes:
        kind: "scalar": a number. "vector": a direction with a sign and a length, such as a gradient or a displacement.
            "axis": a direction without a sign, such as that of a fibre: the sign of what a file holds counts for
            nothing, and the network learns the tensor ``v v^T / |v|``. "tensor": a symmetric 3x3 tensor, such as that
            of diffusion. "irreps": any field, its components in e3nn's real basis.
        irreps: of kind irreps alone: its type, such as "2x0e+1x1o+1x3o". `o` marks what changes its sign under a point
            reflection beyond what its degree says: a vector is 1o, a pseudovector (such as a rotation) 1e.
        axes: what the components in the files of the data set refer to. "world": right, anterior, superior (RAS+), as
            voxseg writes them. "lps": left, posterior, superior, as ITK and DICOM have it. "voxel": the stored axes of
            the file. "fsl": those of FSL, the stored axes with the first one reversed where they are right-handed.
        order: in which a file without NIfTI's mark of symmetric matrices holds the six numbers of a tensor: "lower"
            (xx, xy, yy, xz, yz, zz: NIfTI, DTI-TK), "upper" (xx, xy, xz, yy, yz, zz: FSL) or "diagonal" (xx, yy, zz,
            xy, xz, yz: MRtrix).
        scale: what the network's 1 is in the file's unit, such as 0.001 for diffusivities in mm²/s.
        name: what the field is called in pictures and tables.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["scalar", "vector", "axis", "tensor", "irreps"]
    irreps: str | None = None
    axes: Literal["world", "lps", "voxel", "fsl"] = "world"
    order: Literal["lower", "upper", "diagonal"] = "lower"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    name: Annotated[str, Field(min_length=1)] = "field"

    @model_validator(mode="after")
    def _agree(self) -> FieldTarget:
        if (self.kind == "irreps") != (self.irreps is not None):
            raise ValueError("kind: irreps and the key irreps go together")
        if self.irreps is not None:
            FieldType(self.irreps)  # says what is wrong with it
        return self

    @property
    def field(self) -> FieldType:
        """The type of the field that the network learns."""
        return FieldType(self.irreps or _FIELDS[self.kind])

    def output(self, group: str) -> str:
        """That type for a network of `group`: one of SO3 knows no parity."""
        irreps = self.field.irreps
        return str(
            self.field if group == "O3" else FieldType(tuple(Irrep(i.multiplicity, i.degree, 1) for i in irreps))
        )

    @property
    def components(self) -> int:
        """Numbers that a file holds of each voxel."""
        return {"scalar": 1, "vector": 3, "axis": 3, "tensor": 6}.get(self.kind, self.field.channels)

    @property
    def directed(self) -> bool:
        """Whether it has a direction that an angle can be measured to."""
        return self.kind in ("vector", "axis", "tensor")

    def encode(self, values: Array, order: str | None = None) -> Array:
        """Fields of what a file holds.

        Args:
            values: ``[X, Y, Z, components]``.
            order: of a tensor's numbers; that of the target by default.

        Returns:
            ``[C, X, Y, Z]`` float32 in units of `scale`, in the axes of the file.
        """
        given = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)) / self.scale
        if self.kind == "tensor":
            matrix = torch.empty(*given.shape[:-1], 3, 3)
            for number, (i, j) in enumerate(ORDERS[order or self.order]):
                matrix[..., i, j] = matrix[..., j, i] = given[..., number]
            given = symmetric_to_fields(matrix)
        elif self.kind == "axis":
            unit = given / given.norm(dim=-1, keepdim=True).clamp(min=1e-30)
            given = symmetric_to_fields(unit[..., :, None] * given[..., None, :])
        return given.movedim(-1, 0).contiguous().numpy()

    def decode(self, fields: Array) -> Array:
        """What is written of fields, with tensors in NIfTI's order: the inverse of `encode`.

        An axis is the main axis of its tensor, as long as the largest eigenvalue (0 where that is negative), with its
        largest component positive.

        Args:
            fields: ``[C, X, Y, Z]``.

        Returns:
            ``[X, Y, Z, components]`` float32.
        """
        given = torch.from_numpy(np.ascontiguousarray(fields)).movedim(0, -1) * self.scale
        if self.kind == "tensor":
            matrix = symmetric_from_fields(given)
            given = torch.stack([matrix[..., i, j] for i, j in LOWER], -1)
        elif self.kind == "axis":
            rows = given.reshape(-1, 6)
            result = torch.zeros(len(rows), 3)
            there = rows.any(1)
            length, axis = main_axis(symmetric_from_fields(rows[there]))
            result[there] = length.clamp(min=0)[:, None] * axis
            given = result.reshape(*given.shape[:-1], 3)
        return given.float().contiguous().numpy()

    def directions(self, fields: Tensor) -> Tensor:
        """Vectors ``[V, 3]`` of fields ``[V, C]``: themselves, or main axes of tensors as long as their eigenvalue."""
        if self.kind == "vector":
            return fields
        length, axis = main_axis(symmetric_from_fields(fields))
        return length[:, None] * axis

    def file_axes(self, geometry: Geometry) -> NDArray[np.float64]:
        """``[3, 3]`` orthogonal, column j the world's direction of component j in a file with this geometry."""
        if self.axes == "world":
            return np.eye(3)
        if self.axes == "lps":
            return np.diag([-1.0, -1.0, 1.0])
        axes = geometry.rigid_axes
        if self.axes == "fsl" and geometry.handedness == "right":
            return axes * np.array([-1.0, 1.0, 1.0])
        return axes

    def turned(self, fields: Array, matrix: NDArray[np.float64]) -> Array:
        """Fields whose components refer to other axes, or that were turned with the patient.

        Args:
            fields: ``[C, ...]`` float32.
            matrix: ``[3, 3]`` orthogonal, by which a vector's components change; a reflection counts with the parities.
        """
        if np.array_equal(matrix, np.eye(3)):
            return fields
        change = representation(self.field, torch.from_numpy(np.ascontiguousarray(matrix))).float().numpy()
        flat = change @ fields.reshape(len(fields), -1)
        return flat.reshape(fields.shape)

    def describe(self) -> str:
        """A line for people."""
        what = {
            "scalar": "a number", "vector": "a vector", "axis": "an axis (a direction without a sign)",
            "tensor": "a symmetric 3x3 tensor", "irreps": f"a field of type {self.irreps}",
        }[self.kind]  # fmt: skip
        return f"{self.name}: {what} in each voxel"

    def error_names(self) -> list[str]:
        """What is measured of a prediction, the first one deciding (`voxseg.training.field_scores`)."""
        names = ["relative_error", "rmse"]
        if self.directed:
            names.append("angle")
        if self.kind == "tensor":
            names.append("fa_error")
        return names
