"""The keys of a data-efficiency benchmark, and the training configs that follow from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from voxseg.data.tumours import TABLE, TumourConfig
from voxseg.errors import UserError
from voxseg.training.config import TrainingConfig
from voxseg.training.config_errors import explain
from voxseg.training.config_file import (
    assign,
    find_config,
    find_network,
    merged,
    packaged_baselines,
    read_yaml,
    split_override,
)

__all__ = [
    "MEAN",
    "ArmConfig",
    "DataEfficiencyConfig",
    "FitConfig",
    "PoseConfig",
    "TestConfig",
    "load_benchmark",
    "training_config",
    "with_models",
]

MEAN = "mean"
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

GENERATED: dict[str, Any] = {
    "labels": {
        "classes": TABLE.ids,
        "unlisted": "refuse",
        "table": [{"id": label.id, "name": label.name} for label in TABLE],
        "regions": [
            {"name": "whole tumour", "ids": [1, 2, 4], "label": 2},
            {"name": "tumour core", "ids": [1, 4], "label": 1},
            {"name": "enhancing tumour", "ids": [4], "label": 4},
        ],
    },
    "dataset": {"layout": "brats"},
    "postprocessing": {"largest_component": False},
}
"""Of a training on generated heads, where no `config` says otherwise; images and spacing are those of the heads."""

OURS = ("name", "seed", "data", "generator", "dataset.split", "dataset.fold", "dataset.folds", "validation.patience")
"""Keys of a training config that the benchmark sets itself."""


HOSTED_ARMS = "hosted"
"""The value of `arms` that stands for all hosted baselines."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmConfig(_Block):
    """One way to train.

    Attributes:
        name: of its folder and in tables.
        title: in the picture; the name if it is empty.
        architecture: of the network; by default that of the training config.
        training: keys of the training config that this arm alone has.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    architecture: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """For people."""
        return self.title or self.name


class PoseConfig(_Block):
    """A turned pose.

    Attributes:
        axis: that the patient is turned about, in world space (x to the right, y to the front, z up).
        degrees: by how much.
    """

    axis: tuple[float, float, float]
    degrees: Annotated[float, Field(ge=-360, le=360)]

    @property
    def name(self) -> str:
        """Such as "45 about (0, 0, 1)"."""
        return f"{self.degrees:g} about ({', '.join(f'{value:g}' for value in self.axis)})"

    @field_validator("axis")
    @classmethod
    def _some_axis(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not any(value):
            raise ValueError("the axis has no direction: [0, 0, 0]")
        return value


class TestConfig(_Block):
    """What every run is tested on.

    Attributes:
        cases: how many cases are held out; of a data set at least as many, all scans of a subject together.
        seed: which ones.
        poses: turned poses; the score of the turned poses is the mean over them.
        upright_deg: turn of the upright pose about an odd axis. Scans of a data set are turned by interpolation, which
            costs some Dice by itself; a small turn here costs as much, so that the poses compare. By default 2 for a
            data set, and 0 for generated heads, which are made anew in each pose.
    """

    __test__ = False  # no test of pytest's, whatever its name

    cases: Count = 6
    seed: Seed = 0
    poses: Annotated[tuple[PoseConfig, ...], Field(min_length=1)] = (
        PoseConfig(axis=(0, 0, 1), degrees=45),
        PoseConfig(axis=(0, 1, 0), degrees=90),
        PoseConfig(axis=(1, 0, 0), degrees=135),
        PoseConfig(axis=(1, 2, 3), degrees=180),
    )
    upright_deg: Annotated[float, Field(ge=0, le=15)] | None = None

    @field_validator("poses")
    @classmethod
    def _each_once(cls, value: tuple[PoseConfig, ...]) -> tuple[PoseConfig, ...]:
        if len({pose.name for pose in value}) != len(value):
            raise ValueError("a pose is given twice")
        return value


class FitConfig(_Block):
    """The learning curves.

    Attributes:
        score: whose error is fitted: a structure by name, or the mean over all.
        draws: of the bootstrap.
        level: of the intervals.
        seed: of the draws.
    """

    score: str = MEAN
    draws: Annotated[int, Field(ge=100)] = 1000
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 0


class DataEfficiencyConfig(_Block):
    """A benchmark.

    Attributes:
        name: for the picture.
        sizes: numbers of cases to train on.
        seeds: each decides, with the size, which cases these are, and all random numbers of the training. Every arm
            gets the same cases.
        arms: the ways to train that are compared; `hosted` in a file stands for `hosted_arms`.
        data: folder of a data set; null: generated heads.
        heads: how heads are generated.
        pool: how many heads are generated to draw training cases from.
        config: training config that `training` changes, by name or file, for a data set; null for generated heads:
            the defaults of a training, and the three regions of their tumours.
        images: those of the config to keep; null: all of them.
        training: keys of the training config, for all arms.
        test: what is tested.
        fit: the learning curves.
        keep_checkpoints: whether finished runs keep their checkpoints, which are larger than their models.
    """

    name: str = "data efficiency"
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1)
    arms: Annotated[tuple[ArmConfig, ...], Field(min_length=1)]
    data: Path | None = None
    heads: TumourConfig = TumourConfig()
    pool: Count = 32
    config: str | None = None
    images: tuple[str, ...] | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    test: TestConfig = TestConfig()
    fit: FitConfig = FitConfig()
    keep_checkpoints: bool = False

    @field_validator("sizes", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a number is given twice: {list(value)}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> DataEfficiencyConfig:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"two arms have the same name: {', '.join(names)}")
        if self.data is not None and self.config is None:
            raise ValueError("a data set (data) needs a training config (config), such as brats2020 or a file")
        if self.data is None and self.config is not None:
            raise ValueError("config is for a data set, and there is none: give its folder with --data (key data)")
        if self.data is None and self.pool < max(self.sizes):
            raise ValueError(f"pool is {self.pool}, but {max(self.sizes)} cases are to be trained on: raise it")
        return self

    @property
    def upright_deg(self) -> float:
        """`test.upright_deg` with its default."""
        given = self.test.upright_deg
        return given if given is not None else (2.0 if self.data is not None else 0.0)


def load_benchmark(path: Path, overrides: Sequence[str] = ()) -> DataEfficiencyConfig:
    """Reads the config of a benchmark, and checks the training configs that follow from it.

    Args:
        path: a YAML file.
        overrides: `key=value` with a dotted key and a YAML value, such as `training.steps=500`.

    Raises:
        UserError: the file cannot be read, is not YAML, or has an unknown or wrong key; the message names it.
    """
    values = read_yaml(path)
    given = [split_override(override) for override in overrides]
    for key, value in given:
        assign(values, key, value)
    if values.get("arms") == HOSTED_ARMS:
        values["arms"] = hosted_arms()
    try:
        config = DataEfficiencyConfig.model_validate(values)
    except ValidationError as error:
        raise explain(DataEfficiencyConfig, error, path.name, [key for key, _ in given]) from None
    for arm in config.arms:
        outputs = training_config(config, arm, path.name).labels.outputs
        if config.fit.score not in (MEAN, *outputs):
            remedy = f"give {MEAN} or one of: {', '.join(outputs)}"
            raise UserError(f"{path.name}: fit.score", f"there is no structure {config.fit.score!r}", remedy)
    return config


def hosted_arms() -> list[dict[str, Any]]:
    """Arms for voxseg's own network, its plain twin, and every hosted baseline with the network of its file."""
    own: list[dict[str, Any]] = [{"name": name, "architecture": name} for name in ("steerable_unet", "plain_unet")]
    return own + [{"name": name, "training": read_yaml(find_network(name))} for name in packaged_baselines()]


