"""`voxseg train`: a network from a YAML file."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        str, typer.Argument(help="YAML file, name of a packaged config (brain), or folder of a run to go on with.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; runs/NAME by default.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of head label maps; sets data.label_maps.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, e.g. optimiser.learning_rate=0.003."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads; all cores by default.", show_default=False)
    ] = None,
) -> None:
    """Train a network; stop it at any time with Ctrl-C and go on with --resume."""
    from voxseg.cli._allocator import keep_freed_memory
    from voxseg.training.config_file import find_config

    path = find_config(config)
    keep_freed_memory()
    import torch

    from voxseg.training.config import load_config
    from voxseg.training.loop import train as run_training

    if threads is not None:
        torch.set_num_threads(threads)
    settings = load_config(path, overrides or [])
    if data is not None:
        settings.data.label_maps = data
    folder = output or (Path(config) if Path(config).is_dir() else Path("runs") / settings.name)
    outcome = run_training(settings, folder, device, resume)
    if outcome.signal is not None:
        name = "Ctrl-C" if outcome.signal is signal.SIGINT else outcome.signal.name
        print(f"stopped by {name} at step {outcome.step} of {settings.steps}, all is saved", file=sys.stderr)
        print(f"go on with: voxseg train {folder} --resume", file=sys.stderr)
        raise typer.Exit(128 + outcome.signal)
    score = "" if outcome.dice != outcome.dice else f", Dice {outcome.dice:.3f} on generated windows"
    print(f"done at step {outcome.step}{score}: {folder / 'model'}", file=sys.stderr)
