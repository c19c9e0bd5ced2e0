"""A healthy head made by code: anatomy with a definite up, front and side, and the tissues' look in four MR contrasts.

Sizes and places are round figures for an adult head, x to the right, y to the front, z up, mm, the origin near the
middle of the brain. They are close enough to anatomy for a network to have to learn what a real one has to learn, and
no more than that. What looks like a tumour and is none is described in `Head.paint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from voxseg.data._shapes import NoiseField, ellipsoid, joined, tube, within
from voxseg.data._spatial import uniform

Image = Literal["flair", "t1", "t1ce", "t2"]
IMAGES: tuple[Image, ...] = ("flair", "t1", "t1ce", "t2")

TISSUES = {
    #                 FLAIR   T1    T1ce  T2
    "fluid":         (0.10, 0.22, 0.22, 1.00),
    "grey":          (0.58, 0.52, 0.54, 0.62),
    "white":         (0.46, 0.74, 0.75, 0.42),
    "nuclei":        (0.54, 0.60, 0.62, 0.52),
    "vessel":        (0.22, 0.36, 1.05, 0.20),
    "falx":          (0.40, 0.42, 0.80, 0.30),
    "choroid":       (0.58, 0.44, 1.00, 0.72),
    "bright white":  (0.86, 0.58, 0.60, 0.74),
    "oedema":        (0.86, 0.56, 0.58, 0.76),
    "enhancing":     (0.80, 0.50, 1.05, 0.70),
    "necrosis":      (0.50, 0.28, 0.30, 0.92),
    "solid":         (0.74, 0.42, 0.44, 0.84),
    "fat":           (0.75, 1.10, 1.15, 0.85),
    "bone":          (0.08, 0.12, 0.13, 0.08),
    "muscle":        (0.40, 0.42, 0.55, 0.28),
    "eye":           (0.12, 0.22, 0.22, 1.05),
}  # fmt: skip
"""Mean intensity of each tissue in the order of `IMAGES`, where white matter in T1 is about 0.75."""

SPREAD = 0.06
"""Deviation of a tissue's mean from one head to the next, as a fraction."""

BEYOND = 100.0
"""mm to a shape that is not there."""

CORTEX = 3.0
ENVELOPE = 1.5
"""mm of fluid around the tissue that skull-stripping leaves."""


@dataclass(frozen=True)
class Anatomy:
    """Signed distances in mm, positive inside, each [N].

    Attributes:
        brain: all that skull-stripping leaves.
        tissue: the cerebrum without fissures and ventricles; sulci are part of it.
        white: its white matter.
        cortex: its surface, sulci cut in.
        cerebellum: with the folia.
        stem: brain stem.
        ventricles: the lateral ones, the third and the fourth.
        mimics: white matter that is bright in FLAIR and T2 without a tumour.
        right: mm to the right of the midline.
        middle: the part of the brain that the fissure between the hemispheres does not reach.
    """

    brain: Tensor
    tissue: Tensor
    white: Tensor
    cortex: Tensor
    cerebellum: Tensor
    stem: Tensor
    ventricles: Tensor
    mimics: Tensor
    right: Tensor
    middle: Tensor


class Canvas:
    """The images of a head while they are painted, one tissue over the other.

    Args:
        means: tissues by name, each [M].
        size: N points.
        spacing: mm of a voxel: a surface is blurred over it, which is the partial volume.
    """

    def __init__(self, means: dict[str, Tensor], size: int, spacing: float) -> None:
        self.means, self.spacing = means, spacing
        self.images = means["fluid"][:, None].repeat(1, size)

    def paint(self, tissue: str, distance: Tensor, strength: float | Tensor = 1.0) -> None:
        """Cover a shape [N] with a tissue, opaque or less."""
        share = (distance / self.spacing + 0.5).clamp(0, 1) * strength
        self.images += share * (self.means[tissue][:, None] - self.images)


