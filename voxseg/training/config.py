"""The keys of a training run's YAML file, with their defaults and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from voxseg.data.labels import LabelScheme
from voxseg.data.synthesis import GeneratorConfig
from voxseg.networks import NetworkConfig
from voxseg.training.config_errors import explain
from voxseg.training.config_file import assign, read_yaml, split_override

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataConfig(_Block):
    """Where the training data lie; `voxseg train --data` sets it.

    Attributes:
        label_maps: folder of label maps from which scans are generated. Relative to the working directory.
    """

    label_maps: Path | None = None


class OptimiserConfig(_Block):
    """AdamW.

    Attributes:
        learning_rate: at its highest, after the warm-up.
        betas: decay of the running mean and mean square of the gradient.
        weight_decay: share of the learning rate by which every weight shrinks a step.
        clip: largest norm of the gradient over all weights.
    """

    learning_rate: Positive = 1e-2
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    weight_decay: NotNegative = 1e-4
    clip: Positive = 1.0


class ScheduleConfig(_Block):
    """Linear warm-up, then half a cosine over the rest of the steps.

    Attributes:
        warmup: steps of the warm-up.
        final_learning_rate: the rate of the last step.
    """

    warmup: Annotated[int, Field(ge=0)] = 100
    final_learning_rate: NotNegative = 1e-5


class LossConfig(_Block):
    """Soft Dice plus cross-entropy.

    Attributes:
        deep_supervision: weight of each output of the network, finest first; one number trains the finest only.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
        smoothing: voxels of the finest grid added to both sides of the Dice fraction.
    """

    deep_supervision: Annotated[list[Positive], Field(min_length=1)] = [1.0, 0.4, 0.16]
    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 1.0
    smoothing: Positive = 5.0


class AveragingConfig(_Block):
    """Averaged weights, which validation and the finished model use.

    Attributes:
        decay: the longest memory: 0.995 averages over about 200 steps. Early steps are averaged evenly.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995


class ValidationConfig(_Block):
    """Dice of the averaged weights on generated windows that are the same all through the run.

    Attributes:
        every: steps between two validations.
        windows: how many windows.
        seed: which windows; they are never those of the training.
    """

    every: Count = 250
    windows: Count = 8
    seed: Annotated[int, Field(ge=0)] = 0


class CheckpointConfig(_Block):
    """How often the run is saved, whichever comes first; always at the end and when it is told to stop.

    Attributes:
        steps: steps between two checkpoints.
        minutes: time between two checkpoints.
    """

    steps: Count = 250
    minutes: Positive = 10.0


class TrainingConfig(_Block):
    """A whole training run.

    Attributes:
        name: of the model, and of the run folder if none is given.
        description: one line for the model card.
        licence: of the trained weights, for the model card.
        seed: of the initial weights and of all samples.
        steps: optimiser steps in the whole run. May be raised for a run that is resumed.
        batch: samples a step.
        precision: of the network's arithmetic; weights, loss and optimiser stay float32.
        log_every: steps between two lines of progress where there is no terminal to draw a bar on.
        data: where the label maps lie.
        labels: the structures predicted.
        generator: how scans are generated.
        network: the architecture. `out_channels` follows from `labels`, `spacing` from `generator`.
        optimiser: AdamW.
        schedule: of the learning rate.
        loss: soft Dice plus cross-entropy.
        averaging: of the weights.
        validation: what is measured during the run.
        checkpoint: how often the run is saved.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    licence: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Count
    batch: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: Count = 50
    data: DataConfig = DataConfig()
    labels: LabelScheme
    generator: GeneratorConfig = GeneratorConfig()
    network: NetworkConfig
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    averaging: AveragingConfig = AveragingConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fills in what the labels and the generator decide about the network, so that a config says it once."""
        if not isinstance(values, dict) or not isinstance(values.get("network", {}), dict):
            return values
        labels, generator = values.get("labels"), values.get("generator", {})
        network = dict(values.get("network", {}))
        if isinstance(labels, dict) and isinstance(labels.get("classes"), list):
            network.setdefault("out_channels", len(labels["classes"]) + 1)
        if isinstance(generator, dict):
            spacing = generator.get("spacing", GeneratorConfig.model_fields["spacing"].default)
            network.setdefault("spacing", spacing)
        return {**values, "network": network}

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        outputs = len(self.labels.classes) + 1
        if self.network.out_channels != outputs:
            raise ValueError(
                f"network.out_channels is {self.network.out_channels}, but labels.classes makes it {outputs}"
            )
        if self.network.spacing != self.generator.spacing:
            raise ValueError(
                f"network.spacing is {self.network.spacing}, but generator.spacing is {self.generator.spacing}"
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Reads a config file.

    Args:
        path: a YAML file.
        overrides: `key=value` with a dotted key and a YAML value, such as `optimiser.learning_rate=0.003`.

    Raises:
        UserError: the file cannot be read, is not YAML, or has an unknown or wrong key; the message names it.
    """
    values = read_yaml(path)
    given = [split_override(override) for override in overrides]
    for key, value in given:
        assign(values, key, value)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise explain(TrainingConfig, error, path.name, [key for key, _ in given]) from None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two configs, with both values."""
    changes: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes.update(changed_keys(before, after, f"{prefix}{key}."))
        elif before != after:
            changes[f"{prefix}{key}"] = (before, after)
    return changes
