"""A trained model: what is in its folder, checked and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from voxseg.data.field_kinds import FieldTarget
from voxseg.data.labels import LabelTable, unsided
from voxseg.data.preparation import PreparationConfig
from voxseg.data.sides import SideClasses
from voxseg.errors import UserError
from voxseg.inference.locate import locate_model
from voxseg.networks import NetworkConfig, build_network
from voxseg.provenance import file_hash

__all__ = [
    "Model",
    "ModelConfig",
    "OutputConfig",
    "PaintedRegion",
    "PostprocessingConfig",
    "load_model",
    "read_model_config",
]


class PostprocessingConfig(BaseModel):
    """The `postprocessing` block: from what the network says to the segmentation.

    Attributes:
        largest_component: whether only the largest connected piece of all structures together is kept, which is right
            for one brain and wrong for scattered lesions.
        sides: whether structures that the network knows with both sides as one are told apart afterwards, by where the
            structures of the brain lie (`voxseg.inference.sides`). The table then lists the right ones last.
        least_quality: quality of a scan (`Segmentation.quality`) below which `predict` warns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    largest_component: bool = True
    sides: bool = False
    least_quality: Annotated[float, Field(ge=0, le=1)] = 0.0


class PaintedRegion(BaseModel):
    """One output of a network whose outputs overlap.

    Attributes:
        name: for people.
        label: the id that voxels in the region get, unless a later region covers them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    label: Annotated[int, Field(ge=1)]


class OutputConfig(BaseModel):
    """The `output` block: what the channels of the network mean.

    Attributes:
        regions: one for each channel, which is a logit of its own; painted in this order. Without any, the channels
            are the background and the labels of the table, and exclude each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    regions: tuple[PaintedRegion, ...] = ()


class ModelConfig(BaseModel):
    """A model's `config.yaml`; blocks not listed here (how it was trained) are not needed to run it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal[1]
    name: str
    description: str = ""
    licence: str = ""
    network: NetworkConfig
    preparation: PreparationConfig
    output: OutputConfig = OutputConfig()
    targets: FieldTarget | None = None
    postprocessing: PostprocessingConfig = PostprocessingConfig()

    def origin(self, sha256: str | None) -> dict[str, str | None]:
        """What records of provenance say of the model with weights of this hash."""
        return {"name": self.name, "sha256": sha256, "licence": self.licence or None}


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory.

    Attributes:
        config: its `config.yaml`.
        table: its label table; the network's class k is row k - 1, class 0 the background.
        network: `[1, C, X, Y, Z]` to logits `[1, K, X, Y, Z]`, in evaluation mode. C are the images of
            `preparation.images` in their order; K the background and the labels, or the regions of `output`.
        sha256: of the file of its weights; None if it was built in memory.
    """

    config: ModelConfig
    table: LabelTable
    network: nn.Module
    sha256: str | None = None

    @property
    def sides(self) -> SideClasses | None:
        """How structures and side make the classes of the table; None if sides are not told apart afterwards."""
        return SideClasses.of(self.table) if self.config.postprocessing.sides else None

    @property
    def structures(self) -> LabelTable:
        """What the channels of the network stand for, without the background: the table, or its structures."""
        return self.table if self.sides is None else LabelTable(list(self.table)[: self.sides.channels - 1])

    @property
    def origin(self) -> dict[str, str | None]:
        """What records of provenance say of it."""
        return self.config.origin(self.sha256)

    @property
    def channels(self) -> list[str]:
        """Names of what the network tells the probability of: the background and the structures, or the regions."""
        if self.config.output.regions:
            return [region.name for region in self.config.output.regions]
        if self.sides is None:
            return ["background", *self.table.names]
        partners = {label.id: self.table.by_id(label.partner) for label in self.table if label.partner}
        return [
            "background",
            *(unsided(k, partners[k.id]) if k.id in partners else k.name for k in self.structures),
        ]


@dataclass(frozen=True, eq=False)
class FieldModel:
    """A model in memory that predicts a field.

    Attributes:
        config: its `config.yaml`.
        target: what it predicts.
        network: `[1, C, X, Y, Z]` to fields `[1, K, X, Y, Z]` in the axes of the grid, in evaluation mode.
        sha256: of the file of its weights; None if it was built in memory.
    """

    config: ModelConfig
    target: FieldTarget
    network: nn.Module
    sha256: str | None = None

    @property
    def origin(self) -> dict[str, str | None]:
        """What records of provenance say of it."""
        return self.config.origin(self.sha256)


