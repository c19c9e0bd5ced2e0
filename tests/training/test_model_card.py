from __future__ import annotations

import math
from typing import Any

import pytest

from tiny_training import tiny_config
from voxseg.inference.model import ModelConfig
from voxseg.training.config import TrainingConfig
from voxseg.training.model_card import Scores, model_card
from voxseg.training.model_config import model_config

PROVENANCE: dict[str, Any] = {
    "data": "brats",
    "layout": "brats",
    "training_cases": 12,
    "validation_cases": 3,
    "steps": 6,
    "seconds": 130,
    "machine": "a processor",
    "versions": {"voxseg": "1.0", "monai": None},
}
TABLE = [{"id": 1, "name": "Core"}, {"id": 2, "name": "Oedema"}]
REGIONS = [{"name": "whole tumour", "ids": [1, 2], "label": 2}, {"name": "core", "ids": [1], "label": 1}]


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "name": "tumour",
        "steps": 6,
        "dataset": {"fold": 1},
        "labels": {"classes": [1, 2], "table": TABLE, "regions": REGIONS},
        "preparation": {"spacing": 1.5, "images": {"flair": {"scale": "zscore"}, "t1ce": {"scale": "tissue"}}},
        "network": {},
    }
    return TrainingConfig.model_validate({**values, **changes})


def card(settings: TrainingConfig, scores: Scores | None, **provenance: Any) -> str:
    return model_card(settings, settings.labels.predicted(), {**PROVENANCE, **provenance}, 1234, scores)


def test_data_set_model() -> None:
    text = card(config(validation={"cases": 2}), Scores([0.9, math.nan], [0.85, 0.5], 0.123))
    for part in (
        "a grid of 1.5 mm",
        "1,234 weights",
        "voxseg predict CASE_FOLDER",
        "flair (zscore), t1ce (tissue)",
        "Region: whole tumour = Core, Oedema",
        "- Data: brats (layout brats), 12 cases to train on and 3 held out, in windows of 96 × 96 × 96 voxels.",
        "Fold 1 of 5, divided by subject with seed 0.",
        "Dice of 2 cases not trained on",
        "turned by 40°",
        "| 2 | whole tumour | 0.900 | 0.850 |",
        "| 1 | core |  | 0.500 |",
        "Equivariance error 0.12",
        "- Machine: a processor.",
        "- Versions: voxseg 1.0.",
        "in 2 min",
        "For research only",
        "Not stated.",
    ):
        assert part in text
    assert "No real scan was used" not in text


def test_what_was_left_out_is_not_told() -> None:
    settings = config(
        dataset={"fold": "all"}, validation={"turned_deg": 0}, windows={"size": "whole"}, labels={"classes": [2, 3]}
    )
    text = card(settings, None, validation_cases=0, layout=None, steps=4)
    assert "Every case was trained on." in text
    assert "None: no case was held out." in text
    assert "in whole cases" in text
    assert "Steps: 4 of 6 planned: the run was not finished" in text
    assert "urned" not in text.split("## Scores")[1]
    assert "Region" not in text
    assert "Equivariance" not in text


def test_early_stop_is_told() -> None:
    assert "no independent test" in card(config(validation={"patience": 3}), None)
    assert "no independent test" not in card(config(), None)


def test_given_split_is_named_without_its_folder() -> None:
    text = card(config(dataset={"split": "/home/someone/splits_final.json"}), None)
    assert "Fold 0 of a given split (splits_final.json)." in text
    assert "someone" not in text


def test_generated_scans() -> None:
    text = card(tiny_config(), Scores([0.5, 0.25, math.nan]))
    assert "scans generated from label maps (brats), in windows of 12 × 12 × 12 voxels. No real scan was used." in text
    assert "Dice on 2 generated windows" in text
    assert "| 10 | Thalamus | 0.500 |\n" in text


@pytest.mark.parametrize("settings", [tiny_config(), config()])
def test_model_config_is_read_by_prediction(settings: TrainingConfig) -> None:
    read = ModelConfig.model_validate(model_config(settings))
    assert read.network == settings.network
    assert read.preparation == settings.preparation
    assert read.postprocessing == settings.postprocessing
    assert [(region.name, region.label) for region in read.output.regions] == [
        (region.name, region.label) for region in settings.labels.regions
    ]
