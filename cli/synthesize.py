"""`voxseg synthesize`: generated scans to look at, as training would see them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synthesize(
    config: Annotated[str, typer.Argument(help="YAML file of a training, or name of a packaged config (brain).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if need be.")] = Path(
        "synthesized"
    ),
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many pairs.")] = 4,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of head label maps; sets data.label_maps.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything: the same seed gives the same pairs.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, e.g. generator.contrast=any."),
    ] = None,
) -> None:
    """Write generated pairs of scan and labels, and a contact sheet of them.

    OUTPUT gets scan_000.nii.gz, labels_000.nii.gz, ..., labels.csv and contact_sheet.png.
    """
    from voxseg.data.layout import find_label_maps
    from voxseg.errors import UserError
    from voxseg.training.config_file import find_config

    path = find_config(config)
    if data is not None:
        find_label_maps(data)
    from voxseg.training.config import load_config

    settings = load_config(path, overrides or [])
    folder = data if data is not None else settings.data.label_maps
    if folder is None:
        raise UserError("data.label_maps", "is not set", "give the folder of head label maps with --data FOLDER")
    from voxseg.report.generated import write_samples

    write_samples(settings.generator, settings.labels, folder, output, number, seed)
    print(output / "contact_sheet.png")
