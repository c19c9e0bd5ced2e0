"""Head scans with tumours, made by code alone: something to train on, and to test with, where there is no data set.

A head (`voxseg.data._phantom`) and its tumours (`voxseg.data._lesion`) are functions of position, so that a head in
another pose is computed anew at the turned positions and no voxel is interpolated: the scan of a turned head is as
sharp as that of an upright one. Shading and texture turn with the head; the noise is the scanner's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from voxseg.data._lesion import draw_lesions
from voxseg.data._phantom import IMAGES, Head, Image
from voxseg.data._shapes import NoiseField
from voxseg.data._spatial import rotation_matrix, uniform
from voxseg.data.geometry import Geometry
from voxseg.data.labels import Label, LabelTable
from voxseg.data.segmentation import write_segmentation
from voxseg.data.staging import staged
from voxseg.data.volume import Volume

__all__ = [
    "CORE",
    "ENHANCING",
    "OEDEMA",
    "TABLE",
    "GeneratedCase",
    "TumourConfig",
    "TumourHead",
    "generate_case",
    "write_case",
]

CORE, OEDEMA, ENHANCING = 1, 2, 4
"""Label ids as in BraTS 2020: the core that does not enhance, oedema, the part that enhances."""

TABLE = LabelTable(
    [
        Label(CORE, "Necrotic-core", "#d7263d", code="SCT:6574001:Necrosis"),
        Label(OEDEMA, "Oedema", "#4caf50", code="SCT:79654002:Edema"),
        Label(ENHANCING, "Enhancing-tumour", "#f2b705", code="NCIt:C113842:Enhancing Lesion"),
    ]
)

CENTRE = (0.0, -2.0, -11.0)
"""Middle of the brain in the coordinates of the head: heads turn about it, and it is the origin of the world."""

BEYOND = (110.0, 130.0, 130.0)
"""Half axes of an ellipsoid that every head lies in, mm."""

WHITE = 0.75
"""Of white matter in T1, in the unit of `TISSUES`."""

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class TumourConfig(BaseModel):
    """How heads with tumours are generated. Lengths are mm.

    Attributes:
        images: which images a case has, in this order.
        spacing: voxel size.
        field_mm: extent of the scan along x, y and z. A head in any pose fits into a cube of 210, with skull 300.
        skull: whether the scan shows the whole head; otherwise all but the brain is exactly 0.
        pose_deg: largest rotation about a random axis.
        radius_mm: least and largest radius of a tumour; each volume between is equally likely.
        second: probability of a second, smaller tumour.
        solid: probability of a tumour without an enhancing part.
        mimics: probability of each kind of white matter that is as bright as oedema and no tumour.
        sheet_mm: least and largest half thickness of the largest kind, the sheets beside the basal nuclei.
        texture: deviation of the variation within a tissue, as a fraction.
        bias: deviation of the logarithm of the shading across the head.
        noise: least and largest deviation of the noise, as a fraction of the brightness of white matter in T1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Annotated[tuple[Image, ...], Field(min_length=1)] = IMAGES
    spacing: float = Field(default=2.0, ge=0.5, le=6)
    field_mm: tuple[float, float, float] = (176.0, 208.0, 184.0)
    skull: bool = False
    pose_deg: float = Field(default=8.0, ge=0, le=180)
    radius_mm: tuple[float, float] = (12.0, 26.0)
    second: Share = 0.2
    solid: Share = 0.25
    mimics: Share = 0.8
    sheet_mm: tuple[float, float] = (2.5, 5.0)
    texture: NotNegative = 0.05
    bias: NotNegative = 0.1
    noise: tuple[float, float] = (0.01, 0.04)

    @field_validator("images")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"an image is given twice: {', '.join(value)}")
        return value

    @field_validator("field_mm")
    @classmethod
    def _large_enough(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not 60 <= min(value) <= max(value) <= 400:
            raise ValueError(f"needs 60 to 400 mm along each axis, got {list(value)}")
        return value

    @field_validator("radius_mm")
    @classmethod
    def _possible(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 8 <= value[0] <= value[1] <= 40:
            raise ValueError(f"needs a least and a largest radius between 8 and 40 mm, got {list(value)}")
        return value

    @field_validator("sheet_mm", "noise")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError(f"needs a least and a largest value of at least 0, got {list(value)}")
        return value

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis: even, so that the middle of the brain lies between voxels."""
        x, y, z = (2 * round(extent / self.spacing / 2) for extent in self.field_mm)
        return x, y, z


@dataclass(frozen=True, eq=False)
class GeneratedCase:
    """One generated case.

    Attributes:
        images: by name, each float32 [X, Y, Z] in RAS+ axes, positive within the head and exactly 0 outside.
        labels: ids as in BraTS 2020, uint8 [X, Y, Z].
        geometry: of all of them.
    """

    images: dict[str, NDArray[np.float32]]
    labels: NDArray[np.uint8]
    geometry: Geometry


class TumourHead:
    """A head with tumours, to be scanned in any pose.

    Args:
        config: how it is generated.
        seed: a whole number or several, not negative; decides everything.
    """

    def __init__(self, config: TumourConfig, seed: int | tuple[int, ...]) -> None:
        self.config = config
        self._state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        random = torch.Generator().manual_seed(self._state)
        self._pose = rotation_matrix(random, config.pose_deg)
        self._head = Head(random, config.mimics, config.sheet_mm)
        self._lesions = draw_lesions(random, self._head, config.radius_mm, config.second, config.solid)
        self._texture = NoiseField(random, len(config.images), 6.0)
        self._shading = NoiseField(random, len(config.images), 120.0)

    def scan(self, rotation: NDArray[np.floating] | None = None) -> GeneratedCase:
        """Scan the head.

        Args:
            rotation: by which it is turned further about the middle of the field of view, [3, 3]. Nothing else changes
                but the noise, which does not turn with the head.

        Returns:
            The case: for the same rotation the same one, to the bit on the same machine.

        Raises:
            ValueError: if `rotation` is no rotation.
        """
        turn = np.eye(3) if rotation is None else np.asarray(rotation, dtype=np.float64)
        if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) or np.linalg.det(turn) < 0:
            raise ValueError("rotation has to be a proper rotation matrix, 3 x 3")
        config = self.config
        # Rows are positions: a head turned by R shows at p what the upright one has at R^T p.
        points = _positions(config) @ torch.from_numpy(turn).float() @ self._pose + torch.tensor(CENTRE)
        near = (points / torch.tensor(BEYOND)).norm(dim=1) < 1
        inside, images, labels = self._look(points[near])
        near[near.clone()] = inside
        noise = torch.Generator().manual_seed(self._state ^ 0x5EED)
        strength = WHITE * uniform(noise, *config.noise)
        volumes: dict[str, NDArray[np.float32]] = {}
        for name, image in zip(config.images, images, strict=True):
            real, imaginary = strength * torch.randn((2, *config.shape), generator=noise).view(2, -1)[:, near]
            gain = 10 ** uniform(noise, 2.2, 3.0)  # MR has no unit
            volume = torch.zeros(near.numel())
            volume[near] = gain * ((image + real).square() + imaginary.square()).sqrt().clamp_min(1e-4)
            volumes[name] = volume.view(config.shape).numpy()
        label_volume = torch.zeros(near.numel(), dtype=torch.uint8)
        label_volume[near] = labels
        return GeneratedCase(volumes, label_volume.view(config.shape).numpy(), _geometry(config))

    def _look(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What lies at points [N, 3]: whether it belongs to the head, and images [M, n] and labels [n] of what does."""
        config = self.config
        before = points
        for lesion in self._lesions:
            before = lesion.before(before)
        at = self._head.bend(before)
        parts = self._head.anatomy(at)
        canvas = self._head.canvas([IMAGES.index(name) for name in config.images], len(points), config.spacing)
        self._head.paint(canvas, at, parts)
        labels = torch.zeros(len(points), dtype=torch.uint8)
        for lesion in self._lesions:
            regions = lesion.regions(points, parts)
            lesion.paint(canvas, regions)
            labels[regions.whole > 0] = OEDEMA
            labels[regions.core > 0] = ENHANCING if lesion.enhancing else CORE
            labels[regions.necrosis > 0] = CORE
        inside = parts.brain > 0
        if config.skull:
            inside = self._head.paint_outside(canvas, at, parts) > 0
        shown = points[inside]
        texture = (1 + config.texture * self._texture(shown)).clamp_min(0.1)
        shading = (config.bias * self._shading(shown)).exp()
        return inside, canvas.images[:, inside] * texture * shading, labels[inside]


def generate_case(config: TumourConfig, seed: int | tuple[int, ...]) -> GeneratedCase:
    """An upright case, give or take `pose_deg`: ``TumourHead(config, seed).scan()``."""
    return TumourHead(config, seed).scan()


def _positions(config: TumourConfig) -> Tensor:
    """Where each voxel lies, mm from the middle of the field of view, [X * Y * Z, 3] in the order of the array."""
    axes = [(torch.arange(n) - (n - 1) / 2) * config.spacing for n in config.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


def _geometry(config: TumourConfig) -> Geometry:
    affine = np.diag([config.spacing] * 3 + [1.0])
    affine[:3, 3] = [-config.spacing * (n - 1) / 2 for n in config.shape]
    return Geometry(config.shape, affine)


def write_case(folder: Path, case: GeneratedCase) -> None:
    """Write a case as BraTS 2020 has it: NAME/NAME_flair.nii.gz, ..., NAME/NAME_seg.nii.gz, all or none.

    Args:
        folder: of the case; its last part is the name. Made if need be; files of the same names are replaced.
        case: what to write.

    Raises:
        UserError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [*case.images, "seg"]
    affine = case.geometry.affine
    with staged(*(folder / f"{folder.name}_{name}.nii.gz" for name in names)) as paths:
        for path, data in zip(paths, case.images.values(), strict=False):
            image = nib.Nifti1Image(np.rint(data.clip(0, 32767)).astype(np.int16), affine)
            image.header.set_xyzt_units("mm")
            image.set_qform(affine, 1)
            image.set_sform(affine, 1)
            nib.save(image, path)
        scan = Volume(paths[0], data, case.geometry, image.header, case.geometry.shape)
        write_segmentation(paths[-1], case.labels, TABLE, scan, description="voxseg synthesize tumours")
