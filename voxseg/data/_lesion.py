"""A tumour of three nested parts, as a function of position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from voxseg.data._phantom import Anatomy, Canvas, Head
from voxseg.data._shapes import NoiseField, joined, within
from voxseg.data._spatial import ellipsoid, uniform

MARGIN, RIM = 3.0, 2.5
"""mm that the oedema around the core and the enhancing rim around the necrosis have at least, give or take ripples."""

CLEARANCE = 4.0
"""mm between two tumours."""

PUSH = 0.35
"""Largest share of its distance from a tumour's centre by which tissue is pushed away."""

CANDIDATES = 4000
ATTEMPTS = 8


@dataclass(frozen=True)
class Regions:
    """Signed distances in mm, positive inside, each [N]: necrosis within core within whole."""

    whole: Tensor
    core: Tensor
    necrosis: Tensor


class Lesion:
    """One tumour.

    Args:
        random: generator on the CPU.
        centre: mm, [3].
        radius: of the whole tumour in mm, before its surface is bent.
        enhancing: whether there is a rim that takes up contrast around a necrosis; otherwise the core is solid.
    """

    def __init__(self, random: torch.Generator, centre: Tensor, radius: float, enhancing: bool) -> None:
        self.centre, self.radius, self.enhancing = centre, radius, enhancing
        self._shape = ellipsoid(random, 0.16)
        self._coarse = NoiseField(random, 3, max(radius, 12.0))
        self._fine = NoiseField(random, 1, 9.0)
        self._core_radius = radius * uniform(random, 0.45, 0.75)
        self._core_centre = centre + (radius - self._core_radius) * 0.4 * torch.randn(3, generator=random).clamp(-1, 1)
        self._rim = uniform(random, RIM, RIM + 0.15 * self._core_radius)
        self._push = uniform(random, 0.1, PUSH)
        self._strength = uniform(random, 0.85, 1.0)

    def before(self, points: Tensor) -> Tensor:
        """Where the tissue at points [N, 3] lay before the tumour grew: the mass effect, undone."""
        offset = points - self.centre
        pull = self._push * torch.exp(-offset.square().sum(1, keepdim=True) / (2 * (0.9 * self.radius) ** 2))
        return points - pull * offset

    def regions(self, points: Tensor, parts: Anatomy) -> Regions:
        """The three nested shapes at points [N, 3], within the cerebrum, across the midline only where it is joined."""
        # The head is bent by a few mm, the sign of its side is certain enough.
        reachable = within(parts.tissue - 1, joined(parts.right * self.centre[0].sign(), parts.middle))
        bumps, ripple = self._coarse(points), self._fine(points)[0]
        length = ((points - self.centre) @ self._shape).norm(dim=1)
        whole = within(self.radius * (1 + 0.25 * bumps[0]) + 2.0 * ripple - length, reachable)
        inner = ((points - self._core_centre) @ self._shape).norm(dim=1)
        core = within(self._core_radius * (1 + 0.15 * bumps[1]) + ripple - inner, whole - MARGIN)
        hollow = self._core_radius * (1 + 0.3 * bumps[2]) - self._rim - inner
        return Regions(whole, core, within(hollow, core - RIM))

    def paint(self, canvas: Canvas, regions: Regions) -> None:
        """Paint the tumour over the healthy brain."""
        canvas.paint("oedema", regions.whole, self._strength)
        if self.enhancing:
            canvas.paint("enhancing", regions.core)
            canvas.paint("necrosis", regions.necrosis)
        else:
            canvas.paint("solid", regions.core)


def place_lesion(random: torch.Generator, head: Head, radius: float, others: list[Lesion]) -> Tensor | None:
    """A centre [3] in the white matter of the cerebrum with room for a tumour of this radius, or None.

    Args:
        random: generator on the CPU.
        head: where to.
        radius: of the tumour in mm.
        others: tumours that it must not touch.
    """
    for _ in range(ATTEMPTS):
        points = (torch.rand(CANDIDATES, 3, generator=random) - 0.5) * torch.tensor([130.0, 165.0, 110.0])
        parts = head.anatomy(head.bend(points))
        # Most of the tumour within the brain, part of it cut by its surface, a ventricle or the midline.
        free = (parts.white > 1) & (parts.tissue > 0.35 * radius)
        free &= torch.minimum(-parts.stem, -parts.cerebellum) > 0.5 * radius
        free &= -parts.mimics > 0.9 * radius + 2  # where they merged, no border could be seen
        for other in others:
            free &= (points - other.centre).norm(dim=1) > 1.3 * (radius + other.radius) + CLEARANCE
        found = points[free]
        if len(found):
            return found[0]
    return None


def draw_lesions(
    random: torch.Generator, head: Head, radius_mm: tuple[float, float], second: float, solid: float
) -> list[Lesion]:
    """One or two tumours.

    Args:
        random: generator on the CPU.
        head: in which they grow.
        radius_mm: least and largest radius, each volume between equally likely.
        second: probability of a second one, up to 0.7 times as wide as the first, if there is room.
        solid: probability that they have no enhancing part.
    """
    volume = uniform(random, radius_mm[0] ** 3, radius_mm[1] ** 3)
    radii = [volume ** (1 / 3)]
    enhancing = uniform(random, 0, 1) >= solid
    if uniform(random, 0, 1) < second:
        radii.append(max(radii[0] * uniform(random, 0.5, 0.7), 8.0))
    lesions: list[Lesion] = []
    for radius in radii:
        centre = place_lesion(random, head, radius, lesions)
        while centre is None and not lesions:
            radius *= 0.9
            centre = place_lesion(random, head, radius, lesions)
        if centre is not None:
            lesions.append(Lesion(random, centre, radius, enhancing))
    return lesions
