"""A MONAI bundle: `python -m monai.bundle run` segments a scan as `voxseg predict` does.

The network is TorchScript; reading, preparing, restoring and writing are transforms of voxseg
(`voxseg.export.monai_transforms`), because the grid that is locked to the head and the levels of the intensities have
no counterpart in MONAI. So voxseg has to be installed where a bundle runs, which its metadata say.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxseg import __version__
from voxseg.errors import UserError
from voxseg.export.graph import export_torchscript
from voxseg.inference.model import Model
from voxseg.provenance import now, record

__all__ = ["export_bundle"]

# Where MONAI's own tools look for what the metadata have to hold.
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
README = """# {name}, a MONAI bundle

{description}

Made by voxseg {version}. For research, not a medical device: look at every result. Needs `pip install voxseg monai
fire`; nothing is downloaded when it runs.

    python -m monai.bundle run --bundle_root . --meta_file configs/metadata.json \\
        --config_file configs/inference.json {images} --output_dir results

writes `results/NAME_seg.nii.gz` in exactly the grid of the scan. `--device "$torch.device('cpu')"` chooses another
device. The labels are listed in `configs/metadata.json` and, with their ids, in `model/labels.csv`.
"""


def export_bundle(model: Model, folder: Path, target: Path) -> float:
    """Write a bundle; complete or not at all.

    Args:
        model: to export.
        folder: of the model.
        target: folder of the bundle; new.

    Returns:
        The largest difference of a probability to that of the network.

    Raises:
        UserError: if there is such a folder, or it cannot be written.
    """
    if target.exists():
        raise UserError(target, "exists already", "remove it, or give another folder with -o")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as place:
            root = Path(place) / target.name
            for part in ("models", "configs", "docs", "model"):
                (root / part).mkdir(parents=True)
            difference = export_torchscript(model, folder, root / "models" / "model.ts")
            for name in ("config.yaml", "labels.csv"):
                shutil.copyfile(folder / name, root / "model" / name)
            if (folder / "MODEL_CARD.md").is_file():
                shutil.copyfile(folder / "MODEL_CARD.md", root / "docs" / "MODEL_CARD.md")
            _write(root / "configs" / "metadata.json", metadata(model))
            _write(root / "configs" / "inference.json", inference(model))
            _write(root / "docs" / "provenance.json", record("exported model", now(), model=model.origin))
            (root / "docs" / "README.md").write_text(_readme(model), encoding="utf-8", newline="\n")
            root.rename(target)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise UserError(target, problem, "choose another folder with -o") from error
    return difference


def metadata(model: Model) -> dict[str, Any]:
    """What MONAI wants to be said of a bundle (MONAI Bundle Specification, "metadata.json File")."""
    config = model.config
    images, regions = config.preparation.images, config.output.regions
    names = [region.name for region in regions] or ["background", *model.structures.names]
    scales = {image.scale for image in images.values()}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by voxseg"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"voxseg": __version__, "nibabel": version("nibabel")},
        "name": config.name,
        "task": "Segmentation of 3D medical images",
        "description": config.description or f"The model {config.name} of voxseg",
        "authors": "see docs",
        "copyright": f"weights: {config.licence}" if config.licence else "see docs",
        "intended_use": "Research; not a medical device, not for diagnosis or treatment",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": len(images),
                    "spatial_shape": ["*", "*", "*"],
                    "dtype": "float32",
                    "value_range": [] if "zscore" in scales else [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(k): name for k, name in enumerate(images)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "spatial_shape": ["*", "*", "*"],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(k): name for k, name in enumerate(names)},
                }
            },
        },
    }


def inference(model: Model) -> dict[str, Any]:
    """The program of the bundle: `images` by the model's names, results in `output_dir`."""
    names = list(model.config.preparation.images)
    transforms = "voxseg.export.monai_transforms"
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/results'",
        "model_dir": "$@bundle_root + '/model'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "images": {name: f"{name}.nii.gz" for name in names},
        "datalist": "$[@images]",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": f"{transforms}.PrepareScand", "keys": names, "model": "@model_dir"}],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{transforms}.RestoreLabelsd", "keys": "pred", "model": "@model_dir"},
                {
                    "_target_": f"{transforms}.SaveLabelsd",
                    "keys": "pred",
                    "model": "@model_dir",
                    "output_dir": "@output_dir",
                },
            ],
        },
        "run": [
            "$[@postprocessing({**case, 'pred': @inferer(case['image'][None].to(@device), @network)[0]}) "
            "for case in @dataset]"
        ],
    }


def _readme(model: Model) -> str:
    config = model.config
    images = " ".join(f"--images#{name} {name}.nii.gz" for name in config.preparation.images)
    return README.format(name=config.name, description=config.description, version=__version__, images=images)


def _write(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, indent=4, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