class Head:
    """One healthy head.

    Args:
        random: generator on the CPU, which decides everything about it.
        mimics: probability of each kind of bright white matter.
        sheet_mm: least and largest half thickness of the sheets.
    """

    def __init__(self, random: torch.Generator, mimics: float, sheet_mm: tuple[float, float]) -> None:
        self._scale = 1 + 0.05 * torch.randn(3, generator=random).clamp(-1.5, 1.5)
        self._bend = NoiseField(random, 3, 50.0)
        self._bend_mm = uniform(random, 1.0, 3.0)
        self._sulci = NoiseField(random, 2, 11.0)
        self._ripple = NoiseField(random, 1, 9.0)
        self._ventricle = uniform(random, 0.8, 1.5)
        self._choroid = uniform(random, 1.8, 3.0)
        self._frontal = self._mimic(random, mimics, 3.0, 6.0)
        self._occipital = self._mimic(random, mimics, 5.0, 8.0)
        self._sheets = self._mimic(random, mimics, *sheet_mm)
        self._means = {
            name: torch.tensor(mean) * (1 + SPREAD * torch.randn(len(mean), generator=random).clamp(-2, 2))
            for name, mean in TISSUES.items()
        }

    @staticmethod
    def _mimic(random: torch.Generator, probability: float, least: float, largest: float) -> tuple[float, float]:
        """Radius or half thickness on the left and on the right, 0 where there is none."""
        there = uniform(random, 0, 1) < probability
        left, right = (uniform(random, least, largest) for _ in range(2))
        return (left, right) if there else (0.0, 0.0)

    def canvas(self, images: list[int], size: int, spacing: float) -> Canvas:
        """An empty canvas with this head's tissues, for the images of these positions in `IMAGES`."""
        return Canvas({name: mean[images] for name, mean in self._means.items()}, size, spacing)

    def bend(self, points: Tensor) -> Tensor:
        """Points [N, 3] of this head in the coordinates of the average one."""
        return (points + self._bend_mm * self._bend(points).T) / self._scale

    def anatomy(self, at: Tensor) -> Anatomy:
        """The shapes at points [N, 3] that `bend` has given."""
        x, y, z = at.unbind(1)
        sided = torch.stack([x.abs(), y, z], 1)
        # The head is widest behind the ears.
        egg = torch.stack([x * (1 + 0.0016 * (y + 15)), y, z], 1)
        dome = within(ellipsoid(egg, (0, 0, 6), (67, 85, 58)), z + 22 - 0.1 * y)
        cerebellum = ellipsoid(sided, (14, -54, -40), (38, 31, 25))
        cerebrum = within(joined(dome, ellipsoid(sided, (42, 6, -24), (21, 42, 21))), -2 - cerebellum)
        stem = tube(sided, [(0, -12, -8, 13), (0, -20, -32, 15), (0, -32, -80, 8)])
        # The fissure ends at the corpus callosum and the thalamus.
        middle = ellipsoid(at, (0, -4, 4), (30, 48, 22))
        fissure = within(1.4 - sided[:, 0], -middle)
        sylvian = within(1.8 - (z + 9 - 0.25 * y).abs(), sided[:, 0] - 36, 34 - (y - 4).abs())
        pattern = self._sulci(at)
        sulci = within(1.2 - 6 * pattern[0].abs(), 17 - cerebrum + 3 * pattern[1])
        ventricles = self._ventricles(at, sided)
        cortex = within(cerebrum, -fissure, -sylvian, -sulci)
        return Anatomy(
            brain=joined(cerebrum, cerebellum, stem) + ENVELOPE,
            tissue=within(cerebrum, -fissure, -ventricles),
            white=within(cortex - CORTEX, -ventricles),
            cortex=cortex,
            cerebellum=cerebellum,
            stem=stem,
            ventricles=ventricles,
            mimics=joined(
                self._cap(at, sided, (12.0, 36.0, 7.0), self._frontal),
                self._cap(at, sided, (25.0, -52.0, 14.0), self._occipital),
                self._sheet(at, sided),
            ),
            right=x,
            middle=middle,
        )

    def _ventricles(self, at: Tensor, sided: Tensor) -> Tensor:
        v = self._ventricle
        horns = [(7, 31, 5, 3 * v), (9, 22, 8, 4.5 * v), (8, 4, 17, 3.6 * v), (11, -18, 18, 4.2 * v)]
        body = tube(sided, [*horns, (20, -36, 9, 6 * v), (21, -56, 6, 2.5 * v)])
        temporal = tube(sided, [(20, -36, 9, 5 * v), (31, -22, -9, 2.2 * v), (32, -2, -17, 1.8 * v)])
        third = ellipsoid(at, (0, -8, 1), (2.0 * v, 14, 9))
        fourth = ellipsoid(at, (0, -36, -34), (7, 5 * v, 9))
        return joined(body, temporal, third, fourth)

    def _cap(self, at: Tensor, sided: Tensor, place: tuple[float, float, float], radii: tuple[float, float]) -> Tensor:
        """A round shape on either side."""
        radius = _by_side(at, radii)
        shape = radius * (1 + 0.15 * self._ripple(at)[0]) - (sided - sided.new_tensor(place)).norm(dim=1)
        return torch.where(radius > 0, shape, -BEYOND)

    def _sheet(self, at: Tensor, sided: Tensor) -> Tensor:
        """A bent sheet upright beside the basal nuclei on either side: thin from left to right, wide otherwise."""
        x, y, z = sided.unbind(1)
        half = _by_side(at, self._sheets)
        across = half + 0.8 * self._ripple(at)[0] - (x - 38 + 0.006 * y.square()).abs()
        along = 24 * (1 - torch.hypot(y / 36, (z - 15) / 26))
        return torch.where(half > 0, within(across, along), -BEYOND)

    def paint(self, canvas: Canvas, at: Tensor, parts: Anatomy) -> None:
        """Paint the healthy brain.

        Some of it looks like a tumour, as in real heads, and only its place in the head, its direction from its
        neighbours and its shape tell it apart:

        - FLAIR and T2: caps before and behind the ventricles, and upright sheets along the external capsules, as in
          disease of the small vessels, have the intensities of oedema. The sheets have the volume of a tumour; their
          shape tells them apart: they are thin in one direction, which in an upright head is always left to right.
        - T1 with contrast: venous sinuses, the falx, arteries at the base and the choroid plexus within the ventricles
          are as bright as an enhancing rim.
        """
        x, y, z = at.unbind(1)
        sided = torch.stack([x.abs(), y, z], 1)
        canvas.paint("grey", parts.cortex)
        canvas.paint("white", parts.white)
        deep = [
            ellipsoid(sided, (11, -12, 7), (8, 14, 9)),  # thalamus
            ellipsoid(sided, (27, 4, 3), (5, 17, 10)),  # putamen
            tube(sided, [(13, 22, 6, 5.5), (16, 6, 18, 4), (17, -12, 20, 2.5)]),  # caudate
        ]
        canvas.paint("nuclei", within(joined(*deep), parts.tissue))
        canvas.paint("grey", parts.cerebellum)
        ripple = self._ripple(at)[0]
        canvas.paint("white", parts.cerebellum - 11 + 4 * ripple)
        folia = 0.18 * (1 + torch.sin(0.9 * (z + 0.5 * y) + ripple)) * (parts.cerebellum < 11)
        canvas.paint("fluid", parts.cerebellum, folia)
        canvas.paint("white", parts.stem - 1)
        canvas.paint("bright white", within(parts.mimics, parts.tissue - 1))
        canvas.paint("fluid", parts.ventricles)
        c = self._choroid
        plexus = tube(sided, [(20, -37, 9, c), (16, -26, 16, 0.5 * c), (8, 0, 14, 1.0)])
        canvas.paint("choroid", within(plexus, parts.ventricles))
        canvas.paint("falx", within(0.9 - sided[:, 0], parts.brain, z - 8, 26 - parts.brain))
        # The sagittal sinus runs along the outside of the fissure.
        canvas.paint("vessel", within(3.2 - sided[:, 0], 6.5 - parts.brain, z - 4 - 0.15 * y))
        arteries = [
            tube(sided, [(3, 10, -17, 1.9), (14, 8, -16, 1.8), (33, 2, -10, 1.7), (46, -8, 2, 1.4)]),
            tube(sided, [(2, 12, -17, 1.8), (1, 40, -2, 1.7), (1, 38, 22, 1.6), (1, 5, 33, 1.4)]),
            tube(sided, [(0, -34, 6, 2.4), (0, -58, 10, 2.6), (0, -72, 6, 2.8)]),
        ]
        canvas.paint("vessel", within(joined(*arteries), parts.brain - 0.5))

    def paint_outside(self, canvas: Canvas, at: Tensor, parts: Anatomy) -> Tensor:
        """Paint scalp, skull, face and neck around the brain; returns the whole head's shape [N]."""
        x, y, z = at.unbind(1)
        sided = torch.stack([x.abs(), y, z], 1)
        scalp = joined(parts.brain + 13, ellipsoid(at, (0, 2, -2), (78, 97, 76)))
        face = joined(ellipsoid(at, (0, 62, -62), (48, 34, 46)), ellipsoid(at, (0, 99, -50), (10, 13, 16)))
        neck = tube(at, [(0, -28, -60, 48), (0, -34, -140, 46)])
        head = joined(scalp, face, neck)
        outside = -parts.brain
        canvas.paint("fat", outside)
        skull = within(outside, scalp - 6)
        canvas.paint("muscle", within(outside, head - 5, joined(face, neck)))
        canvas.paint("bone", within(skull, z + 45))
        canvas.paint("fluid", within(outside, 2 - outside))
        canvas.paint("bone", tube(at, [(0, -62, -60, 9), (0, -60, -140, 9)]))
        canvas.paint("fluid", within(tube(at, [(0, 92, -60, 8), (0, 60, -66, 12), (0, 30, -90, 9)]), outside))
        canvas.paint("eye", ellipsoid(sided, (31, 80, -30), (12, 12, 12)))
        return head


def _by_side(at: Tensor, values: tuple[float, float]) -> Tensor:
    """The value of the left or the right side for each point [N, 3]."""
    left, right = values
    return torch.where(at[:, 0] < 0, at.new_tensor(left), at.new_tensor(right))
