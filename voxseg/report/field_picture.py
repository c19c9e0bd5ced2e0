"""A picture of a field: three planes of the scan, and under them the field in the colours of its directions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxseg.data.field_kinds import FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.data.views import VIEWS
from voxseg.report.three_planes import BACKGROUND, TEXT, draw_plane, grey_window, plane_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_field", "field_figure"]

PANEL_INCHES = 3.4
DPI = 130
SAMPLED = 2**20
"""Voxels that the brightest value is taken from."""


def draw_field(
    path: Path,
    scan: NDArray[Any],
    fields: NDArray[np.float32],
    target: FieldTarget,
    geometry: Geometry,
    title: str,
) -> None:
    """Write the picture of `field_figure` as a PNG; arguments as it takes them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(field_figure(scan, fields, target, geometry, title)).print_png(path)


def field_figure(
    scan: NDArray[Any], fields: NDArray[np.float32], target: FieldTarget, geometry: Geometry, title: str
) -> Figure:
    """Draw an axial, a coronal and a sagittal plane, each where the field is strongest.

    Directions are red (left and right), green (front and back) and blue (up and down), as bright as the field is long
    or, of tensors, as anisotropic; other fields are grey. Planes are planes of voxels in canonical axes, and colours
    tell world axes. Radiological convention.

    Args:
        scan: `[X, Y, Z]` intensities in stored axes.
        fields: `[C, X, Y, Z]` in stored order of voxels, components in world axes.
        target: what they are.
        geometry: of both.
        title: first line of the picture.

    Returns:
        A figure that pyplot does not know of.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    from voxseg.data.field_colours import field_colours, field_strength

    scan = geometry.to_canonical(scan)
    turned = geometry.to_canonical(np.moveaxis(fields, 0, -1))
    spacing = geometry.canonical.spacing
    stride = max(1, round((scan.size / SAMPLED) ** (1 / 3)))
    sample = field_strength(np.moveaxis(turned[::stride, ::stride, ::stride], -1, 0), target)
    amounts = np.abs(sample)
    point = [int(amounts.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) * stride for axis in range(3)]
    there = sample[sample != 0]
    strengths = (min(0.0, float(sample.min())), float(np.quantile(there, 0.99)) if there.size else 1.0)
    shown = [slice(0, n) for n in scan.shape]
    lengths = [n * h for n, h in zip(scan.shape, spacing, strict=True)]
    widths, heights = [lengths[v.across] for v in VIEWS], [lengths[v.up] for v in VIEWS]
    inches = PANEL_INCHES / max(heights)
    size = (max(sum(widths) * inches + 0.5, 7.0), 2 * PANEL_INCHES + 1.4)
    figure = Figure(figsize=size, dpi=DPI, facecolor=BACKGROUND)
    grey, left = grey_window(scan, shown), 0.15
    for view, width, height in zip(VIEWS, widths, heights, strict=True):
        for row in range(2):
            bottom = 0.4 + (1 - row) * (PANEL_INCHES + 0.3) + (PANEL_INCHES - height * inches) / 2
            place = (left / size[0], bottom / size[1], width * inches / size[0], height * inches / size[1])
            axes = figure.add_axes(place)
            draw_plane(axes, view, scan, point, shown, spacing, grey)
            if row:
                plane = plane_of_field(turned, view, point)
                colours = field_colours(plane, target, strengths)
                extent = (0, width, 0, height)
                axes.imshow(colours, origin="lower", extent=extent, aspect="equal", interpolation="nearest")
                axes.set_xlim((width, 0) if view.mirrored else (0, width))
            position = round(geometry.canonical.to_world(np.array(point))[view.cut])
            caption = f"{view.name}, {'xyz'[view.cut]} = {position} mm" if not row else target.name
            axes.text(0.02, 1.02, caption, transform=axes.transAxes, ha="left", va="bottom", color=TEXT, size=8)
        left += width * inches + 0.1
    figure.text(0.15 / size[0], 1 - 0.3 / size[1], title, color="white", size=11, weight="bold", parse_math=False)
    figure.text(0.15 / size[0], 0.12 / size[1], _note(target), color=TEXT, size=8, parse_math=False)
    return figure


def plane_of_field(fields: NDArray[np.float32], view: Any, point: list[int]) -> NDArray[np.float32]:
    """The plane `[C, up, across]` of canonical fields `[X, Y, Z, C]`."""
    shown = [slice(0, n) for n in fields.shape[:3]]
    return np.stack([plane_of(fields[..., k], view, point, shown) for k in range(fields.shape[-1])])


def _note(target: FieldTarget) -> str:
    side = "Radiological convention: the patient's left is on the right."
    if not target.directed:
        return f"{side}  Bright: {'high' if target.components == 1 else 'long'}."
    bright = "anisotropic (0 to 1)" if target.kind == "tensor" else "long"
    return f"{side}  Red: left-right, green: front-back, blue: up-down; bright: {bright}."
