"""Lesions in generated scans: tissue that looks like none of the brain's, over labels of what it was before.

Patients have tumours with their oedema, strokes, bleeding and lesions of the white matter. Label maps of healthy heads
show none, so that a network trained on them takes what it has never seen for the most varied tissue it knows: oedema
was called cerebellum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from voxseg.data._intensity import smooth_noise
from voxseg.data._spatial import ellipsoid, uniform

__all__ = ["Lesion", "draw_lesions", "paint_lesions"]

MOST = 3
"""Lesions of one scan."""

RADIUS_MM = (2.0, 36.0)
"""Least and largest, each between as likely: from spots in the white matter to oedema."""

BRIGHTEST = 1.6
"""Of a lesion, in the unit of the brightest tissue of the brain: oedema in FLAIR, or what takes up contrast."""

BUMPS = 0.3
"""By which share of its radius the outline of a lesion deviates from an ellipsoid."""


@dataclass(frozen=True)
class Lesion:
    """One lesion, but for where it lies.

    Attributes:
        place: which of the voxels that it may lie in is its centre, from 0 to 1.
        radius_mm: of a sphere of the same volume, before the outline is bent.
        shape: from mm to a space in which it is a sphere of the same radius, float32 [3, 3].
        edge_mm: over which it fades.
        strength: share of the tissue's own intensity that it replaces.
        outer: its intensity, as a share of that of the brightest tissue of the brain.
        inner: the same of its core.
        core: radius of the core as a share of its own; 0 is none.
        in_white: whether it spares everything but cerebral white matter, as oedema does.
    """

    place: float
    radius_mm: float
    shape: Tensor
    edge_mm: float
    strength: float
    outer: float
    inner: float
    core: float
    in_white: bool


def draw_lesions(random: torch.Generator, probability: float) -> tuple[Lesion, ...]:
    """The lesions of one scan: none, or one to three.

    Args:
        random: generator on the CPU.
        probability: that there are any.
    """
    if not probability or uniform(random, 0, 1) >= probability:
        return ()
    return tuple(_draw(random) for _ in range(int(torch.randint(1, MOST + 1, (), generator=random))))


def _draw(random: torch.Generator) -> Lesion:
    radius = uniform(random, *RADIUS_MM)
    return Lesion(
        place=uniform(random, 0, 1),
        radius_mm=radius,
        shape=ellipsoid(random, 0.25),
        edge_mm=uniform(random, 0.5, 1 + 0.15 * radius),
        strength=uniform(random, 0.4, 1),
        outer=uniform(random, 0, BRIGHTEST),
        inner=uniform(random, 0, BRIGHTEST),
        core=max(0.0, uniform(random, -0.5, 0.85)),
        in_white=uniform(random, 0, 1) < 0.5,
    )


def paint_lesions(
    scan: Tensor,
    lesions: tuple[Lesion, ...],
    brain: Tensor,
    white: Tensor,
    bright: float,
    spacing: float,
    noise: torch.Generator,
) -> None:
    """Paint lesions over the tissue of a window.

    Args:
        scan: intensities [X, Y, Z]; changed in place.
        lesions: what `draw_lesions` made.
        brain: which voxels belong to the brain, bool [X, Y, Z]. Where there are none, nothing is painted.
        white: which of them are cerebral white matter, bool [X, Y, Z].
        bright: intensity of the brain's brightest tissue.
        spacing: mm between voxels.
        noise: generator on the device of the scan.
    """
    for lesion in lesions:
        where = white if lesion.in_white else brain
        flat = where.flatten().nonzero()[:, 0]
        if not len(flat):
            continue
        centre = torch.unravel_index(flat[min(int(lesion.place * len(flat)), len(flat) - 1)], scan.shape)
        offsets = [spacing * (torch.arange(n, device=scan.device) - c) for n, c in zip(scan.shape, centre, strict=True)]
        x, y, z = offsets[0][:, None, None], offsets[1][:, None], offsets[2]
        parts = [a * x + b * y + c * z for a, b, c in lesion.shape.tolist()]
        distance = (parts[0].square() + parts[1].square() + parts[2].square()).sqrt()
        voxels = min(8, max(2, int(lesion.radius_mm / spacing / 2)))
        bumps = 1 + BUMPS * smooth_noise(tuple(scan.shape), voxels, noise)
        for radius, intensity in ((lesion.radius_mm, lesion.outer), (lesion.core * lesion.radius_mm, lesion.inner)):
            if radius > 0:
                share = torch.sigmoid((radius * bumps - distance) / (0.5 * lesion.edge_mm)) * lesion.strength
                scan += share * where * (intensity * bright - scan)
