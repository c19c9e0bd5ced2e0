"""What goes beside an exported network: labels, and how an image has to be prepared for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxseg import __version__
from voxseg.data.preparation import MULTIPLE
from voxseg.inference.model import Model
from voxseg.provenance import file_hash, now, record

__all__ = ["describe"]

SCALES = {
    "tissue": "empty space becomes 0 and bright tissue 1, by levels of the whole image (voxseg.data.normalise)",
    "zscore": "mean 0 and standard deviation 1 within the foreground, 0 outside (voxseg.data.normalise)",
    "window": "clipped to low..high, which become 0 and 1",
}


def describe(model: Model, folder: Path, form: str) -> dict[str, Any]:
    """All that a program needs to know to run an exported network, as JSON takes it.

    Args:
        model: that was exported.
        folder: of the model.
        form: `onnx` or `torchscript`.
    """
    config, preparation = model.config, model.config.preparation
    images = []
    for channel, (name, image) in enumerate(preparation.images.items()):
        entry: dict[str, Any] = {"channel": channel, "name": name, "scale": image.scale, "meaning": SCALES[image.scale]}
        if image.scale == "window":
            entry |= {"low": image.low, "high": image.high}
        images.append(entry)
    steps = [
        "axes to RAS+ order",
        f"linear resampling to {preparation.spacing:g} mm isotropic voxels, blurred before where voxels become coarser",
    ]
    if preparation.crop:
        steps.append(
            f"crop to the box around the largest piece of tissue, {preparation.margin:g} mm wider; its sides lie a "
            f"multiple of {MULTIPLE} voxels from the piece's centre of mass"
        )
    steps.append("intensities scaled as 'images' says; 0 outside the image")
    return {
        "name": config.name,
        "description": config.description,
        "format": form,
        "made_by": f"voxseg {__version__}",
        "provenance": record("exported model", now(), model=model.origin),
        "weights_sha256": file_hash(folder / "model.safetensors"),
        "input": {
            "name": "image",
            "dtype": "float32",
            "shape": ["batch", len(images), "x", "y", "z"],
            "sizes": "any, even or odd; the network adapts to them exactly",
            "axes": "RAS+: x to the right, y to the front, z to the top",
            "spacing_mm": [preparation.spacing] * 3,
            "images": images,
        },
        "preprocessing": {"steps": steps, "reference": "voxseg.data.preparation.prepare"},
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["batch", config.network.out_channels, "x", "y", "z"],
            "exclusive": not config.output.regions,
            "channels": _channels(model),
        },
        "postprocessing": {
            "labels": "the channel with the largest probability, as its id"
            if not config.output.regions
            else "regions of probability 0.5 and above, painted with their ids in the order of the channels",
            "largest_component": config.postprocessing.largest_component,
            "sides": "structures with two sides have the id of the left one; voxseg.inference.sides tells them apart"
            if config.postprocessing.sides
            else "told by the network, as far as 'labels' has them",
        },
        "labels": [
            {"id": label.id, "name": label.name, "colour": label.colour, "side": label.side} for label in model.table
        ],
    }


def _channels(model: Model) -> list[dict[str, Any]]:
    """What each output stands for."""
    regions = model.config.output.regions
    if regions:
        return [{"channel": k, "name": region.name, "id": region.label} for k, region in enumerate(regions)]
    background = {"channel": 0, "name": "background", "id": 0}
    return [
        background,
        *({"channel": k, "name": lb.name, "id": lb.id} for k, lb in enumerate(model.structures, start=1)),
    ]
