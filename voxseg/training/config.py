"""The keys of a training run's YAML file, with their defaults and limits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from voxseg.data.config import AugmentationConfig, DatasetConfig, WindowConfig
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.preparation import PreparationConfig
from voxseg.data.synthesis import GeneratorConfig
from voxseg.errors import UserError
from voxseg.inference.model import PostprocessingConfig
from voxseg.networks import HOSTED, NetworkConfig
from voxseg.training.config_errors import explain
from voxseg.training.config_file import assign, read_yaml, split_override, with_network

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")


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
    """Linear warm-up, then a decay over the rest of the steps.

    Attributes:
        decay: "cosine": half a cosine; "polynomial": the power 0.9 of what is left, as nnU-Net has it.
        warmup: steps of the warm-up.
        final_learning_rate: the rate of the last step.
    """

    decay: Literal["cosine", "polynomial"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 100
    final_learning_rate: NotNegative = 1e-5


KNOWN = LabelScheme.model_validate({"classes": [1], "table": [{"id": 1, "name": "known"}]})
"""In the place of labels where a field is learned: the voxels where it is known."""


class LossConfig(_Block):
    """Soft Dice plus cross-entropy; of fields the squared length of the error.

    Attributes:
        deep_supervision: weight of each output of the network, finest first; one number trains the finest only.
        huber: of fields: length of the error, in units of `targets.scale`, from which it counts in proportion and no
            longer squared, so that outliers weigh less; null squares all.
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy term.
        smoothing: voxels of the finest grid added to both sides of the Dice fraction.
    """

    deep_supervision: Annotated[list[Positive], Field(min_length=1)] = [1.0, 0.4, 0.16]
    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 1.0
    smoothing: Positive = 5.0
    huber: Positive | None = None


class AveragingConfig(_Block):
    """Averaged weights, which validation and the finished model use.

    Attributes:
        decay: the longest memory: 0.995 averages over about 200 steps. Early steps are averaged evenly.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995


class ValidationConfig(_Block):
    """Dice of the averaged weights, upright and turned, on what is never trained on.

    Generated scans: windows that are the same all through the run. A data set: whole cases of the fold in their own
    grids, as `voxseg predict` would segment them.

    Attributes:
        every: steps between two validations.
        windows: how many generated windows.
        cases: how many cases of the fold, spread evenly over it; all of them if it is null.
        seed: which windows; they are never those of the training.
        turned_deg: angle of the turned pose, about an odd axis; 0 leaves it out.
        patience: validations without a better mean Dice after which the run ends; null goes on to the last step.
    """

    every: Count = 250
    windows: Count = 8
    cases: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    turned_deg: Annotated[float, Field(ge=0, le=180)] = 40.0
    patience: Count | None = None


class CheckpointConfig(_Block):
    """How often the run is saved, whichever comes first; always at the end and when it is told to stop.

    Attributes:
        steps: steps between two checkpoints.
        minutes: time between two checkpoints.
    """

    steps: Count = 250
    minutes: Positive = 10.0


