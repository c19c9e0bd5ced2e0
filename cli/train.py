"""`voxseg train`: a network from a YAML file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from voxseg.cli._options import Threads, TrainingDevice
from voxseg.cli._result import add_result


def train(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, name of a packaged config (brain, brats2020, ...), or folder of a run to go on with."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; runs/NAME by default.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the data set or of the label maps; sets data.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, e.g. optimiser.learning_rate=0.003."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Images to train on, of those in the config.", show_default=False),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Another network in the place of the config's: a baseline such as e3nn_gates, or a YAML file.",
            show_default=False,
        ),
    ] = None,
    fold: Annotated[
        str | None, typer.Option(metavar="K|all", help="Part to validate on; sets dataset.fold.", show_default=False)
    ] = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="mlflow: log there too, besides metrics.csv and TensorBoard."),
    ] = None,
    device: TrainingDevice = "auto",
    threads: Threads = None,
) -> None:
    """Train a network; stop it at any time with Ctrl-C and go on with --resume.

    On several GPUs or machines: torchrun --nproc-per-node=4 -m voxseg train ... with the same arguments.
    """
    from voxseg.cli._allocator import keep_freed_memory
    from voxseg.training.config_file import find_config, find_network

    path = find_config(config)
    other = find_network(network) if network else None
    keep_freed_memory()
    import torch

    from voxseg.training.config import load_config
    from voxseg.training.environment import bfloat16_in_software, select_device
    from voxseg.training.loop import train as run_training
    from voxseg.training.symmetry import broken_symmetry

    if threads is not None:
        torch.set_num_threads(threads)
    changes = list(overrides or [])
    if fold is not None:
        changes.append(f"dataset.fold={fold}")
    if logger:
        changes.append(f"loggers=[{', '.join(logger)}]")
    settings = load_config(path, changes, images.split(",") if images else (), other)
    if data is not None:
        settings = settings.model_copy(update={"data": data})
    warning = broken_symmetry(settings)
    if warning:
        _tell(f"warning: {warning}")
    if settings.precision == "bfloat16" and bfloat16_in_software(select_device(device)):
        _tell("warning: precision: bfloat16 is many times slower here than float32; add --set precision=float32")
    folder = output or (Path(config) if Path(config).is_dir() else Path("runs") / settings.name)
    outcome = run_training(settings, folder, device, resume)
    add_result(
        folder=folder,
        model=folder / "model",
        step=outcome.step,
        steps=settings.steps,
        dice=outcome.dice,
        stopped_by=outcome.signal.name if outcome.signal is not None else None,
    )
    if outcome.signal is not None:
        name = "Ctrl-C" if outcome.signal is signal.SIGINT else outcome.signal.name
        _tell(f"stopped by {name} at step {outcome.step} of {settings.steps}, all is saved")
        _tell(f"go on with: voxseg train {folder} --resume")
        raise typer.Exit(128 + outcome.signal)
    on = "generated windows" if settings.generator else "held-out cases"
    score = f", {outcome.score} on {on}" if outcome.score else ""
    why = ", no better for validation.patience" if outcome.exhausted else ""
    _tell(f"done at step {outcome.step}{why}{score}: {folder / 'model'}")


def _tell(text: str) -> None:
    """One line on standard error, from the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
