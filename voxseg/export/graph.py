"""ONNX and TorchScript files, each compared with the network that it was made from before it gets its name."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxseg.data.staging import staged
from voxseg.errors import UserError
from voxseg.export.description import describe
from voxseg.export.plain import PlainUNet
from voxseg.inference.model import Model
from voxseg.networks.unet import UNet

__all__ = ["TOLERANCE", "export_onnx", "export_torchscript", "plain_network", "require"]

TOLERANCE = 1e-4
"""By which probabilities may differ from those of the network."""

SIZES = ((24, 24, 24), (17, 26, 21), (30, 19, 32))
"""Even, odd and mixed sizes on which an exported file is compared."""

OPSET = 18


def plain_network(model: Model) -> PlainUNet:
    """The network of a model as plain operations.

    Raises:
        UserError: if it is a network from elsewhere.
    """
    if not isinstance(model.network, UNet):
        problem = f"has the network {model.config.network.architecture}, which is not voxseg's own"
        raise UserError(f"model {model.config.name}", problem, "export it with the tools of the package it comes from")
    return PlainUNet(model.network, bool(model.config.output.regions))


def export_onnx(model: Model, folder: Path, path: Path) -> float:
    """Write an ONNX file of dynamic batch and sizes, and `PATH.json` that describes it; both or none.

    Args:
        model: to export.
        folder: of the model.
        path: of the file, such as `brain.onnx`.

    Returns:
        The largest difference of a probability to that of the network, in onnxruntime.

    Raises:
        UserError: if the extra `export` is not installed, or a file cannot be written.
        RuntimeError: if onnxruntime finds something else than PyTorch.
    """
    require("onnx", "onnxscript", "onnxruntime")
    plain = plain_network(model)
    x, y, z = SIZES[1]
    example = torch.rand(2, model.config.network.in_channels, x, y, z)
    dynamic = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            plain,
            (example,),
            dynamo=True,
            dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic, 4: dynamic}},
            input_names=["image"],
            output_names=["probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    description = json.dumps(describe(model, folder, "onnx"), indent=2, ensure_ascii=False) + "\n"
    program.model.metadata_props["voxseg"] = description
    with staged(path, _beside(path)) as (file, beside):
        program.save(file)
        beside.write_text(description, encoding="utf-8", newline="\n")
        return _compare(model, _onnxruntime(file))


def export_torchscript(model: Model, folder: Path, path: Path) -> float:
    """Write a TorchScript file, and `PATH.json` that describes it; both or none.

    Args:
        model: to export.
        folder: of the model.
        path: of the file, such as `brain.ts`.

    Returns:
        The largest difference of a probability to that of the network.

    Raises:
        UserError: if a file cannot be written.
        RuntimeError: if the file finds something else than the network.
    """
    plain = plain_network(model)
    with _quiet():
        script = torch.jit.script(plain)
    description = json.dumps(describe(model, folder, "torchscript"), indent=2, ensure_ascii=False) + "\n"
    with staged(path, _beside(path)) as (file, beside), _quiet():
        torch.jit.save(script, file, _extra_files={"voxseg.json": description})
        beside.write_text(description, encoding="utf-8", newline="\n")
        return _compare(model, torch.jit.load(file, map_location="cpu"))


def require(*packages: str) -> None:
    """Refuse what cannot be done before anything is computed.

    Raises:
        UserError: if a package is not installed.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        problem = f"needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise UserError("voxseg export", problem, "install what is missing with: pip install 'voxseg[export]'")


def _onnxruntime(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(np.asarray(session.run(None, {"image": x.numpy()})[0]))


@torch.no_grad()
def _compare(model: Model, run: Callable[[Tensor], Tensor]) -> float:
    """The largest difference of probabilities, over inputs of several sizes."""
    largest = 0.0
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        image = torch.rand(1, model.config.network.in_channels, *size, generator=generator)
        logits = model.network(image)
        expected = logits.sigmoid() if model.config.output.regions else logits.softmax(1)
        largest = max(largest, float((run(image) - expected).abs().max()))
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the exported network differs from the original by {largest:.1e}")
    return largest


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the exporters' own words: what matters is compared afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
