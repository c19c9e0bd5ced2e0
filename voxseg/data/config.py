"""The keys of a configuration that say how the cases of a data set are found, cut into windows and augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["AugmentationConfig", "DatasetConfig", "TransformConfig", "WindowConfig"]

NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Extent = Annotated[int, Field(ge=8)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(_Block):
    """A data set of scans with labels, found in the folder of `data`.

    Attributes:
        layout: how its files lie; "auto" looks.
        patterns: for the layout "patterns": for each image by name, and for "label", the path within the folder with
            `*` in place of what tells the cases apart, such as `*/t1.nii.gz`.
        folds: parts that the subjects are divided into.
        fold: the part that is validated on and not trained on; "all" trains on every case and validates on none.
        split: a file of splits (`splits.json` of a run, or nnU-Net's) in place of a division drawn by `seed`.
        cache: folder for prepared cases; `cache` in the folder of the run by default.
        workers: processes that cut and augment windows; 0 does that in the training process.
    """

    layout: Literal["auto", "brats", "decathlon", "nnunet", "bids", "table", "patterns"] = "auto"
    patterns: dict[str, str] = Field(default_factory=dict)
    folds: Annotated[int, Field(ge=2)] = 5
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    split: Path | None = None
    cache: Path | None = None
    workers: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _agree(self) -> DatasetConfig:
        if isinstance(self.fold, int) and self.split is None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, but there are {self.folds}: give 0 to {self.folds - 1}")
        if (self.layout == "patterns") != bool(self.patterns):
            raise ValueError("layout: patterns and the key patterns go together")
        return self


class WindowConfig(_Block):
    """What is cut from a prepared case.

    Attributes:
        size: voxels along each axis, or "whole" for whole cases, each with a size of its own.
        foreground: share of windows that are centred near a voxel of a structure, each structure equally often; the
            others lie anywhere, over the edge too.
    """

    size: tuple[Extent, Extent, Extent] | Literal["whole"] = (96, 96, 96)
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.67


class TransformConfig(_Block):
    """A MONAI dictionary transform of the user's own, applied to windows after ours.

    Attributes:
        path: where it is imported from, such as `my_package.transforms:Motion`.
        arguments: of its constructor. It gets `keys` (("image",) or ("image", "label")) only if given here.
    """

    path: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    arguments: dict[str, Any] = Field(default_factory=dict)


class AugmentationConfig(_Block):
    """Random changes of windows. Each key is the largest extent, or the probability where it says so.

    Attributes:
        rotation_deg: rotation about each axis. A steerable network needs none for poses; a little keeps it from
            exploiting the grid.
        scale: stretch or shrinkage of each axis, as a fraction.
        mirror: probability of a mirror image (left and right); sides of labels are swapped with it.
        noise: deviation of Gaussian noise, in the unit of the scaled intensities.
        blur_mm: deviation of the blur.
        brightness: factor on the intensities, as a fraction.
        gamma: exponent that bends the intensity scale, as a fraction.
        bias: logarithm of the shading across the window.
        low_resolution: probability of thick slices along a random axis.
        drop_image: probability that one of several images is blank.
        probability: of each of the other changes.
        transforms: MONAI dictionary transforms of your own, in their order, on windows `image` [C, X, Y, Z] and
            `label` [1, X, Y, Z] (dense class indices).
    """

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 10.0
    scale: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    mirror: Share = 0.5
    noise: NotNegative = 0.1
    blur_mm: NotNegative = 1.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.2
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.3
    bias: NotNegative = 0.2
    low_resolution: Share = 0.1
    drop_image: Share = 0.0
    probability: Share = 0.3
    transforms: tuple[TransformConfig, ...] = ()
