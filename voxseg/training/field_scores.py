"""How far predicted fields are from true ones: for each case, and for a validation of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from voxseg.data.field_kinds import FieldTarget
from voxseg.steerable import fractional_anisotropy, symmetric_from_fields

__all__ = ["Errors", "FieldCase", "FieldResult", "FieldView", "field_errors", "merge_fields"]

Errors = dict[str, float]

SHORT = 0.1
"""Vectors shorter than this, of the root mean square length, have no direction to speak of."""
ROUND = 0.2
"""Tensors of less anisotropy have no main axis to speak of: the usual limit of tractography."""


@dataclass(frozen=True)
class FieldView:
    """A plane of a case: colours `[A, B, 3]` of truth and prediction, 0 to 1, and mm between voxels.

    Attributes:
        name: of the plane.
        truth: as it should be.
        prediction: as the network has it.
        spacing: along A and B.
    """

    name: str
    truth: NDArray[np.float32]
    prediction: NDArray[np.float32]
    spacing: tuple[float, float]


@dataclass
class FieldCase:
    """Errors of a case.

    Attributes:
        number: of the case among those that are validated.
        name: of the case.
        errors: by their names (`FieldTarget.error_names`).
        turned: the same in the turned pose; None if that was left out.
        views: planes of it, if it is shown.
    """

    number: int
    name: str
    errors: Errors
    turned: Errors | None = None
    views: list[FieldView] = field(default_factory=list)


@dataclass
class FieldResult:
    """What a validation found.

    Attributes:
        cases: one for each case.
        equivariance: error of each case that it was measured on.
    """

    cases: list[FieldCase]
    equivariance: list[float] = field(default_factory=list)

    @property
    def errors(self) -> Errors:
        """The mean over the cases."""
        return _mean([case.errors for case in self.cases])

    @property
    def turned(self) -> Errors | None:
        """The same with the patient turned; None if that was left out."""
        turned = [case.turned for case in self.cases if case.turned is not None]
        return _mean(turned) if turned else None

    @property
    def equivariance_error(self) -> float:
        """As `voxseg.training.equivariance` defines it; NaN if it was not measured."""
        return sum(self.equivariance) / len(self.equivariance) if self.equivariance else math.nan


def merge_fields(results: Sequence[FieldResult]) -> FieldResult:
    """The result over several processes: cases in their order."""
    cases = sorted((case for result in results for case in result.cases), key=lambda case: case.number)
    return FieldResult(cases, [error for result in results for error in result.equivariance])


def field_errors(
    prediction: NDArray[np.float32], truth: NDArray[np.float32], known: NDArray[np.bool_], target: FieldTarget
) -> Errors:
    """Errors of a predicted field over the voxels where the truth is known.

    Args:
        prediction: `[C, X, Y, Z]` in units of `target.scale`.
        truth: the same.
        known: `[X, Y, Z]`.
        target: what they are.

    Returns:
        "rmse": root mean square length of the difference over all components (of a tensor its Frobenius norm), in the
        unit of the files. "relative_error": that over the root mean square length of the truth, so that a prediction of
        zeros has 1. "angle", of vectors, axes and tensors: mean angle in degrees between the main directions, of axes
        and tensors without sign (at most 90), where the truth is longer than a tenth of its root mean square, and of
        tensors where its anisotropy is at least 0.2. "fa_error", of tensors: mean absolute difference of the fractional
        anisotropy. NaN where there is nothing to measure.
    """
    found, true = (torch.from_numpy(np.ascontiguousarray(f[:, known].T)).double() for f in (prediction, truth))
    size, error = _rms(true), _rms(found - true)
    errors = {"relative_error": error / size if size > 0 else math.nan, "rmse": error * target.scale}
    if target.directed:
        counts = true.norm(dim=1) >= SHORT * size
        if target.kind == "tensor":
            one, other = (fractional_anisotropy(symmetric_from_fields(f)) for f in (found, true))
            counts &= other >= ROUND
            errors["fa_error"] = float((one - other).abs().mean())
        one, other = (target.directions(f[counts]) for f in (found, true))
        lengths = (one.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-30)
        cosine = ((one * other).sum(1) / lengths).clamp(-1, 1)
        cosine = cosine if target.kind == "vector" else cosine.abs()
        errors["angle"] = float(torch.rad2deg(torch.acos(cosine)).mean()) if len(cosine) else math.nan
    return {name: errors[name] for name in target.error_names()}


def _rms(rows: torch.Tensor) -> float:
    return math.sqrt(float(rows.square().sum(1).mean())) if len(rows) else math.nan


def _mean(errors: Sequence[Errors]) -> Errors:
    names = list(errors[0]) if errors else []
    result = {}
    for name in names:
        values = [one[name] for one in errors if not math.isnan(one[name])]
        result[name] = sum(values) / len(values) if values else math.nan
    return result
