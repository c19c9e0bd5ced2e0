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

from voxseg.data.labels import LabelTable
from voxseg.errors import UserError
from voxseg.inference.locate import locate_model
from voxseg.networks import NetworkConfig, build_network

__all__ = ["Model", "ModelConfig", "PostprocessingConfig", "PreparationConfig", "load_model"]


class PreparationConfig(BaseModel):
    """The `preparation` block: from a scan to what the network sees.

    Attributes:
        spacing: mm of the isotropic working grid, the one that the network was trained on.
        crop: whether only the box around the head is segmented (`prepare.head_grid`), or the whole volume.
        margin: mm of that box around the head, at least.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing: Annotated[float, Field(gt=0)]
    crop: bool = True
    margin: Annotated[float, Field(ge=0)] = 8.0


class PostprocessingConfig(BaseModel):
    """The `postprocessing` block: from what the network says to the segmentation.

    Attributes:
        largest_component: whether only the largest connected piece of all structures together is kept, which is right
            for one brain and wrong for scattered lesions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    largest_component: bool = True


class ModelConfig(BaseModel):
    """A model's `config.yaml`; blocks not listed here (how it was trained) are not needed to run it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal[1]
    name: str
    description: str = ""
    network: NetworkConfig
    preparation: PreparationConfig
    postprocessing: PostprocessingConfig = PostprocessingConfig()


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory.

    Attributes:
        config: its `config.yaml`.
        table: its label table; the network's class k is row k - 1, class 0 the background.
        network: `[1, C, X, Y, Z]` to logits `[1, len(table) + 1, X, Y, Z]`, folded for inference, on the CPU.
    """

    config: ModelConfig
    table: LabelTable
    network: nn.Module


def load_model(model: str | Path) -> Model:
    """Read a model by its packaged name or from its folder.

    Only safetensors are read: no pickled code is ever run.

    Raises:
        UserError: if there is no such model, or its files are damaged or do not belong together.
    """
    folder = locate_model(model)
    config = _read_config(folder / "config.yaml")
    table = LabelTable.read(folder / "labels.csv")
    classes = config.network.out_channels
    if classes != len(table) + 1:
        problem = f"has {len(table)} labels for a network of {classes} classes (background included)"
        raise UserError(folder / "labels.csv", problem, "give the table that the model was trained with")
    if config.network.in_channels != 1:
        problem = f"the model wants {config.network.in_channels} images of a person at once"
        raise UserError(folder / "config.yaml", problem, "give a model for single scans")
    network = build_network(config.network)
    weights = folder / "model.safetensors"
    try:
        network.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise UserError(weights, f"is no safetensors file ({error})", "copy the model folder again") from error
    except RuntimeError as error:
        problem = "does not hold the weights of the network in config.yaml"
        raise UserError(weights, problem, "copy the model folder again") from error
    return Model(config, table, network.fold())


def _read_config(path: Path) -> ModelConfig:
    """Read and check a model's `config.yaml`."""
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
