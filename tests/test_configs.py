"""The packaged configs: that they load, say what was published, and that `custom.yaml` explains every key there is."""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from voxseg.data.labels import LabelTable
from voxseg.networks import build_network
from voxseg.training.config import TrainingConfig, load_config
from voxseg.training.config_file import find_config, packaged_configs, read_yaml

PRESETS = packaged_configs()
PRE_TREATMENT = {"whole tumour": {1, 2, 3}, "tumour core": {1, 3}, "enhancing tumour": {3}}
OLD_NUMBERS = {"whole tumour": {1, 2, 4}, "tumour core": {1, 4}, "enhancing tumour": {4}}
OLD_NAMES = ["flair", "t1", "t1ce", "t2"]
NEW_NAMES = ["t1n", "t1c", "t2w", "t2f"]
SUBCORTICAL = {"Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala", "Accumbens-area"}


def preset(name: str) -> TrainingConfig:
    return load_config(find_config(name))


def test_the_presets_that_the_documentation_names_are_there():
    wanted = {"brain", "brats2020", "brats2021", "brats2023", "brats2024", "custom", "hippocampus", "mindboggle"}
    wanted |= {"diffusion_tensor"}
    assert wanted <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_under_its_own_name_and_survives_yaml(name, tmp_path):
    config = preset(name)
    assert config.name == name
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(copy) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_a_network_with_weights_for_each_output_of_the_loss(name):
    config = preset(name)
    network = build_network(config.network)
    assert len(network.logits) >= len(config.loss.deep_supervision)
    outputs = config.targets.field.channels if config.targets else config.labels.channels
    assert network.logits[0].field_out.channels == outputs
    size = config.generator.window if config.generator else config.windows.size
    coarsest = 2 ** (len(config.network.levels) - 1)
    assert size == "whole" or all(n % coarsest == 0 for n in size), "windows are halved evenly on every level"


@pytest.mark.parametrize("name", PRESETS)
def test_mirrored_windows_keep_their_sides_right(name):
    config = preset(name)
    table = config.labels.predicted()
    if config.augmentation.mirror == 0 or not table.has_sides:
        return
    for label in table:
        assert label.side == "none" or table.by_id(label.partner).side != label.side
    assert config.network.group == "SO3", "an O(3) network cannot tell left from right"


@pytest.mark.parametrize(
    ("name", "images", "regions"),
    [
        ("brats2020", OLD_NAMES, OLD_NUMBERS),
        ("brats2021", OLD_NAMES, OLD_NUMBERS),
        ("brats2023", NEW_NAMES, PRE_TREATMENT),
        ("brats2024", NEW_NAMES, {**PRE_TREATMENT, "resection cavity": {4}}),
    ],
)
def test_brats_has_the_published_images_labels_and_regions(name, images, regions):
    config = preset(name)
    labels = config.labels
    assert list(config.preparation.images) == images
    assert {region.name: set(region.ids) for region in labels.regions} == regions
    assert set(labels.classes) == set().union(*regions.values())
    assert all(scaling.scale == "zscore" for scaling in config.preparation.images.values())
    assert not config.postprocessing.largest_component, "a tumour may have several pieces"
    assert labels.unknown({0, 1, 2, 3, 4}) == sorted({1, 2, 3, 4} - set(labels.classes))
    # Painted in their order, the regions of each class give its own label back.
    for label_id in labels.classes:
        painted = [region.label for region in labels.regions if label_id in region.ids]
        assert painted[-1] == label_id


def test_mindboggle_has_seven_structures_a_side():
    labels = preset("mindboggle").labels
    table = labels.predicted()
    for side in ("left", "right"):
        assert {label.name.split("-", 1)[1] for label in table if label.side == side} == SUBCORTICAL
    assert len(table) == 14
    assert table.ids == LabelTable.freesurfer().select(labels.classes).ids
    assert sorted(table.mirrored()[1:]) == list(range(1, 15))


def test_hippocampus_is_the_two_parts_in_the_whole_box():
    config = preset("hippocampus")
    assert {entry.id: entry.name for entry in config.labels.table} == {1: "Anterior", 2: "Posterior"}
    assert not config.preparation.crop


# custom.yaml

NO_DEFAULT = {"name", "steps", "preparation.spacing", "labels.classes", "targets.kind"}
EXAMPLES = {"labels.table", "dataset", "generator"}
"""What custom.yaml shows in place of the default: blocks that are null by default, and a table of its own."""
DERIVED = {"network.in_channels", "network.out_channels", "network.output", "network.spacing"}


def custom_values() -> dict[str, Any]:
    """The values of custom.yaml with the blocks in comments at its end, which exclude others, made part of it."""
    path = find_config("custom")
    values = read_yaml(path)
    for name in ("targets", "generator"):
        block = path.read_text(encoding="utf-8").split(f"\n# {name}:\n")[1].split("\n\n")[0]
        values[name] = yaml.safe_load("\n".join(line.removeprefix("# ") for line in block.splitlines()))
    return values


def blocks(annotation: Any) -> list[type[BaseModel]]:
    """The config classes inside an annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in blocks(argument)]


def is_plain(annotation: Any) -> bool:
    """Whether the value of a field is a block itself and not a list or mapping of them."""
    return typing.get_origin(annotation) not in (list, tuple, dict)


def compare(model: type[BaseModel], values: dict[str, Any], prefix: str, problems: list[str]) -> None:
    """Collects the keys of a block that are missing or have another value than the default."""
    for key, field in model.model_fields.items():
        dotted = f"{prefix}{key}"
        if dotted in DERIVED:
            continue
        if key not in values:
            problems.append(f"{dotted} is missing")
            continue
        inner = blocks(field.annotation)
        if inner and is_plain(field.annotation):
            compare(inner[0], values[key], f"{dotted}.", problems)
        elif inner and isinstance(values[key], dict):
            for name, entry in values[key].items():
                compare(inner[0], entry, f"{dotted}.{name}.", problems)
        elif dotted not in NO_DEFAULT | EXAMPLES:
            default = model.model_construct(**{}).model_dump(mode="json", include={key}, warnings=False)[key]
            if values[key] != default:
                problems.append(f"{dotted} is {values[key]!r}, but its default {default!r}")


def test_custom_has_every_key_with_its_default():
    problems: list[str] = []
    compare(TrainingConfig, custom_values(), "", problems)
    assert not problems, "\n".join(problems)


def test_custom_shows_every_key_of_lists_of_blocks():
    text = find_config("custom").read_text(encoding="utf-8")
    for model in (
        TrainingConfig.model_fields["labels"].annotation,
        TrainingConfig.model_fields["augmentation"].annotation,
    ):
        for field in model.model_fields.values():
            for entry in blocks(field.annotation):
                for key in entry.model_fields:
                    assert re.search(rf"[{{ ]{key}:", text), f"{entry.__name__}.{key}"


def test_custom_explains_every_key():
    lines = find_config("custom").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if re.match(r"^(# )? *\w+: \S", line) and not re.search(r"\S.*#", line[2:])]
    assert not bare, "\n".join(bare)


def test_the_targets_of_custom_work_in_place_of_its_labels():
    values = custom_values()
    del values["generator"], values["labels"], values["augmentation"]["scale"]
    config = TrainingConfig.model_validate(values)
    assert config.targets is not None
    assert config.network.output == "1x1e"


def test_the_generator_of_custom_works_in_place_of_its_data_set():
    values = custom_values()
    del values["dataset"], values["preparation"], values["targets"]
    assert TrainingConfig.model_validate(values).generator is not None
