"""What a network is, as a validated config that travels with its weights."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..steerable import FieldType
from .hosted import HOSTED

ARCHITECTURES = ("steerable_unet", "plain_unet")
"""The packaged networks by name."""

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class NetworkConfig(BaseModel):
    """The `network:` block of a training config and of a model's `config.yaml`.

    `levels` lists the field type of each resolution, finest first, so that its length is the depth, its multiplicities
    the widths and its degrees the degrees. The plain twin reads the same block: each of its levels has as many channels
    as the field type has components.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Annotated[str, Field(min_length=1)] = Field(
        "steerable_unet",
        description="steerable_unet, plain_unet, a baseline such as e3nn_gates, or the import path of another network, "
        "such as `monai.networks.nets:UNet`; the latter two are called with `arguments` and of the keys below read "
        "`multiple_of` alone",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="of a baseline's or another network's constructor"
    )
    multiple_of: Annotated[int, Field(ge=1)] = Field(
        1, description="voxels of each axis that another network needs a multiple of; inputs are padded"
    )
    in_channels: Annotated[int, Field(ge=1)] = 1
    out_channels: Annotated[int, Field(ge=1)] = Field(2, description="classes, background included")
    output: str | None = Field(
        None, description="field type of the output of a network that predicts a field; scalars, one a class, without"
    )
    levels: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "6x0e+3x1e+1x2e",
        "16x0e+6x1e+2x2e",
        "32x0e+12x1e+4x2e",
        "32x0e+12x1e+4x2e",
    )
    encoder_convolutions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 2, 2),
        description="convolutions of each level on the way down; from the second level on the first has stride 2",
    )
    decoder_convolutions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 1, 1), description="convolutions of each level but the last on the way up, finest first"
    )
    group: Literal["SO3", "O3"] = "SO3"
    spacing: Annotated[float, Field(gt=0)] = Field(2.0, description="mm between the voxels of the finest level")
    basis: Literal["solid_harmonic", "shells"] = "solid_harmonic"
    sigma: Annotated[float, Field(gt=0)] = Field(
        0.8, description="width of solid-harmonic kernels, in voxels of their level"
    )
    sigma_down: Annotated[float, Field(gt=0)] = Field(
        1.1, description="the same for kernels of stride 2, in voxels of the finer level"
    )
    shell_diameter: Annotated[float, Field(gt=0)] = Field(
        5.0, description="diameter of shell kernels, in voxels of their level"
    )
    shell_count: Annotated[int, Field(ge=1)] = Field(5, description="radial functions of shell kernels")
    plain_kernel: Annotated[int, Field(ge=1)] = Field(3, description="kernel width of the plain twin, in voxels")
    dense: bool = Field(
        False, description="run steerable kernels as dense convolutions, for devices where that is faster"
    )
    deep_supervision: bool = Field(True, description="logits on the coarser decoder levels too, for the loss")
    coarse_logits: bool = Field(
        False,
        description="read logits from the next coarser level too, upsampled and added to the finest: what the "
        "surroundings say of each class then need not pass through the few fields of the finest level",
    )
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    heads: dict[str, str] = Field(
        default_factory=dict,
        description="further outputs at the finest level: name and field type, such as `pose: 2x1e`",
    )

    @property
    def separable(self) -> bool:
        """Whether its convolutions are run as products of 1-D kernels, slab by slab."""
        return self.architecture == "steerable_unet" and self.basis == "solid_harmonic" and not self.dense

    @property
    def foreign(self) -> bool:
        """Whether the network is imported from elsewhere: building it runs code that is not ours."""
        return ":" in self.architecture

    @property
    def import_path(self) -> str | None:
        """Where a network that is not built of `levels` is imported from: a baseline, or one from elsewhere."""
        return self.architecture if self.foreign else HOSTED.get(self.architecture)

    @field_validator("architecture")
    @classmethod
    def _known_or_import_path(cls, name: str) -> str:
        if name in ARCHITECTURES or name in HOSTED or IMPORT_PATH.fullmatch(name):
            return name
        if ":" in name or "." in name:
            raise ValueError(f"'{name}' is no import path: write it as package.module:Class")
        nearest = difflib.get_close_matches(name, (*ARCHITECTURES, *HOSTED), n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join((*ARCHITECTURES, *HOSTED))}."
        raise ValueError(f"there is no network '{name}', {hint} Others are given as package.module:Class")

    @field_validator("levels")
    @classmethod
    def _levels_are_field_types(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        for level in levels:
            field = FieldType(level)
            if field.irreps[0].name != "0e":
                raise ValueError(f"level '{level}' has to begin with its 0e scalars")
        return levels

    @property
    def output_field(self) -> FieldType:
        """The field type of the output."""
        return FieldType(self.output or f"{self.out_channels}x0e")

    @model_validator(mode="after")
    def _lengths_fit(self) -> NetworkConfig:
        if self.output is not None and self.output_field.channels != self.out_channels:
            raise ValueError(
                f"out_channels is {self.out_channels}, but output {self.output} has {self.output_field.channels}"
            )
        if self.import_path is not None:
            return self
        if self.arguments or self.multiple_of != 1:
            key = "arguments" if self.arguments else "multiple_of"
            raise ValueError(
                f"{key} is for baselines and networks given by their import path, and {self.architecture} is none"
            )
        depth = len(self.levels)
        if len(self.encoder_convolutions) != depth:
            raise ValueError(f"encoder_convolutions has {len(self.encoder_convolutions)} entries for {depth} levels")
        if len(self.decoder_convolutions) != depth - 1:
            raise ValueError(
                f"decoder_convolutions has {len(self.decoder_convolutions)} entries for {depth} levels, "
                f"{depth - 1} are needed"
            )
        if "segmentation" in self.heads:
            raise ValueError("the head 'segmentation' is always there, choose another name")
        if self.architecture == "steerable_unet" and self.group == "SO3" and any("o" in level for level in self.levels):
            raise ValueError("group SO3 knows no parity: write only 'e' fields in levels, or choose group O3")
        return self