def with_models(config: DataEfficiencyConfig, names: Sequence[str], keep: bool) -> DataEfficiencyConfig:
    """The same benchmark for some of its arms and of the hosted baselines.

    Args:
        config: the benchmark.
        names: of the arms.
        keep: whether the arms that it has stay as well: those that a folder was begun with.

    Raises:
        UserError: there is neither an arm nor a hosted baseline of that name.
    """
    hosted = [ArmConfig.model_validate(values) for values in hosted_arms()]
    offered = {arm.name: arm for arm in (*hosted, *config.arms)}  # the benchmark's own goes before the packaged one
    for name in names:
        if name not in offered:
            raise UserError(f"--models {name}", "is no model of this benchmark", f"there are {', '.join(offered)}")
    chosen = {*names, *(arm.name for arm in config.arms if keep)}
    return config.model_copy(update={"arms": tuple(arm for arm in offered.values() if arm.name in chosen)})


def training_config(config: DataEfficiencyConfig, arm: ArmConfig, file: str = "training") -> TrainingConfig:
    """The training config of an arm, without what differs from run to run.

    Validation would cost time and decides nothing: one case at the end, for the picture of the run.

    Args:
        config: the benchmark.
        arm: one of its arms.
        file: name of the benchmark's file, for messages.

    Raises:
        UserError: a key is wrong, or is one that the benchmark sets.
    """
    values = _base(config, file)
    for where, changes in (("training", config.training), (f"arm {arm.name}", arm.training)):
        for key in OURS:
            if _has(changes, key):
                raise UserError(f"{file}: {where}: {key}", "is set by the benchmark", "remove it")
        values = merged(values, changes)
    if arm.architecture is not None:
        values.setdefault("network", {})["architecture"] = arm.architecture
    values["name"], values["data"] = arm.name, None
    dataset = values.setdefault("dataset", {})
    if isinstance(dataset, dict):
        dataset |= {"split": None, "fold": 0, "folds": 2}
    steps = values.get("steps", 1)
    quiet = {"every": steps, "cases": 1, "turned_deg": 0, "patience": None}
    values["validation"] = {**quiet, **_given(config, arm, "validation")}
    values.setdefault("log_every", max(1, steps // 20) if isinstance(steps, int) else 1)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise explain(TrainingConfig, error, f"{file}, arm {arm.name}") from None


def _base(config: DataEfficiencyConfig, file: str) -> dict[str, Any]:
    """The training config that the benchmark changes, with only the images asked for."""
    if config.config is None:
        values = copy.deepcopy(GENERATED)
        images = {name: {"scale": "zscore"} for name in config.heads.images}
        values["preparation"] = {"spacing": config.heads.spacing, "images": images}
    else:
        values = read_yaml(find_config(config.config))
        if values.get("generator") is not None:
            problem = "trains on scans generated from label maps, which are no cases to count"
            raise UserError(
                f"{file}: config", f"{config.config} {problem}", "give one for a data set, such as brats2020"
            )
    if config.images is not None:
        known = (values.get("preparation") or {}).get("images") or {}
        for name in config.images:
            if name not in known:
                raise UserError(
                    f"{file}: images: {name}", "is not in preparation.images", f"there are {', '.join(known)}"
                )
        values["preparation"]["images"] = {name: known[name] for name in config.images}
    return values


def _given(config: DataEfficiencyConfig, arm: ArmConfig, block: str) -> dict[str, Any]:
    """What the benchmark's own file says about a block, not the training config that it names."""
    given = merged(config.training, arm.training).get(block)
    return given if isinstance(given, dict) else {}


def _has(values: Any, key: str) -> bool:
    """Whether nested blocks have a dotted key."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
