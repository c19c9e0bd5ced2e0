"""The files of a predicted field: values, picture, how it came about. Imports nothing heavy before one is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxseg.data.paths import printable
from voxseg.data.staging import staged
from voxseg.provenance import Origin, record_of_case, to_json
from voxseg.report.outputs import about, make_folder

if TYPE_CHECKING:
    from voxseg.data.volume import Volume
    from voxseg.inference.field_predictor import FieldPrediction

__all__ = ["FIELD_OUTPUTS", "write_field_outputs"]

FIELD_OUTPUTS = ("_field.nii.gz", "_field.png", "_field.json")
"""What is written of each field, behind its target."""


def write_field_outputs(
    volume: Volume,
    prediction: FieldPrediction,
    model: str,
    target: Path,
    origin: Origin,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> list[Path]:
    """Write the files of a field, all or none; the folder is made if need be.

    Args:
        volume: the scan, in whose grid the field is.
        prediction: what was predicted.
        model: the name of the model.
        target: what the paths begin with, such as `FOLDER/NAME`.
        origin: what it was made from.
        progress: called with the stages `writing` and `drawing`, and the fraction of each that is done.

    Returns:
        The paths, in the order of `FIELD_OUTPUTS`.

    Raises:
        UserError: if the files cannot be written.
    """
    from voxseg.data.field_files import write_field
    from voxseg.report.field_picture import draw_field

    started = time.perf_counter()
    make_folder(target.parent)
    paths = [target.with_name(target.name + suffix) for suffix in FIELD_OUTPUTS]
    with staged(*paths) as (values, picture, beside):
        progress("writing", 0.0)
        write_field(values, prediction.fields, prediction.target, volume, about(model))
        progress("drawing", 0.0)
        title = f"{printable(target.name)}  ({about(model)})"
        draw_field(picture, volume.data, prediction.fields, prediction.target, volume.geometry, title)
        progress("drawing", 1.0)
        seconds = prediction.seconds | {"writing": time.perf_counter() - started}
        files = {paths[0]: values, paths[1]: picture}
        beside.write_text(to_json(_record(prediction, origin, seconds, files)), encoding="utf-8", newline="\n")
    return paths


def _record(
    prediction: FieldPrediction, origin: Origin, seconds: dict[str, float], files: dict[Path, Path]
) -> dict[str, Any]:
    """How a field came about, in plain types; `docs/provenance.md` says what the keys mean."""
    target = prediction.target
    return record_of_case(
        "field",
        origin,
        seconds,
        files,
        field={
            "kind": target.kind,
            "type": str(target.field),
            "name": target.name,
            "components": target.components,
            "axes": "world (right, anterior, superior)",
        },
        windows=prediction.windows,
    )
