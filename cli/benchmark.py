"""`voxseg benchmark`: experiments that compare ways to train."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxseg.cli._options import Threads, TrainingDevice
from voxseg.cli._result import add_error, add_result

if TYPE_CHECKING:
    from voxseg.evaluation.data_efficiency import Progress
    from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig
    from voxseg.evaluation.data_efficiency_run import RunResult

PICTURE = "learning_curves.png"

BenchmarkFolder = Annotated[
    Path, typer.Option("-o", "--output", metavar="FOLDER", help="Of the benchmark; what is finished there is kept.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, e.g. training.steps=500."),
]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def benchmark() -> None:
    """Compare ways to train."""


@app.command("data-efficiency", short_help="Learning curves: how many cases a network needs.")
def data_efficiency(
    config: Annotated[
        str | None,
        typer.Argument(
            help="YAML file, or folder of a benchmark to repeat; by default that of the benchmark in FOLDER, "
            "otherwise generated heads in under 20 minutes on two cores.",
            show_default=False,
        ),
    ] = None,
    output: BenchmarkFolder = Path("runs/data_efficiency"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of a data set in the place of generated heads; sets data.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    device: TrainingDevice = "auto",
    threads: Threads = None,
) -> None:
    """Train on 1, 2, 4, 8, ... cases, test upright and turned, and fit learning curves.

    By default the steerable network and its plain twin, without and with rotation augmentation, on generated heads.
    FOLDER gets runs.csv, fits.json, learning_curves.png and the runs. Stop it at any time with Ctrl-C: the same command
    goes on.
    """
    from voxseg.evaluation.data_efficiency_file import find_benchmark

    path = find_benchmark(config, output)
    from voxseg.cli._allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from voxseg.evaluation.data_efficiency import run_benchmark
    from voxseg.evaluation.data_efficiency_config import load_benchmark

    if threads is not None:
        torch.set_num_threads(threads)
    changes = [*(overrides or []), *([f"data={json.dumps(str(data))}"] if data is not None else [])]
    settings = load_benchmark(path, changes)
    progress = run_benchmark(settings, output, device, _tell)
    if progress.done:
        _write(output, settings, progress.done)
    _end(progress)


@app.command("baselines", short_help="The hosted baselines beside voxseg's own networks.")
def baselines(
    config: Annotated[
        str | None,
        typer.Argument(
            help="YAML file, or folder of a benchmark to repeat; by default that of the benchmark in FOLDER, "
            "otherwise generated heads in under 30 minutes on two cores.",
            show_default=False,
        ),
    ] = None,
    output: BenchmarkFolder = Path("runs/baselines"),
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Train only these of the models; the table is of all that FOLDER has.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    device: TrainingDevice = "auto",
    threads: Threads = None,
) -> None:
    """Train every hosted baseline alike, and compare weights, time, memory, equivariance and Dice.

    FOLDER gets baselines.md, baselines.csv, baselines.png and the runs. Stop it at any time with Ctrl-C: the same
    command goes on.
    """
    from voxseg.errors import UserError
    from voxseg.evaluation.data_efficiency_file import CONFIG_FILE, find_benchmark

    path = find_benchmark(config, output, "baselines")
    from voxseg.cli._allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from voxseg.evaluation.data_efficiency import run_benchmark
    from voxseg.evaluation.data_efficiency_config import load_benchmark, with_models

    if threads is not None:
        torch.set_num_threads(threads)
    settings = load_benchmark(path, overrides or [])
    if len(settings.sizes) != 1:
        raise UserError(f"{path.name}: sizes", "compares models at one number of cases", "give a single number")
    only = None if models is None else models.split(",")
    if only is not None:
        settings = with_models(settings, only, keep=path == output / CONFIG_FILE)
    progress = run_benchmark(settings, output, device, _tell, only)
    if progress.done:
        _write_baselines(output, settings, progress.done, device)
    _end(progress)


def _end(progress: Progress) -> None:
    """Tells of what was not done, and exits with its code."""
    if progress.stopped is not None:
        name = "Ctrl-C" if progress.stopped is signal.SIGINT else progress.stopped.name
        _tell(f"stopped by {name}, {len(progress.done)} runs are finished; the same command goes on")
        raise typer.Exit(128 + progress.stopped)
    if progress.failures:
        _tell(f"{len(progress.failures)} run{'s' * (len(progress.failures) > 1)} failed:")
        for run, message in progress.failures:
            _tell(f"  {run}: {message}")
            add_error(run, message)
        raise typer.Exit(1)


def _write_baselines(folder: Path, config: DataEfficiencyConfig, results: list[RunResult], device: str) -> None:
    """What was measured of each model, as a table, a CSV file and a picture."""
    from voxseg.data.staging import write_text
    from voxseg.evaluation.baselines import markdown, rows, write_table
    from voxseg.report.model_comparison import draw_models
    from voxseg.training.environment import select_device

    table = rows(config, results, folder, select_device(device), _tell)
    if not table:
        return
    text = markdown(table, config)
    write_text(folder / "baselines.md", text)
    write_table(folder / "baselines.csv", table, config)
    score = "all structures" if config.fit.score == "mean" else config.fit.score
    draw_models(folder / "baselines.png", table, config.name, score)
    files = [folder / f"baselines.{ending}" for ending in ("md", "csv", "png")]
    add_result(files=files, models=[asdict(row) for row in table])
    print(text)
    print(folder / "baselines.png")


def _write(folder: Path, config: DataEfficiencyConfig, results: list[RunResult]) -> None:
    """The files about all runs so far, and the table."""
    from voxseg.evaluation.data_efficiency_summary import PANELS, learning_curves, summarise, write_fits, write_runs
    from voxseg.report.learning_curves import draw_learning_curves

    curves = learning_curves(config, results)
    write_runs(folder / "runs.csv", config, results)
    write_fits(folder / "fits.json", config, curves)
    what = "mean over the structures" if config.fit.score == "mean" else config.fit.score
    subtitle = (
        f"{what}; points: each seed, hollow: their mean, line: a n^-b + c, band: {100 * config.fit.level:g} % interval"
    )
    draw_learning_curves(folder / PICTURE, curves, config.name, subtitle, PANELS)
    fits = json.loads((folder / "fits.json").read_text(encoding="utf-8"))
    files = [folder / name for name in ("runs.csv", "fits.json", PICTURE)]
    add_result(files=files, runs=len(results), curves=fits)
    print("\n".join(summarise(config, results, curves)))
    print(f"\n{folder / PICTURE}")


def _tell(text: str) -> None:
    """One line on standard error, above the bar if there is one."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
