"""`voxseg synthesize`: generated scans to look at as training would see them, and a data set of generated tumours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._result import add_result


def synthesize(
    config: Annotated[
        str, typer.Argument(help="YAML file of a training, name of a packaged config (brain), or `tumours`.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if need be.")] = Path(
        "synthesized"
    ),
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many pairs or cases.")] = 4,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of head label maps; sets data.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything: the same seed gives the same files.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value for a key, e.g. generator.contrast=any, or spacing=1.5."
        ),
    ] = None,
) -> None:
    """Write generated scans with their labels, and a contact sheet of them.

    With a training config whose scans are generated, OUTPUT gets scan_000.nii.gz, labels_000.nii.gz, ..., labels.csv
    contact_sheet.png and provenance.json (settings, versions, hashes).

    With `tumours`, which needs no data, OUTPUT becomes a data set in the layout of BraTS 2020 to try training with:
    Generated_001/Generated_001_flair.nii.gz, ..., Generated_001_seg.nii.gz, ..., contact_sheet.png, provenance.json.
    """
    if config == "tumours":
        _synthesize_tumours(output, number, data, seed, overrides or [])
        return
    from voxseg.data.layout import find_label_maps
    from voxseg.errors import UserError
    from voxseg.training.config_file import find_config

    path = find_config(config)
    if data is not None:
        find_label_maps(data)
    from voxseg.training.config import load_config

    settings = load_config(path, overrides or [])
    if settings.generator is None:
        problem, remedy = "trains on a data set, so that there is nothing to generate", "give brain or tumours"
        raise UserError(config, problem, remedy)
    folder = data if data is not None else settings.data
    if folder is None:
        raise UserError("data", "is not set", "give the folder of head label maps with --data FOLDER")
    from voxseg.report.generated import write_samples

    write_samples(settings.generator, settings.labels, folder, output, number, seed)
    _tell(output, number)


def _synthesize_tumours(output: Path, number: int, data: Path | None, seed: int, overrides: list[str]) -> None:
    from pydantic import ValidationError

    from voxseg.errors import UserError
    from voxseg.training.config_file import split_override

    values = dict(split_override(override) for override in overrides)
    if data is not None:
        raise UserError("--data", "is not used by tumours, which are made by code alone", "leave it out")
    from voxseg.data.tumours import TumourConfig
    from voxseg.training.config_errors import explain

    try:
        settings = TumourConfig.model_validate(values)
    except ValidationError as error:
        raise explain(TumourConfig, error, "tumours", list(values)) from None
    from voxseg.report.generated import write_tumours

    write_tumours(settings, output, number, seed)
    _tell(output, number)


def _tell(output: Path, number: int) -> None:
    from voxseg.report.generated import RECORD

    add_result(folder=output, number=number, record=output / RECORD, picture=output / "contact_sheet.png")
    print(output / "contact_sheet.png")
