"""The folder that `voxseg predict --model` takes: weights, config, label table and model card."""

from __future__ import annotations

import math
from typing import Any

import yaml
from safetensors.torch import save

from voxseg.data.staging import write_complete, write_text
from voxseg.training.checkpoint import TrainingState, versions
from voxseg.training.initial_weights import KEY
from voxseg.training.model_card import FieldScores, Scores, field_card, model_card
from voxseg.training.model_config import model_config
from voxseg.training.provenance import machine
from voxseg.training.run import Run
from voxseg.training.scores import mean_dice


def write_model(run: Run, state: TrainingState, scores: Scores | FieldScores | None) -> None:
    """Writes or renews `model/` in the folder of a run; each file is complete or not there.

    Args:
        run: whose model it is.
        state: of the run; the averaged weights are written.
        scores: of the latest validation, if there was one.
    """
    config, folder = run.config, run.folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    provenance = _provenance(run, state, scores)
    # Copies: some networks name a tensor twice (MONAI's DynUNet), which safetensors refuses to write.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.averaged.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from file to file.
    metadata = {"voxseg": f"{config.name}, step {state.step}, voxseg {versions()['voxseg']}"}
    write_complete(folder / "model.safetensors", lambda path: path.write_bytes(save(weights, metadata)))
    if config.targets is None:
        table = config.labels.with_sides() if config.postprocessing.sides else run.table
        table.write(folder / "labels.csv")
    contents = {**model_config(config), "training": provenance}
    write_text(folder / "config.yaml", yaml.safe_dump(contents, sort_keys=False, allow_unicode=True))
    parameters = sum(weight.numel() for weight in state.averaged.parameters())
    if isinstance(scores, FieldScores) or config.targets is not None:
        card = field_card(config, provenance, parameters, scores if isinstance(scores, FieldScores) else None)
    else:
        card = model_card(config, run.table, provenance, parameters, scores)
    write_text(folder / "MODEL_CARD.md", card)


def _provenance(run: Run, state: TrainingState, scores: Scores | FieldScores | None) -> dict[str, Any]:
    """How the weights came about; paths on the machine that trained are left out."""
    config = run.config
    told = {
        "network",
        "labels",
        "targets",
        "preparation",
        "postprocessing",
        "data",
        "name",
        "description",
        "licence",
        KEY,
    }
    settings = config.model_dump(mode="json", exclude=told)
    if settings["dataset"] is not None:
        settings["dataset"] |= {"cache": None, "split": config.dataset.split and config.dataset.split.name}  # type: ignore[union-attr]
    measured: dict[str, Any] = {}
    if config.targets is None:
        dice = mean_dice(scores.dice) if isinstance(scores, Scores) else math.nan
        measured["validation_dice"] = None if math.isnan(dice) else round(dice, 4)
    elif isinstance(scores, FieldScores):
        found = {name: None if math.isnan(value) else float(f"{value:.4g}") for name, value in scores.errors.items()}
        measured["validation_errors"] = found
    return {
        "data": config.data.name if config.data else None,
        **run.facts,
        **({KEY: run.origin} if run.origin else {}),
        "steps": state.step,
        "seconds": round(state.seconds),
        "machine": machine(run.device),
        **measured,
        "versions": versions(),
        "settings": settings,
    }
