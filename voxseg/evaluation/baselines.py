"""What a network costs and how far it is from turning with its input, and the table of `voxseg benchmark baselines`.

The trainings and the Dice are those of the data-efficiency benchmark with a single number of cases.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from voxseg.data.staging import write_text
from voxseg.errors import UserError
from voxseg.evaluation.data_efficiency_cases import UPRIGHT
from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig
from voxseg.evaluation.data_efficiency_run import TRAINING, Run, RunResult
from voxseg.evaluation.data_efficiency_summary import TURNED, pose_dice
from voxseg.evaluation.model_row import Costs, ModelRow
from voxseg.inference.model import load_model
from voxseg.networks import NetworkConfig, build_network
from voxseg.testing import blobs, exact_error, grid_rotations
from voxseg.training.equivariance import equivariance_error

__all__ = ["markdown", "measure", "rows", "write_table"]

COSTS = "costs.json"
SIDE = 16
"""Voxels of the cubes that equivariance is measured on."""

DEGREES = 45.0
REPEATS = 3


def measure(run: Run, folder: Path, window: Sequence[int], device: torch.device) -> Costs:
    """Measures the trained network of a finished run, or reads what was measured before.

    Args:
        run: which one.
        folder: of the benchmark.
        window: voxels of a training window.
        device: to measure on.

    Raises:
        UserError: the model of the run cannot be read.
    """
    path = folder / run.place / COSTS
    try:
        return Costs(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # not measured yet, or by a version that measured other things
    model = load_model(folder / run.place / TRAINING / "model", allow_import=True)  # whose code was just trained
    step_seconds, kept = _step(model.config.network, window, device)
    trained = model.network.to(device)
    grid, turned = _errors(trained, model.config.network)
    costs = Costs(step_seconds, kept, grid, turned, str(device))
    write_text(path, json.dumps(asdict(costs), indent=1) + "\n")
    return costs


def _step(config: NetworkConfig, window: Sequence[int], device: torch.device) -> tuple[float, int]:
    """Seconds of the fastest step, and the bytes that are kept for the backward pass."""
    network = build_network(config).to(device).train()
    seconds = []
    for _ in range(REPEATS):
        image = torch.randn(1, config.in_channels, *window, device=device)
        _wait(device)
        started = time.perf_counter()
        network(image).square().mean().backward()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds), _kept(network, torch.randn(1, config.in_channels, *window, device=device))


def _wait(device: torch.device) -> None:
    """Until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kept(network: nn.Module, image: Tensor) -> int:
    """Bytes of all memory that autograd holds on to between the two passes, each block once."""
    blocks: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(image).square().mean()
    total = sum(blocks.values())
    del loss
    return total


def _errors(network: nn.Module, config: NetworkConfig) -> tuple[float, float]:
    """Of logits, under the rotations of the grid and between them."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    channels, size = f"{config.in_channels}x0e", (SIDE,) * 3

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        result: Tensor = network(x.to(device)).float().cpu()
        return result

    noise = torch.randn(1, config.in_channels, *size, generator=torch.Generator().manual_seed(0))
    grid = max(exact_error(logits, noise, r, channels, f"{config.out_channels}x0e") for r in grid_rotations())
    image = blobs(channels, torch.eye(3, dtype=torch.float64), size, width=2.0)[0].float()
    return grid, equivariance_error(logits, image, DEGREES)


def rows(
    config: DataEfficiencyConfig,
    results: Sequence[RunResult],
    folder: Path,
    device: torch.device,
    tell: Callable[[str], None] = lambda text: None,
) -> list[ModelRow]:
    """A row for each arm with a finished run, in the order of the arms.

    Args:
        config: the benchmark, with one number of cases.
        results: of its finished runs.
        folder: of the benchmark.
        device: to measure costs on.
        tell: called with a line where a model cannot be measured.
    """
    found = []
    size = config.training.get("windows", {}).get("size")
    window = (SIDE,) * 3 if size is None or size == "whole" else size
    for arm in config.arms:
        mine = [result for result in results if result.arm == arm.name]
        if not mine:
            continue
        try:
            costs = measure(Run(arm, mine[0].size, mine[0].seed), folder, window, device)
        except UserError as error:
            tell(f"{arm.name}: not measured: {error}")
            continue
        dice = {panel: tuple(pose_dice(r, panel, config.fit.score) for r in mine) for panel in (UPRIGHT, TURNED)}
        found.append(ModelRow(arm.name, arm.label, mine[0].parameters, costs, dice[UPRIGHT], dice[TURNED]))
    return found


COLUMNS = ("model", "weights", "step", "kept for backward", "error, 24 rotations", "error, 45°", "upright", "turned")


def markdown(table: Sequence[ModelRow], config: DataEfficiencyConfig) -> str:
    """The table for people, with a line above that says what was done.

    Args:
        table: as `rows` gives it.
        config: the benchmark.
    """
    steps = config.training.get("steps")
    seeds = f"{len(config.seeds)} seed{'s' * (len(config.seeds) != 1)}"
    score = "mean over the structures" if config.fit.score == "mean" else config.fit.score
    lines = [
        f"{config.name}: {steps} steps on {config.sizes[0]} cases, {seeds}; Dice of {score} on {config.test.cases} "
        f"others (mean, lowest and highest seed); turned: mean over {len(config.test.poses)} poses",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in table:
        costs = row.costs
        cells = [
            row.label,
            f"{row.parameters:,}",
            f"{1000 * costs.step_seconds:.0f} ms",
            f"{costs.kept_bytes / 2**20:.0f} MiB",
            f"{costs.grid_error:.0e}",
            f"{costs.turned_error:.2f}",
            _spread(row.upright),
            _spread(row.turned),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest."""
    there = [value for value in values if math.isfinite(value)]
    if not there:
        return "-"
    mean = sum(there) / len(there)
    return f"{mean:.3f}" if len(there) == 1 else f"{mean:.3f} ({min(there):.3f}–{max(there):.3f})"


def write_table(path: Path, table: Sequence[ModelRow], config: DataEfficiencyConfig) -> None:
    """Writes the table as CSV, a row a model and seed; complete or not at all.

    Args:
        path: of the file.
        table: as `rows` gives it.
        config: the benchmark.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = list(Costs.__dataclass_fields__)
    writer.writerow(["model", "weights", *costs, "run", "dice_upright", "dice_turned"])
    for row in table:
        values = asdict(row.costs)
        for k, (upright, turned) in enumerate(zip(row.upright, row.turned, strict=True)):
            writer.writerow([row.name, row.parameters, *values.values(), k, f"{upright:.6f}", f"{turned:.6f}"])
    write_text(path, text.getvalue())
