"""`voxseg data`: looking at data sets before they are trained on."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxseg.cli._result import add_error, add_result, add_warning
from voxseg.data.datasets.find import find_dataset
from voxseg.errors import UserError

if TYPE_CHECKING:
    from voxseg.training.config import TrainingConfig

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


class Layout(str, Enum):
    """How the files of a data set lie."""

    auto = "auto"
    brats = "brats"
    decathlon = "decathlon"
    nnunet = "nnunet"
    bids = "bids"
    table = "table"
    patterns = "patterns"


@app.callback()
def data() -> None:
    """Look at a data set before it is trained on."""


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a data set, or a CSV table of paths.", readable=False)
    ],
    config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="NAME|FILE", help="Training config: its images, labels and layout.", show_default=False
        ),
    ] = None,
    layout: Annotated[Layout | None, typer.Option(help="How the files lie; auto looks.", show_default="auto")] = None,
    images: Annotated[
        str | None, typer.Option(metavar="A,B", help="The images needed, e.g. flair,t1ce.", show_default="all")
    ] = None,
    patterns: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", metavar="NAME=GLOB", help="For other layouts, e.g. t1='*/t1.nii.gz', label='*/seg.nii.gz'."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read headers only.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Read every voxel of every image too.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show every finding.")] = False,
) -> None:
    """Check that every file of a data set is there, readable, in its place, and what it should be.

    Prints cases, images, spacings, labels and what is wrong. Exits with 1 if training would stop.
    """
    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    settings = _settings(config) if config is not None else None
    kind, globs = _layout(layout, patterns or [], settings)
    dataset = find_dataset(folder, kind, globs)
    names = [name.strip() for name in (images or "").split(",")]
    wanted = list(dict.fromkeys(name for name in names if name)) or None
    if wanted is None and settings is not None:
        wanted = list(settings.preparation.images)
    from voxseg.data.datasets.check import check_dataset
    from voxseg.data.datasets.summary import summarise

    scheme = settings.labels if settings is not None else None
    report = check_dataset(dataset, wanted, scheme, quick, full, progress=True)
    meanings = {label.id: label.name for label in scheme.base} if scheme is not None else None
    print("\n".join(summarise(report, meanings, verbose)))
    add_result(folder=folder, layout=dataset.layout, images=report.images, cases=len(dataset.cases), ok=report.ok)
    for finding in report.errors:
        add_error(finding.subject, finding.text)
    for finding in report.warnings:
        add_warning(finding.subject, finding.text)
    if not report.ok:
        raise typer.Exit(1)


def _settings(config: str) -> TrainingConfig:
    """The training config of that name or file, which has to be one for data sets."""
    from voxseg.training.config_file import find_config

    path = find_config(config)
    from voxseg.training.config import load_config

    settings = load_config(path)
    if settings.dataset is None:
        raise UserError(config, "trains on generated scans and not on a data set", "give a config with a block dataset")
    return settings


def _layout(layout: Layout | None, patterns: list[str], settings: TrainingConfig | None) -> tuple[str, dict[str, str]]:
    """Name of the layout and patterns, by the options or else by the config."""
    globs = {}
    for pattern in patterns:
        name, equals, glob = pattern.partition("=")
        if not (name and equals and glob):
            raise UserError(f"--pattern {pattern}", "is not NAME=GLOB", "write for example --pattern t1='*/t1.nii.gz'")
        globs[name.strip()] = glob.strip()
    if globs and layout not in (None, Layout.auto, Layout.patterns):
        raise UserError(f"--layout {layout.value}", "goes without --pattern", "leave out one of them")
    if globs:
        return "patterns", globs
    if layout is not None:
        return layout.value, dict(settings.dataset.patterns) if settings and settings.dataset else {}
    if settings is not None and settings.dataset is not None:
        return settings.dataset.layout, settings.dataset.patterns
    return "auto", {}