def load_field_model(model: str | Path, allow_import: bool = False) -> FieldModel:
    """Read a model that predicts a field from its folder, as `load_model` reads one of labels.

    Raises:
        UserError: as `load_model`, or it predicts labels.
    """
    folder = locate_model(model)
    config = read_model_config(folder / "config.yaml")
    if config.targets is None:
        raise UserError(folder, "predicts labels and no field", "give a model that was trained with targets")
    if config.network.out_channels != config.targets.field.channels:
        problem = f"has a network of {config.network.out_channels} outputs for targets {config.targets.field}"
        raise UserError(folder / "config.yaml", problem, "copy the model folder again")
    network, sha256 = _load_network(folder, config, allow_import)
    return FieldModel(config, config.targets, network, sha256)


def load_model(model: str | Path, allow_import: bool = False) -> Model:
    """Read a model by its packaged name or from its folder; its network is folded for inference, on the CPU.

    Only safetensors are read: no pickled code is ever run.

    Args:
        model: as `locate_model` takes it.
        allow_import: whether a network may be imported that is not voxseg's. That runs code which the folder chooses,
            so that the folder has to be trusted.

    Raises:
        UserError: if there is no such model, or its files are damaged or do not belong together.
    """
    folder = locate_model(model)
    config = read_model_config(folder / "config.yaml")
    if config.targets is not None:
        problem = f"predicts {config.targets.describe()}, and no labels"
        raise UserError(folder, problem, "run it with 'voxseg predict', or give a model of labels")
    table = LabelTable.read(folder / "labels.csv")
    _check_agreement(folder, config, table)
    network, sha256 = _load_network(folder, config, allow_import)
    return Model(config, table, network, sha256)


def _load_network(folder: Path, config: ModelConfig, allow_import: bool) -> tuple[nn.Module, str]:
    """The network of a model, folded for inference, and the hash of its weights."""
    if config.network.foreign and not allow_import:
        problem = f"the network {config.network.architecture} would be imported, which runs code that is not voxseg's"
        remedy = "if you trust this folder, give --allow-import (in Python: allow_import=True)"
        raise UserError(folder / "config.yaml", problem, remedy)
    network = build_network(config.network)
    weights = folder / "model.safetensors"
    try:
        network.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise UserError(weights, f"is no safetensors file ({error})", "copy the model folder again") from error
    except RuntimeError as error:
        problem = "does not hold the weights of the network in config.yaml"
        raise UserError(weights, problem, "copy the model folder again") from error
    return network.fold(), file_hash(weights)


def _check_agreement(folder: Path, config: ModelConfig, table: LabelTable) -> None:
    """Refuse a config whose parts, or whose label table, do not belong together."""
    channels, regions, images = config.network.out_channels, config.output.regions, config.preparation.images
    remedy = "give the table that the model was trained with"
    if config.postprocessing.sides:
        try:
            fitting = not regions and channels == SideClasses.of(table).channels
        except ValueError:
            fitting = False
        if not fitting:
            problem = f"does not list {channels - 1} structures and then the right side of those that have two"
            raise UserError(folder / "labels.csv", problem, remedy)
    elif not regions and channels != len(table) + 1:
        problem = f"has {len(table)} labels for a network of {channels} classes (background included)"
        raise UserError(folder / "labels.csv", problem, remedy)
    for region in regions:
        if region.label not in table.ids:
            problem = f"lacks the label {region.label} of the region '{region.name}'"
            raise UserError(folder / "labels.csv", problem, remedy)
    if regions and channels != len(regions):
        problem = f"has {len(regions)} regions for a network of {channels} outputs"
        raise UserError(folder / "config.yaml", problem, "copy the model folder again")
    if config.network.in_channels != len(images):
        problem = f"the network takes {config.network.in_channels} images, preparation has {', '.join(images)}"
        raise UserError(folder / "config.yaml", problem, "copy the model folder again")


def read_model_config(path: Path) -> ModelConfig:
    """Read and check a model's `config.yaml`.

    Raises:
        UserError: if it is none.
    """
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelConfig.model_validate(contents)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(path, f"is not valid YAML ({reason})", "copy the model folder again") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        problem = f"{key}: {first['msg'].lower()}"
        raise UserError(path, problem, "use a model that was written by this version of voxseg") from error
