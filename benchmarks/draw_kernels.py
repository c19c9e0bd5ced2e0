"""Draws the ten solid-harmonic Gaussian kernels that every steerable convolution is made of.

    python benchmarks/draw_kernels.py [-o docs/kernels.png]

Each is shown as the surface on which it has fallen to a third of its largest value, seen from above and aside, red
positive and blue negative. An eighth of the scalar ones is cut away; the trace, whose positive shell is weak, is shown
down to a thirtieth. They come from the basis that the layers use, on a grid eight times as fine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from voxseg.steerable import Lattice, SolidHarmonicBasis
from voxseg.steerable.separable import MOMENTS

Image = NDArray[np.float64]

# In the order of the field types: e3nn's real basis, whose polar axis is y.
NAMES = [
    ["Gaussian", "trace"],
    ["x", "y", "z"],
    ["xz", "xy", "2y² − x² − z²", "yz", "z² − x²"],
]
FINENESS = 8
SURFACE, TRACE_SURFACE = 1 / 3, 1 / 30
RADIUS = 2.45  # in sigma: within the box that the taps span
MARGIN = 1.12
PIXELS = 400
# Rows: to the right, up, and towards the reader, in the kernel's own (x, y, z).
VIEW = np.array([[0.84, -0.54, 0.0], [0.25, 0.38, 0.89], [-0.48, -0.75, 0.45]])
AXIS_COLOUR = "0.35"


def kernels(sigma: float = 1.0) -> list[list[Image]]:
    """The kernels by degree, each ``[n, n, n]`` in (x, y, z) order with a largest value of 1.

    Args:
        sigma: width in voxels.
    """
    basis = SolidHarmonicBasis(sigma, 1.0)
    spacing = 1 / FINENESS
    taps = basis.taps(spacing, True)
    responses = torch.stack([torch.einsum("a,b,c->abc", taps[a], taps[b], taps[c]) for a, b, c in MOMENTS])
    found = []
    for filters in basis.filters(Lattice((spacing,) * 3)):
        volumes = torch.einsum("rce,exyz->rcxyz", filters, responses).flatten(0, 1).numpy()
        found.append([volume / np.abs(volume).max() for volume in volumes])
    return found


def view() -> Image:
    """The rows of VIEW made orthonormal, ``[3, 3]``."""
    columns, signs = np.linalg.qr(VIEW.T)
    turned: Image = columns.T * np.sign(np.diag(signs))[:, None]
    return turned


def render(volume: Image, level: float, cut: bool) -> Image:
    """Picture ``[PIXELS, PIXELS, 4]`` of the surface ``|volume| = level``: red positive, blue negative.

    Args:
        volume: ``[n, n, n]``, largest value 1.
        level: where the surface lies.
        cut: leave out the eighth that faces the reader and colour the cut by the value there.
    """
    right, up, towards = view()
    half = (volume.shape[0] - 1) / 2
    screen = np.linspace(-half, half, PIXELS) * MARGIN
    depth = np.linspace(half, -half, 2 * PIXELS // 3) * MARGIN
    u, v = np.meshgrid(screen, screen[::-1])
    picture = np.zeros((PIXELS, PIXELS, 4))
    colours = colormaps["RdBu_r"]
    light = (towards + 0.6 * up - 0.5 * right) / np.linalg.norm(towards + 0.6 * up - 0.5 * right)
    gradient = np.gradient(volume)
    open_ = np.ones(u.shape, dtype=bool)
    before_cut = np.zeros(u.shape, dtype=bool)
    for d in depth:
        points = u[..., None] * right + v[..., None] * up + d * towards
        value = map_coordinates(volume, (points + half).transpose(2, 0, 1), order=1)
        removed = (points * np.sign(towards) > 0).all(-1) & cut
        hit = open_ & (np.abs(value) > level) & ~removed & (np.linalg.norm(points, axis=-1) < RADIUS * FINENESS)
        if hit.any():
            where = (points[hit] + half).T
            normal = -np.sign(value[hit]) * np.stack([map_coordinates(g, where, order=1) for g in gradient])
            bright = np.clip(light @ (normal / np.maximum(np.linalg.norm(normal, axis=0), 1e-12)), 0, 1)
            surface = colours(0.5 + 0.42 * np.sign(value[hit]))[:, :3] * (0.45 + 0.55 * bright[:, None])
            surface += 0.35 * bright[:, None] ** 12
            flat = colours(0.5 + 0.5 * np.sign(value[hit]) * np.sqrt(np.abs(value[hit])))[:, :3]
            picture[hit, :3] = np.where(before_cut[hit][:, None], flat, np.clip(surface, 0, 1))
            picture[hit, 3] = 1
        open_ &= ~hit
        before_cut = removed
    return picture


def draw_axes(axes: Axes) -> None:
    """Small arrows along x, y and z in a corner of a picture."""
    right, up, _ = view()
    start = np.array([0.13, 0.13])
    for direction, name in zip(np.eye(3), "xyz", strict=True):
        tip = 0.17 * np.array([right @ direction, up @ direction])
        arrow = {"arrowstyle": "->", "color": AXIS_COLOUR, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", start + tip, start, "axes fraction", "axes fraction", arrowprops=arrow)
        axes.text(
            *(start + 1.35 * tip),
            name,
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=11,
            color=AXIS_COLOUR,
        )


def draw() -> Figure:
    """All kernels in two rows: scalars and vectors, then degree 2."""
    figure = Figure(figsize=(10, 4.9), facecolor="white")
    volumes = kernels()
    rows = [
        [(0, i) for i in range(len(NAMES[0]))] + [(1, i) for i in range(len(NAMES[1]))],
        [(2, i) for i in range(len(NAMES[2]))],
    ]
    grid = figure.add_gridspec(2, 5, left=0.01, right=0.99, top=0.9, bottom=0.01, wspace=0.05, hspace=0.28)
    for row, cells in enumerate(rows):
        for column, (degree, component) in enumerate(cells):
            axes = figure.add_subplot(grid[row, column])
            level = TRACE_SURFACE if NAMES[degree][component] == "trace" else SURFACE
            axes.imshow(render(volumes[degree][component], level, cut=degree == 0), interpolation="bilinear")
            axes.set_axis_off()
            axes.set_title(f"l = {degree}:  {NAMES[degree][component]}", fontsize=15, pad=5)
            if (row, column) == (0, 0):
                draw_axes(axes)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/kernels.png"))
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(output, dpi=160)
    print(f"wrote {output}")
