"""The `config.yaml` of a model, for the model folder and for validation during the run."""

from __future__ import annotations

from typing import Any

from voxseg.training.config import TrainingConfig

__all__ = ["FORMAT", "model_config"]

FORMAT = 1


def model_config(config: TrainingConfig) -> dict[str, Any]:
    """What `voxseg.inference.ModelConfig` reads, in plain types.

    Args:
        config: of the run that trains the model.
    """
    scheme = config.labels
    contents = {
        "format": FORMAT,
        "name": config.name,
        "description": config.description,
        "licence": config.licence,
        "network": config.network.model_dump(mode="json"),
        "preparation": config.preparation.model_dump(mode="json"),
        "postprocessing": config.postprocessing.model_dump(mode="json"),
        "output": {"regions": [{"name": region.name, "label": region.label} for region in scheme.regions]},
        "labels": scheme.model_dump(mode="json"),
    }
    if config.targets is not None:
        for block in ("postprocessing", "output", "labels"):
            del contents[block]
        contents["targets"] = config.targets.model_dump(mode="json")
    return contents