class TrainingConfig(_Block):
    """A whole training run, on scans generated from label maps (`generator`) or on a data set (`dataset`).

    Attributes:
        name: of the model, and of the run folder if none is given.
        description: one line for the model card.
        licence: of the trained weights, for the model card.
        seed: of the initial weights, of all samples and of the division into folds.
        steps: optimiser steps in the whole run. May be raised for a run that is resumed.
        batch: samples a step and process.
        accumulate: parts that the batch is computed in, one after the other, to save memory.
        precision: of the network's arithmetic; weights, loss and optimiser stay float32.
        compile: whether `torch.compile` translates the network first, for networks by import path. Steerable
            convolutions, norms and gates stay as they are, so that `configs/brain.yaml` gains nothing (1.1 times the
            time on one core, 48³ window) after minutes of compiling.
        log_every: steps between two lines of progress where there is no terminal to draw a bar on.
        data: folder of the label maps or of the data set; `voxseg train --data` sets it.
        initial_weights: a packaged model's name, the folder of a model or run, or a file of weights: every tensor of it
            that has the name and shape of one of the network's is what the run starts from, or all of them if the
            network is that of the model with more fields (`voxseg.training.widening`). A resumed run goes on with its
            own.
        generator: how scans are generated from label maps.
        dataset: how the cases of a data set are found and divided.
        preparation: from scans to what the network sees.
        windows: what is cut from a case of a data set.
        augmentation: of those windows.
        postprocessing: from what the network says to the segmentation.
        labels: the structures predicted.
        targets: the field that is learned in the place of labels.
        network: the architecture. `in_channels`, `out_channels` and `spacing` follow from the blocks above.
        optimiser: AdamW.
        schedule: of the learning rate.
        loss: soft Dice plus cross-entropy.
        averaging: of the weights.
        validation: what is measured during the run.
        checkpoint: how often the run is saved.
        loggers: where metrics go besides `metrics.csv` and TensorBoard.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    licence: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    steps: Count
    batch: Count = 1
    accumulate: Count = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    log_every: Count = 50
    data: Path | None = None
    initial_weights: Annotated[str, Field(min_length=1)] | None = None
    generator: GeneratorConfig | None = None
    dataset: DatasetConfig | None = None
    preparation: PreparationConfig
    windows: WindowConfig = WindowConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    labels: LabelScheme
    targets: FieldTarget | None = None
    network: NetworkConfig
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    averaging: AveragingConfig = AveragingConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    loggers: tuple[Literal["mlflow"], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fills in what one block decides about another, so that a config says it once."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        generator, preparation = values.get("generator"), values.get("preparation")
        if preparation is None and values.get("dataset") is None:
            given = generator if isinstance(generator, dict) else {}
            spacing = given.get("spacing", GeneratorConfig.model_fields["spacing"].default)
            values["preparation"] = preparation = {"spacing": spacing}
        network = values.get("network", {})
        if values.get("targets") is not None:
            _derive_for_targets(values)
            network = values.get("network", {})
        if isinstance(network, dict):
            values["network"] = network = dict(network)
            with contextlib.suppress(ValidationError):  # told later, with the key
                network.setdefault("out_channels", LabelScheme.model_validate(values.get("labels")).channels)
            if isinstance(preparation, dict):
                if "spacing" in preparation:
                    network.setdefault("spacing", preparation["spacing"])
                if isinstance(preparation.get("images"), dict):
                    network.setdefault("in_channels", len(preparation["images"]))
            name = str(network.get("architecture", ""))
            if (":" in name or name in HOSTED) and isinstance(values.get("loss", {}), dict):
                # How many outputs a network from elsewhere has is its own affair; the first is always there.
                values["loss"] = {"deep_supervision": [1.0], **values.get("loss", {})}
        return values

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        network, preparation, generator = self.network, self.preparation, self.generator
        if (generator is None) == (self.dataset is None):
            raise ValueError("needs one of the blocks generator (scans from label maps) and dataset, and not both")
        if self.targets is not None:
            self._agree_on_targets(self.targets)
        elif network.output is not None:
            raise ValueError("network.output is for targets, and there is no such block")
        channels, block = self.labels.channels, "labels"
        if self.targets is not None:
            channels, block = self.targets.field.channels, "targets"
        expected = [
            ("out_channels", network.out_channels, channels, block),
            ("in_channels", network.in_channels, len(preparation.images), "preparation.images"),
            ("spacing", network.spacing, preparation.spacing, "preparation.spacing"),
        ]
        for key, given, derived, source in expected:
            if given != derived:
                raise ValueError(f"network.{key} is {given}, but {source} makes it {derived}")
        if generator is not None and generator.spacing != preparation.spacing:
            raise ValueError(f"preparation.spacing is {preparation.spacing}, but generator.spacing {generator.spacing}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}, which does not divide the batch of {self.batch}")
        return self

    def _agree_on_targets(self, targets: FieldTarget) -> None:
        if self.generator is not None:
            raise ValueError("generated scans have labels and no targets: give a dataset")
        if self.labels != KNOWN:
            raise ValueError("labels and targets exclude each other: a network learns one of them")
        if self.augmentation.scale:
            raise ValueError("augmentation.scale has to be 0 with targets: a stretched patient has another field")
        if self.augmentation.transforms:
            raise ValueError("augmentation.transforms cannot be used with targets, which have to turn with the image")
        wanted = None if self.network.foreign else targets.output(self.network.group)
        if self.network.output != wanted:
            raise ValueError(f"network.output is {self.network.output}, but targets makes it {wanted}")


def _derive_for_targets(values: dict[str, Any]) -> None:
    """What `targets` decides about the other blocks of a raw config."""
    values.setdefault("labels", KNOWN.model_dump(mode="json"))
    augmentation = values.get("augmentation") or {}
    if isinstance(augmentation, dict):
        values["augmentation"] = {"scale": 0.0, **augmentation}
    network = values.get("network", {})
    if isinstance(network, dict):
        with contextlib.suppress(ValidationError):  # told later, with the key
            target = FieldTarget.model_validate(values["targets"])
            derived: dict[str, Any] = {"out_channels": target.field.channels}
            if ":" not in str(network.get("architecture", "")):  # whose constructor knows nothing of it
                derived["output"] = target.output(str(network.get("group", "SO3")))
            values["network"] = derived | network


def load_config(
    path: Path, overrides: Sequence[str] = (), images: Sequence[str] = (), network: Path | None = None
) -> TrainingConfig:
    """Reads a config file.

    Args:
        path: a YAML file.
        overrides: `key=value` with a dotted key and a YAML value, such as `optimiser.learning_rate=0.003`.
        images: those of `preparation.images` to keep, in the order of the network's channels; all of them by default.
        network: a YAML file whose network takes the place of the config's, as `find_network` gives it.

    Raises:
        UserError: the file cannot be read, is not YAML, or has an unknown or wrong key; the message names it.
    """
    values = read_yaml(path)
    if network is not None:
        values = with_network(values, read_yaml(network))
    if images:
        _keep_images(values, images, path.name)
    given = [split_override(override) for override in overrides]
    for key, value in given:
        assign(values, key, value)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise explain(TrainingConfig, error, path.name, [key for key, _ in given]) from None


def _keep_images(values: dict[str, Any], names: Sequence[str], file: str) -> None:
    """Leaves only some of the images that a config names."""
    known = (values.get("preparation") or {}).get("images") or {}
    for name in names:
        if name not in known:
            raise UserError(f"--images {name}", "is not in preparation.images", f"{file} has {', '.join(known)}")
    values["preparation"]["images"] = {name: known[name] for name in names}


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
