"""The text of a model's `MODEL_CARD.md`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voxseg.data.labels import LabelTable
from voxseg.training.config import TrainingConfig
from voxseg.training.progress import format_seconds

__all__ = ["FieldScores", "Scores", "field_card", "model_card"]


@dataclass(frozen=True)
class Scores:
    """What the latest validation found.

    Attributes:
        dice: of each output (`LabelScheme.outputs`), NaN where there is none.
        turned: the same in the turned pose; None if that was left out.
        equivariance_error: NaN if it was not measured.
    """

    dice: Sequence[float]
    turned: Sequence[float] | None = None
    equivariance_error: float = math.nan


@dataclass(frozen=True)
class FieldScores:
    """What the latest validation of a field found.

    Attributes:
        errors: by their names, as `voxseg.training.field_scores.field_errors` has them.
        turned: the same in the turned pose; None if that was left out.
        equivariance_error: NaN if it was not measured.
    """

    errors: Mapping[str, float]
    turned: Mapping[str, float] | None = None
    equivariance_error: float = math.nan


def model_card(
    config: TrainingConfig, table: LabelTable, provenance: dict[str, Any], parameters: int, scores: Scores | None
) -> str:
    """The card of a model, filled in from its run.

    Args:
        config: of the run.
        table: of the structures.
        provenance: `data` (name of the folder), `steps`, `seconds`, `machine`, `versions`, and for a data set also
            `layout`, `training_cases` and `validation_cases` (numbers of cases), as far as they are known;
            `initial_weights` (`take_weights`) if the run started from another model.
        parameters: weights of the network.
        scores: of the latest validation, if there was one.
    """
    table_text = _score_table(config, table, scores or Scores([math.nan] * len(config.labels.outputs)))
    return _card(
        config,
        config.description or "A segmentation model.",
        _purpose(config, table, parameters),
        provenance,
        f"{_scored_on(config, provenance)}\n\n{table_text}",
    )


def field_card(config: TrainingConfig, provenance: dict[str, Any], parameters: int, scores: FieldScores | None) -> str:
    """The card of a model that predicts a field; arguments as of `model_card`."""
    target = config.targets
    assert target is not None
    inputs = ", ".join(f"{name} ({image.scale})" for name, image in config.preparation.images.items())
    grid = f"on a grid of {config.preparation.spacing:g} mm"
    purpose = f"""Predicts {target.describe()}, type {target.field}, {grid},
with a network of {parameters:,} weights (`{config.network.architecture}`). Use it with
`voxseg predict SCAN --model FOLDER`, which writes the field in the grid of the scan, its components in world axes
(right, anterior, superior).

- Images of a case, with how their intensities are scaled: {inputs}."""
    measured = "Not measured."
    if scores is not None:
        rows = [
            "| | upright |" + (" turned |" if scores.turned else ""),
            "|---|---|" + ("---|" if scores.turned else ""),
        ]
        for name, value in scores.errors.items():
            turned = f" {scores.turned[name]:.4g} |" if scores.turned else ""
            rows.append(f"| {name.replace('_', ' ')} | {value:.4g} |{turned}")
        measured = "Mean over whole cases that were not trained on, where their target is known:\n\n" + "\n".join(rows)
        if not math.isnan(scores.equivariance_error):
            measured += f"\n\nEquivariance error {scores.equivariance_error:.3f} (0: none)."
    return _card(config, config.description or "A model of a field.", purpose, provenance, measured)


def _card(config: TrainingConfig, headline: str, purpose: str, provenance: dict[str, Any], measured: str) -> str:
    """What the cards of all models have in common."""
    steps = provenance["steps"]
    unfinished = "" if steps >= config.steps else f" of {config.steps} planned: the run was not finished"
    used = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items() if version)
    spent = format_seconds(provenance["seconds"])
    return f"""# {config.name}

{headline}

## What it does

{purpose}

## How it was trained

{_data(config, provenance)}
{_origin(provenance)}- Steps: {steps}{unfinished}, {config.batch} a batch, {config.precision}, in {spent}.
- Machine: {provenance["machine"]}.
- Versions: {used}.
- All settings are in `config.yaml`.

## Scores

{measured}

## Limits

For research only; not a medical device. Look at every result.

## Licence

