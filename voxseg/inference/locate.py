"""Finding a model by its packaged name or its folder; imports nothing heavy, so that a wrong name is told at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from voxseg.errors import UserError

__all__ = ["locate_model", "packaged_models"]

FILES = ("config.yaml", "labels.csv", "model.safetensors")


def packaged_models() -> list[str]:
    """Names of the models that come with voxseg."""
    root = Path(str(resources.files("voxseg.pretrained")))
    return sorted(folder.name for folder in root.iterdir() if (folder / "config.yaml").is_file())


def locate_model(model: str | Path) -> Path:
    """The folder of a model.

    Args:
        model: a packaged name such as `brain`, or a folder with `config.yaml`, `labels.csv` and `model.safetensors`.
            A packaged name wins over a folder of the same name; write `./brain` for the folder.

    Raises:
        UserError: if there is no such model, or a file of it is missing.
    """
    names = packaged_models()
    packaged = Path(str(resources.files("voxseg.pretrained")))
    folder = packaged / str(model) if str(model) in names else Path(model)
    if not folder.is_dir():
        known = ", ".join(names) or "none is packaged"
        remedy = f"give one of these names: {known}, or a model folder"
        raise UserError(f"--model {model}", "there is no such model", remedy)
    for name in FILES:
        if not (folder / name).is_file():
            problem = f"the model folder has no {name}"
            raise UserError(folder, problem, f"give a folder with {', '.join(FILES)}, as training writes it")
    return folder
