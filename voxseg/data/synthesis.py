"""Scans made from label maps: what a network is trained on when no labelled scan is at hand.

After Billot et al. (2023), "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without
retraining" (Medical Image Analysis 86, 102789): a Gaussian of intensity for each tissue, drawn anew for each sample
from a prior or from everything possible, then what a scanner and a pipeline do to it. The order of the steps is the
order of reality: tissue, shading and noise, resolution, then what is done to the measured scan, skull-stripping and
field of view, whose edges are therefore sharp, and last the scaling of `voxseg.data.normalise` that a scan goes through
before it reaches the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from voxseg.data._detail import add_folds, soften_borders
from voxseg.data._disease import Lesion, draw_lesions, paint_lesions
from voxseg.data._intensity import (
    WHITE,
    Shading,
    Tissue,
    draw_anything,
    draw_prior,
    draw_shading,
    draw_texture,
    low_resolution,
    smooth3,
    smooth_noise,
    smooth_widely,
)
from voxseg.data._spatial import Placement, draw_displacement, rotation_matrix, uniform, window_index
from voxseg.data.label_maps import HeadMap, LabelMaps
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.normalise import intensity_range, rescale
from voxseg.data.sequences import draw_signal

__all__ = ["GeneratorConfig", "LabelMaps", "LabelScheme", "ScanGenerator"]

TEXTURE_SCALES = (1, 2, 4, 8)
SHADING_NODES = 6


class GeneratorConfig(BaseModel):
    """How scans are generated: the `generator` block of a configuration. Lengths are mm.

    Attributes:
        window: size of a sample in voxels.
        spacing: its voxel size.
        rotation_deg: largest rotation about a random axis.
        scale: largest stretch or shrinkage of each axis, as a fraction.
        deformation_mm: largest deviation of the smooth deformation; each sample draws up to this.
        growth: largest local growth or shrinkage of a part of the brain, about 10 to 25 mm wide, as a fraction.
        mirror: probability that a head is mirrored, with the sides of its labels swapped.
        contrast: "t1" draws intensities from the T1 prior, "sequences" from the signal equations of T1, proton density,
            T2 and FLAIR (`voxseg.data.sequences`), "any" from everything, "mixed" now one, now another.
        t1_share: how often "mixed" takes the T1 prior.
        sequences_share: how often "mixed" takes the sequences; "any" takes the rest.
        spread: multiplies the variation of class means in the T1 prior.
        texture: least and largest factor on the variation within the classes of the brain.
        folds: largest share of white matter and of fluid in stripes through the cerebellar cortex, whose folds label
            maps do not show.
        soft_borders: largest share of the contrast between deep grey matter and the white matter around it that is lost
            at their border, over some mm; on which side of it differs from scan to scan.
        lesions: probability that a head has lesions, up to three of 2 to 36 mm in radius and of any intensity. Labels
            stay those of the tissue below.
        skull_strip: probability that what is not brain is set to zero, more or less tightly; tissue that is lost so
            has no label either.
        noisy_air: probability that the air around an unstripped head is noisy, not exactly zero.
        bias: largest deviation of the logarithm of the shading across the head.
        gamma: deviation of the logarithm of the exponent that bends the intensity scale; half a deviation towards
            less contrast on average, as the prior's contrast between tissues is stronger than that of most scans.
        noise: largest deviation of the noise, as a fraction of the intensity scale.
        blur_mm: least and largest deviation of the blur, beyond the partial volume of a voxel; more often small.
        low_resolution: probability of thick slices along a random axis.
        thickness_mm: largest slice thickness.
        overhang: probability of a window anywhere on the head and over its edge, not centred within the brain.
        outside: probability of a window that lies in empty space.
        cut: probability that the field of view ends within the window.
        held_out: names of label maps (such as map_05) that are only validated on; by default validation windows come
            from the same heads as the training's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: tuple[int, int, int] = (64, 64, 64)
    spacing: float = Field(default=2.0, gt=0)
    rotation_deg: float = Field(default=25.0, ge=0, le=180)
    scale: float = Field(default=0.12, ge=0, lt=0.5)
    deformation_mm: float = Field(default=3.0, ge=0)
    growth: float = Field(default=0.4, ge=0, lt=0.7)
    mirror: float = Field(default=0.5, ge=0, le=1)
    contrast: Literal["t1", "sequences", "any", "mixed"] = "t1"
    t1_share: float = Field(default=0.5, ge=0, le=1)
    sequences_share: float = Field(default=0.0, ge=0, le=1)
    spread: float = Field(default=1.0, ge=0)
    texture: tuple[float, float] = (0.05, 0.6)
    folds: float = Field(default=0.8, ge=0, le=1)
    soft_borders: float = Field(default=0.8, ge=0, le=1)
    lesions: float = Field(default=0.0, ge=0, le=1)
    skull_strip: float = Field(default=0.5, ge=0, le=1)
    noisy_air: float = Field(default=0.75, ge=0, le=1)
    bias: float = Field(default=0.2, ge=0)
    gamma: float = Field(default=0.25, ge=0)
    noise: float = Field(default=0.05, ge=0)
    blur_mm: tuple[float, float] = (0.5, 1.6)
    low_resolution: float = Field(default=0.2, ge=0, le=1)
    thickness_mm: float = Field(default=5.0, gt=0)
    overhang: float = Field(default=0.25, ge=0, le=1)
    outside: float = Field(default=0.05, ge=0, le=1)
    cut: float = Field(default=0.2, ge=0, le=1)
    held_out: tuple[str, ...] = ()

    @field_validator("window")
    @classmethod
    def _large_enough(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(value) < 8:
            raise ValueError(f"needs at least 8 voxels along each axis, got {list(value)}")
        return value

    @field_validator("texture", "blur_mm")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError(f"needs a least and a largest value of at least 0, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _shares(self) -> GeneratorConfig:
        if self.overhang + self.outside > 1:
            raise ValueError(f"overhang + outside is {self.overhang + self.outside:g}, more than 1")
        if self.t1_share + self.sequences_share > 1:
            raise ValueError(f"t1_share + sequences_share is {self.t1_share + self.sequences_share:g}, more than 1")
        return self


@dataclass(frozen=True)
class _Look:
    """The random choices that the window and the overview of the whole head share."""

    tissue: Tissue
    folds: tuple[float, float]
    fold_wave: Tensor
    soft: tuple[float, float]
    soft_sigma_mm: float
    lesions: tuple[Lesion, ...]
    shading: Shading
    exponent: float
    noise: float
    noisy_air: bool
    stripped: bool
    strip_margin_mm: float
    strip_sigma_mm: float


class ScanGenerator:
    """Generates pairs of scan and labels from head label maps.

    Args:
        maps: the heads; kept on the device they were read to.
        config: how scans are generated.
        device: where samples are made; the maps have to be there.

    Raises:
        ValueError: if the maps are on another device.
    """

    def __init__(self, maps: LabelMaps, config: GeneratorConfig, device: str | torch.device = "cpu") -> None:
        self.maps = maps
        self.config = config
        self.device = torch.device(device)
        if maps.brain.device.type != self.device.type:
            raise ValueError(f"the label maps are on {maps.brain.device}, not on {self.device}")
        self._prior = maps.prior.cpu()
        self._brain, self._relaxation = maps.brain.cpu(), maps.relaxation.cpu()
        self._t1_class, self._any_class = maps.t1_class.cpu(), maps.any_class.cpu()

    def sample(self, seed: int | tuple[int, ...], batch: int = 1) -> tuple[Tensor, Tensor]:
        """Generate a batch.

        Args:
            seed: a whole number or several (such as seed, step and rank), not negative; decides everything.
            batch: number of pairs.

        Returns:
            The scans, normalised, float32 [B, 1, X, Y, Z], and the dense class indices, int64 [B, X, Y, Z].
        """
        state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        random = torch.Generator().manual_seed(state)
        noise = torch.Generator(self.device).manual_seed(state)
        with torch.no_grad():
            pairs = [self._pair(random, noise) for _ in range(batch)]
        return torch.stack([scan for scan, _ in pairs])[:, None], torch.stack([target for _, target in pairs])

    def _pair(self, random: torch.Generator, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """One scan and its labels, each [X, Y, Z]."""
        config = self.config
        head = self.maps.heads[int(torch.randint(len(self.maps.heads), (), generator=random))]
        placement, mirrored = self._place(head, random)
        look = self._draw_look(head, random)
        centre, parts = window_index(head, placement, config.window)
        flat = head.rows.view(-1)
        rows, parts = flat[centre].long(), flat[parts].long()
        target = (self.maps.mirrored_target if mirrored else self.maps.target)[rows]
        scan = self._paint(look, rows, parts, placement, noise)
        scan = self._resolve(scan, random)
        scan, target = self._strip(scan, target, rows, look, noise)
        scan, target = self._cut(scan, target, random)
        low, high = self._overview_range(head, look, noise)
        # The overview comes out 1 to 6 % too high, by a few per cent more or less: measured on whole generated heads.
        high *= math.exp(0.05 * float(torch.randn((), generator=random)) - 0.03)
        return rescale(scan, low, high), target

    def _place(self, head: HeadMap, random: torch.Generator) -> tuple[Placement, bool]:
        """Where the window lies, and whether the head is mirrored."""
        config = self.config
        stretch = torch.diag(1 + config.scale * (2 * torch.rand(3, generator=random) - 1))
        rotation = rotation_matrix(random, config.rotation_deg)
        mirrored = uniform(random, 0, 1) < config.mirror
        if mirrored:
            stretch[0, 0] *= -1
        matrix = (config.spacing * stretch @ rotation) / head.spacing[:, None]
        half = torch.tensor([(n - 1) / 2 for n in config.window]) * config.spacing / head.spacing
        shape = torch.tensor(head.rows.shape, dtype=torch.float32) - 1
        along = torch.rand(3, generator=random)
        choice = uniform(random, 0, 1)
        if choice < config.outside:
            centre = along * shape
            axis = int(torch.randint(3, (), generator=random))
            reach = half.norm() * (1 + config.scale)
            centre[axis] = -reach if along[axis] < 0.5 else shape[axis] + reach
        elif choice < config.outside + config.overhang:
            margin = 0.25 * half
            centre = along * (shape + 2 * margin) - margin
        else:
            # The brain is larger than the window on most axes: stay where the window is mostly brain.
            middle, extent = (head.brain_low + head.brain_high) / 2, (head.brain_high - head.brain_low) / 2
            centre = middle + 0.6 * extent * (2 * along - 1)
        strength = uniform(random, 0, config.deformation_mm)
        displacement = None
        if config.deformation_mm > 0 or config.growth > 0:
            displacement = draw_displacement(random, head, matrix, centre, config.window, strength, config.growth)
        return Placement(matrix, centre, displacement), mirrored

    def _draw_look(self, head: HeadMap, random: torch.Generator) -> _Look:
        """Tissue intensities and the scanner's part, for one scan."""
        config = self.config
        tissue = self._draw_tissue(random)
        # From a cut into the cortex to a margin of fluid and skull around it; half of the scans end within 1 mm.
        margin = 8 * uniform(random, 0, 1) ** 2 - 1
        wave = torch.randn(3, generator=random)
        softness, outside = uniform(random, 0, config.soft_borders), uniform(random, 0, 1)
        return _Look(
            tissue=Tissue(*(t.to(self.device) for t in (tissue.mean, tissue.deviation, tissue.texture))),
            folds=(uniform(random, 0, config.folds), uniform(random, 0, config.folds)),
            # From folia to the larger lobules.
            fold_wave=wave / wave.norm() * 2 * math.pi * config.spacing / uniform(random, 3, 10),
            soft=(softness * outside, softness * (1 - outside)),
            soft_sigma_mm=uniform(random, 1.5, 4),
            lesions=draw_lesions(random, config.lesions),
            shading=draw_shading(random, config.bias, head.spacing),
            exponent=math.exp(config.gamma * (float(torch.randn((), generator=random)) - 0.5)),
            noise=WHITE * uniform(random, 0, config.noise),
            noisy_air=uniform(random, 0, 1) < config.noisy_air,
            stripped=uniform(random, 0, 1) < config.skull_strip,
            strip_margin_mm=margin,
            # Tight masks may follow the folds, wide ones are round.
            strip_sigma_mm=uniform(random, 2 + 0.25 * max(margin, 0), 4),
        )

    def _draw_tissue(self, random: torch.Generator) -> Tissue:
        """Intensities of the tissues, in the contrast of this scan."""
        config, contrast, classes = self.config, self.config.contrast, self._any_class
        if contrast == "mixed":
            choice = uniform(random, 0, 1)
            contrast = "t1" if choice < config.t1_share else "any"
            if config.t1_share <= choice < config.t1_share + config.sequences_share:
                contrast = "sequences"
        if contrast == "t1":
            classes = self._t1_class
            intensities = draw_prior(random, self._prior, classes, config.spread)
        elif contrast == "sequences":
            intensities = draw_signal(random, self._relaxation, classes, self._brain)
        else:
            intensities = draw_anything(random, classes)
        return draw_texture(random, *intensities, classes, self._brain, config.texture, len(TEXTURE_SCALES))

    def _paint(self, look: _Look, rows: Tensor, parts: Tensor, placement: Placement, noise: torch.Generator) -> Tensor:
        """The head with its scalp, as the scanner measures it, [X, Y, Z]."""
        tissue, window = look.tissue, self.config.window
        scan = tissue.mean[parts].mean(0)
        if self.config.soft_borders > 0:
            sigma = look.soft_sigma_mm / self.config.spacing
            soften_borders(scan, rows, self.maps, tissue.mean, look.soft, sigma)
        if look.lesions:
            brain, white = self.maps.brain[rows], self.maps.white[rows]
            bright = float((tissue.mean * self.maps.brain).max())
            paint_lesions(scan, look.lesions, brain, white, bright, self.config.spacing, noise)
        amplitude = tissue.texture * tissue.deviation
        for k, scale in enumerate(TEXTURE_SCALES):
            scan += amplitude[k][rows] * smooth_noise(window, scale, noise)
        if self.config.folds > 0:
            add_folds(scan, rows, self.maps, tissue.mean, look.folds, look.fold_wave, noise)
        scan.clamp_(min=0)
        scan *= self._window_shading(look, placement)
        scan = WHITE * (scan / WHITE) ** look.exponent
        tissue_mask = None if look.noisy_air else (rows > 0)
        return _magnitude(scan, look.noise, tissue_mask, noise)

    def _window_shading(self, look: _Look, placement: Placement) -> Tensor:
        """The gain over the window, [X, Y, Z], interpolated from a few points of it."""
        axes = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, SHADING_NODES) for n in self.config.window]
        position = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
        gain = look.shading.at(placement.points(position)).view(1, 1, *(SHADING_NODES,) * 3).to(self.device)
        return functional.interpolate(gain, size=self.config.window, mode="trilinear", align_corners=True)[0, 0]

    def _strip(
        self, scan: Tensor, target: Tensor, rows: Tensor, look: _Look, noise: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Set to zero what is further from the brain than this scan's skull-stripping leaves."""
        if not look.stripped:
            return scan, target
        spacing, sigma = self.config.spacing, look.strip_sigma_mm
        near = smooth_widely(self.maps.brain[rows].float()[None], sigma / spacing)[0]
        outline = 0.5 * smooth_noise(self.config.window, 8, noise)
        # A blurred flat border is a normal distribution function of the distance to it, which its inverse gives back.
        inside = sigma * torch.special.ndtri(near.clamp(0, 1)) + look.strip_margin_mm + outline
        # The mask was binary on the scan's own voxels, so that interpolation leaves an edge about one voxel wide.
        kept = (inside / spacing + 0.5).clamp(0, 1)
        return scan * kept, target * (kept > 0)

    def _cut(self, scan: Tensor, target: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """End the field of view within the window, on one side."""
        if uniform(random, 0, 1) >= self.config.cut:
            return scan, target
        axis = int(torch.randint(3, (), generator=random))
        n = scan.shape[axis]
        lost = int(uniform(random, 0.02, 0.5) * n)
        start = 0 if uniform(random, 0, 1) < 0.5 else n - lost
        scan.narrow(axis, start, lost).zero_()
        target.narrow(axis, start, lost).zero_()
        return scan, target

    def _resolve(self, scan: Tensor, random: torch.Generator) -> Tensor:
        """Blur, and thick slices along an axis."""
        config = self.config
        if uniform(random, 0, 1) < config.low_resolution:
            axis = int(torch.randint(3, (), generator=random))
            thickness = uniform(random, config.spacing, max(config.thickness_mm, config.spacing))
            scan = low_resolution(scan, axis, thickness / config.spacing)
        # Most scans are sharp; averages of many heads are not.
        least, largest = config.blur_mm
        return smooth3(scan, (least + (largest - least) * uniform(random, 0, 1) ** 2) / config.spacing)

    def _overview_range(self, head: HeadMap, look: _Look, noise: torch.Generator) -> tuple[float, float]:
        """The intensity range of the whole head, as `normalise` would find it in the whole scan.

        A scan is normalised before a window is cut from it, so the window's own range would be wrong.
        """
        rows = head.coarse.long()
        scan = look.tissue.mean[rows]
        # Texture is averaged within a voxel and by blur: what is left of it was measured on whole generated heads.
        scan = scan + 0.5 * look.tissue.deviation[rows] * torch.randn(scan.shape, generator=noise, device=noise.device)
        scan = scan.clamp_(min=0) * look.shading.at(head.coarse_position)
        scan = WHITE * (scan / WHITE) ** look.exponent
        keep = self.maps.brain[rows] if look.stripped else None if look.noisy_air else rows > 0
        return intensity_range(_magnitude(scan, look.noise, keep, noise))


def _magnitude(scan: Tensor, sigma: float, mask: Tensor | None, noise: torch.Generator) -> Tensor:
    """The magnitude of a complex signal with noise of deviation `sigma` (Rician), zero outside `mask`."""
    if sigma > 0:
        real = scan + sigma * torch.randn(scan.shape, generator=noise, device=noise.device)
        imaginary = sigma * torch.randn(scan.shape, generator=noise, device=noise.device)
        scan = torch.hypot(real, imaginary)
    return scan if mask is None else scan * mask
