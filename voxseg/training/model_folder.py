"""The folder that `voxseg predict --model` takes: weights, config, label table and model card."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from voxseg.data.labels import LabelTable
from voxseg.data.staging import write_complete, write_text
from voxseg.training.checkpoint import versions
from voxseg.training.config import TrainingConfig
from voxseg.training.progress import format_seconds
from voxseg.training.validation import mean_dice

FORMAT = 1


def write_model(
    folder: Path,
    config: TrainingConfig,
    table: LabelTable,
    averaged: nn.Module,
    step: int,
    seconds: float,
    device: torch.device,
    dice: list[float] | None,
) -> None:
    """Writes or renews a model folder; each file is complete or not there.

    Args:
        folder: made if it is not there.
        config: of the run.
        table: of the structures.
        averaged: the network with the averaged weights.
        step: steps taken.
        seconds: time taken.
        device: that was trained on.
        dice: of each structure at the latest validation, if there was one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    provenance = _provenance(config, step, seconds, device, dice)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in averaged.state_dict().items()}
    # One entry only: safetensors writes several in an order that changes from file to file.
    metadata = {"voxseg": f"{config.name}, step {step}, voxseg {versions()['voxseg']}"}
    write_complete(folder / "model.safetensors", lambda path: save_file(weights, path, metadata))
    table.write(folder / "labels.csv")
    contents = {
        "format": FORMAT,
        "name": config.name,
        "description": config.description,
        "network": config.network.model_dump(mode="json"),
        "preparation": {"spacing": config.generator.spacing},
        "labels": config.labels.model_dump(mode="json"),
        "training": provenance,
    }
    write_text(folder / "config.yaml", yaml.safe_dump(contents, sort_keys=False, allow_unicode=True))
    parameters = sum(weight.numel() for weight in averaged.parameters())
    write_text(folder / "MODEL_CARD.md", _card(config, table, provenance, parameters, dice))


def machine(device: torch.device) -> str:
    """The processor that trained, by its model's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    return f"{name}, {torch.get_num_threads()} threads" + (" (mps)" if device.type == "mps" else "")


def _provenance(
    config: TrainingConfig, step: int, seconds: float, device: torch.device, dice: list[float] | None
) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"network", "labels", "data", "name", "description"})
    return {
        "data": config.data.label_maps.name if config.data.label_maps else None,
        "steps": step,
        "seconds": round(seconds),
        "machine": machine(device),
        "validation_dice": round(mean_dice(dice), 4) if dice and not math.isnan(mean_dice(dice)) else None,
        "versions": versions(),
        "settings": settings,
    }


def _card(
    config: TrainingConfig, table: LabelTable, provenance: dict[str, Any], parameters: int, dice: list[float] | None
) -> str:
    scores = dice or [math.nan] * len(table)
    rows = "\n".join(
        f"| {label.id} | {label.name} | {'' if math.isnan(score) else f'{score:.3f}'} |"
        for label, score in zip(table, scores, strict=True)
    )
    used = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    data, spent = provenance["data"] or "from no folder", format_seconds(provenance["seconds"])
    generator = config.generator
    voxels = " × ".join(map(str, generator.window))
    unfinished = "" if provenance["steps"] >= config.steps else f" of {config.steps} planned: the run was not finished"
    return f"""# {config.name}

{config.description or "A segmentation model."}

## What it does

Predicts {len(table)} structures on a grid of {generator.spacing:g} mm, with a network of {parameters:,} weights
(`{config.network.architecture}`). Use it with `voxseg predict SCAN --model FOLDER`.

## How it was trained

- Data: scans generated from label maps ({data}), in windows of {voxels} voxels. No real scan was used.
- Steps: {provenance["steps"]}{unfinished}, {config.batch} a batch, {config.precision}, in {spent}.
- Machine: {provenance["machine"]}.
- Versions: {used}.
- All settings are in `config.yaml`.

## Scores

Dice on {config.validation.windows} generated windows that were not trained on, but come from the same label maps:
they show that the training worked, not how good the model is on real scans.

| id | structure | Dice |
|---|---|---|
{rows}

## Limits

For research only; not a medical device. Look at every result.

## Licence

{config.licence or "Not stated."}
"""