{config.licence or "Not stated."}
"""


def _purpose(config: TrainingConfig, table: LabelTable, parameters: int) -> str:
    network = f"with a network of {parameters:,} weights\n(`{config.network.architecture}`)"
    grid = f"on a grid of {config.preparation.spacing:g} mm"
    use = "Use it with `voxseg predict SCAN --model FOLDER`."
    if config.generator is not None:
        return f"Predicts {len(table)} structures {grid}, {network}. {use}"
    images = config.preparation.images
    inputs = ", ".join(f"{name} ({image.scale})" for name, image in images.items())
    if len(images) > 1:
        use = "Use it with `voxseg predict CASE_FOLDER --model FOLDER`."
    text = f"Predicts {len(table)} structures {grid}, {network}.\n{use}\n\n"
    text += f"- Images of a case, with how their intensities are scaled: {inputs}."
    for region in config.labels.regions:
        names = ", ".join(table.by_id(label_id).name for label_id in region.ids)
        text += f"\n- Region: {region.name} = {names}; where it is predicted and no later region is, "
        text += f"the label is {region.label} ({table.by_id(region.label).name})."
    return text


def _data(config: TrainingConfig, provenance: dict[str, Any]) -> str:
    data = provenance.get("data") or "from no folder"
    if config.generator is not None:
        voxels = " × ".join(map(str, config.generator.window))
        return (
            f"- Data: scans generated from label maps ({data}), in windows of {voxels} voxels. No real scan was used."
        )
    dataset, size = config.dataset, config.windows.size
    assert dataset is not None  # one of the two is always there
    layout = f" (layout {provenance['layout']})" if provenance.get("layout") else ""
    trained, held_out = provenance.get("training_cases"), provenance.get("validation_cases")
    cases = f", {_cases(trained)}" if trained is not None else ""
    if held_out:
        cases += f" to train on and {held_out} held out"
    if dataset.fold == "all":
        fold = "Every case was trained on."
    elif dataset.split is not None:
        fold = f"Fold {dataset.fold} of a given split ({dataset.split.name})."
    else:
        fold = f"Fold {dataset.fold} of {dataset.folds}, divided by subject with seed {config.seed}."
    windows = "whole cases" if size == "whole" else f"windows of {' × '.join(map(str, size))} voxels"
    return f"- Data: {data}{layout}{cases}, in {windows}. {fold}"


def _origin(provenance: dict[str, Any]) -> str:
    origin = provenance.get("initial_weights")
    if not origin:
        return ""
    trained = f", trained for {origin['steps']} steps" if origin.get("steps") else ""
    told = f"- Started from: the model {origin['model']}{trained}, of which {origin['taken']} of {origin['tensors']}"
    told += f" tensors were taken{' and widened' if origin.get('widened') else ''}"
    return f"{told} (SHA-256 of its weights: {origin['sha256'][:16]}…).\n"


def _scored_on(config: TrainingConfig, provenance: dict[str, Any]) -> str:
    validation = config.validation
    if config.generator is not None:
        return (
            f"Dice on {validation.windows} generated windows that were not trained on, but come from the same label "
            "maps:\nthey show that the training worked, not how good the model is on real scans."
        )
    assert config.dataset is not None
    if config.dataset.fold == "all":
        return "None: no case was held out."
    held_out = provenance.get("validation_cases")
    scored = held_out if validation.cases is None or held_out is None else min(validation.cases, held_out)
    number = _cases(scored) if scored is not None else "cases"
    text = (
        f"Dice of {number} not trained on, segmented whole, in the grid of the scans: the mean over those in which\n"
        "the structure is there or predicted."
    )
    if validation.patience is not None:
        text += " They decided when the training ended, so they are no independent test."
    if validation.turned_deg:
        text += (
            f"\n\nTurned: the same with scan and truth turned by {validation.turned_deg:g}° about the axis (1, 2, 3).\n"
            "Interpolating them once costs about 0.01 by itself, with thick slices more."
        )
    return text


def _score_table(config: TrainingConfig, table: LabelTable, scores: Scores) -> str:
    scheme = config.labels
    columns = [scores.dice] if scores.turned is None else [scores.dice, scores.turned]
    ids = [region.label for region in scheme.regions] or table.ids
    head = "| id | structure | Dice |" + (" turned |" if len(columns) > 1 else "")
    rows = [head, "|---" * (2 + len(columns)) + "|"]
    for row, (label_id, name) in enumerate(zip(ids, scheme.outputs, strict=True)):
        cells = "".join(f" {'' if math.isnan(column[row]) else f'{column[row]:.3f}'} |" for column in columns)
        rows.append(f"| {label_id} | {name} |{cells}")
    text = "\n".join(rows)
    if not math.isnan(scores.equivariance_error):
        text += (
            f"\n\nEquivariance error {scores.equivariance_error:.2f}: the difference between turning before and after "
            "the network, relative\nto what it says (0: none)."
        )
    return text


def _cases(number: int) -> str:
    return f"{number} case" + "s" * (number != 1)
