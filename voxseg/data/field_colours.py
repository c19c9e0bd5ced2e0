"""Colours of fields for pictures: directions as red, green and blue, numbers as grey."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from voxseg.data.field_kinds import FieldTarget
from voxseg.steerable import fractional_anisotropy, symmetric_from_fields

__all__ = ["field_colours", "field_strength"]


def field_strength(fields: NDArray[np.float32], target: FieldTarget) -> NDArray[np.float32]:
    """What a picture shows as brightness: the anisotropy of tensors, otherwise the length of the field.

    Args:
        fields: `[C, ...]`.
        target: what it is.

    Returns:
        `[...]` float32, at least 0 but for a single scalar, which is itself.
    """
    if target.kind == "tensor":
        tensors = symmetric_from_fields(torch.from_numpy(np.ascontiguousarray(np.moveaxis(fields, 0, -1))))
        # A tensor that is all but nothing has any anisotropy.
        length = tensors.square().sum((-2, -1)).sqrt()
        reference = float(length.max()) / 20
        return (fractional_anisotropy(tensors).clamp(0, 1) * (length / max(reference, 1e-30)).clamp(max=1)).numpy()
    if len(fields) == 1:
        return fields[0]
    strength: NDArray[np.float32] = np.sqrt((fields.astype(np.float32) ** 2).sum(0))
    return strength


def field_colours(
    fields: NDArray[np.float32], target: FieldTarget, window: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Red, green and blue of a field.

    Vectors, axes and tensors have the colours of diffusion imaging: red for left and right, green for front and back,
    blue for up and down (`|x|`, `|y|`, `|z|` of the main direction; Pajevic and Pierpaoli 1999,
    doi:10.1002/(SICI)1522-2594(199909)42:3<526::AID-MRM15>3.0.CO;2-J), as bright as `field_strength`. Others are grey.

    Args:
        fields: `[C, ...]` in world axes.
        target: what it is.
        window: the strengths that are black and full; from 0, or the lowest, to what 99 % of them do not reach.

    Returns:
        `[..., 3]` float32, 0 to 1.
    """
    strength = field_strength(fields, target)
    if window is None:
        there = strength[strength != 0]
        high = float(np.quantile(there, 0.99)) if there.size else 1.0
        window = (min(0.0, float(strength.min())), high)
    if target.kind == "tensor":
        window = (0.0, 1.0)
    low, high = window
    brightness = np.clip((strength - low) / max(high - low, 1e-30), 0, 1)
    if not target.directed:
        return np.repeat(brightness[..., None], 3, -1).astype(np.float32)
    rows = torch.from_numpy(np.ascontiguousarray(fields.reshape(len(fields), -1).T))
    directions = target.directions(rows).numpy().reshape(*fields.shape[1:], 3)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    colours: NDArray[np.float32] = np.abs(directions) / np.maximum(length, 1e-30) * brightness[..., None]
    return colours.astype(np.float32)
