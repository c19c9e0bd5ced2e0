"""`voxseg plan`: a training config for a new data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._result import add_result


def plan(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set, or a CSV table of paths.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The config to write.")] = Path("plan.yaml"),
    images: Annotated[
        str | None, typer.Option(help="Names of the images to use, by commas; all by default.", show_default=False)
    ] = None,
    layout: Annotated[str, typer.Option(help="brats, decathlon, nnunet, bids, table, patterns, or auto.")] = "auto",
    patterns: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            metavar="NAME=PATH",
            help="Where an image or 'label' lies, such as t1='*/t1.nii.gz'; repeat it.",
        ),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(min=0.05, help="mm of the working grid; chosen by default.", show_default=False)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0.5, help="GB that training may take; what is free by default.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    group: Annotated[
        str, typer.Option(help="Of the network: SO3, or O3, which mirrors too and cannot tell left from right.")
    ] = "SO3",
    timing: Annotated[bool, typer.Option("--timing/--no-timing", help="Time a few steps, about 20 s.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
) -> None:
    """Look at a data set and write a training config for it, with the reasons in comments.

    Headers of all cases and voxels of up to 20 are read; nothing is changed or copied.
    """
    from voxseg.data.datasets.find import find_dataset
    from voxseg.errors import UserError

    if output.exists() and not force:
        raise UserError(output, "exists", "choose another name with -o, or replace it with --force")
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(output, "is not the name of a YAML file", f"write -o {output.with_suffix('.yaml')}")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}", "is not known", "use auto, cpu or cuda")
    if group not in ("SO3", "O3"):
        raise UserError(f"--group {group}", "is not known", "use SO3 or O3")
    paths = _patterns(patterns or [])
    dataset = find_dataset(folder, "patterns" if paths else layout, paths)

    from voxseg.cli._allocator import keep_freed_memory

    keep_freed_memory()
    from voxseg.planning.make_plan import plan_dataset

    wanted = [name.strip() for name in images.split(",") if name.strip()] if images else None
    summary = plan_dataset(dataset, output, folder, wanted, paths, spacing, memory, device, timing, sys.stderr, group)
    import yaml

    config = yaml.safe_load(output.read_text(encoding="utf-8"))
    add_result(file=output, config=config, summary=summary.splitlines())
    print(summary)


def _patterns(given: list[str]) -> dict[str, str]:
    """`NAME=PATH` by name."""
    from voxseg.errors import UserError

    result = {}
    for pattern in given:
        name, equals, path = pattern.partition("=")
        if not (name and equals and path):
            raise UserError(f"--pattern {pattern}", "is not NAME=PATH", "write for example --pattern t1='*/t1.nii.gz'")
        result[name] = path
    return result
