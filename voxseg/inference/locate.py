"""Finding a model by its packaged name or its folder; imports nothing heavy, so that a wrong name is told at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from voxseg.errors import UserError

__all__ = ["PICKLED", "image_names", "locate_model", "model_name", "packaged_models", "predicts_field"]

TABLE = "labels.csv"
FILES = ("config.yaml", TABLE, "model.safetensors")
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
"""Files of PyTorch, which are pickles."""

OF_RUN = "model"
"""Where the folder of a training run has its model."""


def packaged_models() -> list[str]:
    """Names of the models that come with voxseg."""
    root = Path(str(resources.files("voxseg.pretrained")))
    return sorted(folder.name for folder in root.iterdir() if (folder / "config.yaml").is_file())


def locate_model(model: str | Path, option: str = "--model") -> Path:
    """The folder of a model.

    Args:
        model: a packaged name such as `brain`, or a folder with `config.yaml`, `labels.csv` and `model.safetensors`,
            or the folder of a training run, which holds such a one as `model`. A packaged name wins over a folder of
            the same name; write `./brain` for the folder.
        option: what the user gave it with, for the message.

    Raises:
        UserError: if there is no such model, or a file of it is missing.
    """
    names = packaged_models()
    packaged = Path(str(resources.files("voxseg.pretrained")))
    folder = packaged / str(model) if str(model) in names else Path(model)
    if folder.is_file() and folder.suffix.lower() in (".safetensors", *PICKLED):
        problem = "is a file of weights, which do not say what network they are of, nor what it is given"
        if folder.suffix.lower() in PICKLED:
            problem += "; as a pickle it could run code, and is not loaded"
        raise UserError(f"{option} {model}", problem, f"give a folder with {', '.join(FILES)}, as training writes it")
    if not folder.is_dir():
        known = ", ".join(names) or "none is packaged"
        remedy = f"give one of these names: {known}, or a model folder"
        raise UserError(f"{option} {model}", "there is no such model", remedy)
    if (folder / OF_RUN).is_dir() and not (folder / FILES[-1]).exists():
        folder = folder / OF_RUN
    for name in FILES:
        if name == TABLE and predicts_field(folder):
            continue
        if not (folder / name).is_file():
            problem = f"the model folder has no {name}"
            raise UserError(folder, problem, f"give a folder with {', '.join(FILES)}, as training writes it")
    return folder


def predicts_field(folder: Path) -> bool:
    """Whether a model predicts a field (`targets` in its `config.yaml`) and no labels."""
    return _peek(folder).get("targets") is not None


def model_name(folder: Path) -> str:
    """The name that a model gives itself; that of its folder where `config.yaml` has none.

    As with `image_names`, what is wrong with that file is told by `load_model`.
    """
    return str(_peek(folder).get("name") or folder.name)


def image_names(folder: Path) -> list[str]:
    """Names of the images that a model takes of a case, in their order.

    A look at `config.yaml` before anything heavy is imported. What is wrong with that file is told by `load_model`;
    until then the model counts as one of a single image.
    """
    preparation = _peek(folder).get("preparation")
    images = preparation.get("images") if isinstance(preparation, dict) else None
    names = [str(name) for name in images] if isinstance(images, (dict, list)) else []
    return names or ["image"]


def _peek(folder: Path) -> dict[str, Any]:
    """`config.yaml` as it is; nothing where it cannot be read."""
    import yaml

    try:
        contents = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return contents if isinstance(contents, dict) else {}
