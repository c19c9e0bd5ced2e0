"""`voxseg export`: a trained model for other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._progress import Progress, say
from voxseg.cli._result import add_result
from voxseg.errors import UserError
from voxseg.inference.locate import locate_model, model_name


class Format(str, Enum):
    """For which programs."""

    onnx = "onnx"
    torchscript = "torchscript"
    monai_bundle = "monai-bundle"


ENDINGS = {Format.onnx: ".onnx", Format.torchscript: ".ts", Format.monai_bundle: "_bundle"}


def export(
    form: Annotated[Format, typer.Option("--format", help="onnx, torchscript, or a bundle of MONAI.")],
    model: Annotated[str, typer.Option(metavar="NAME|FOLDER", help="A packaged model or a model folder.")] = "brain",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Where to write; here by default.", readable=False),
    ] = None,
) -> None:
    """Export a model as NAME.onnx or NAME.ts with a JSON file that describes it, or as the folder NAME_bundle.

    The network takes a prepared image of any size and gives probabilities. What was written is compared with the
    original before it gets its name.
    """
    folder = locate_model(model)
    output = output or Path()
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output}", "is a file", "give a folder")
    target = output / (model_name(folder) + ENDINGS[form])
    if target.exists() and target.is_dir() != (form is Format.monai_bundle):
        raise UserError(target, "is in the way", "give another folder with -o")
    progress = Progress(target.name, {"exporting": 1})
    try:
        progress("exporting", 0.0)
        difference = _export(form, folder, target)
    finally:
        progress.close()
    add_result(file=target, format=form.value, largest_difference=difference)
    say(f"wrote {target}; largest difference of a probability to the original: {difference:.1e}")


def _export(form: Format, folder: Path, target: Path) -> float:
    from voxseg.export.graph import export_onnx, export_torchscript, require

    if form is not Format.torchscript:  # what is missing is told before torch has loaded the model
        require(*(("onnx", "onnxscript", "onnxruntime") if form is Format.onnx else ("monai",)))
    from voxseg.inference.model import load_model
    from voxseg.report.outputs import make_folder

    model = load_model(folder)
    make_folder(target.parent)
    if form is Format.onnx:
        return export_onnx(model, folder, target)
    if form is Format.torchscript:
        return export_torchscript(model, folder, target)
    from voxseg.export.monai_bundle import export_bundle

    return export_bundle(model, folder, target)
