"""A network, a source of samples and a config so small that a step takes milliseconds. Also used by child processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from voxseg.training.config import TrainingConfig
from voxseg.training.run import Run
from voxseg.training.samples import GeneratedSource

CLASSES = [10, 11, 12]
SIZE = 12


def tiny_config(**changes: Any) -> TrainingConfig:
    """Twelve-voxel windows, three structures; `changes` replace top-level keys."""
    values: dict[str, Any] = {
        "name": "tiny",
        "steps": 6,
        "labels": {"classes": CLASSES},
        "generator": {"window": [SIZE, SIZE, SIZE], "spacing": 2.0},
        "network": {},
        "loss": {"deep_supervision": [1.0, 0.4]},
        "schedule": {"warmup": 2},
        "validation": {"every": 2, "windows": 2},
        "checkpoint": {"steps": 3},
    }
    return TrainingConfig.model_validate({**values, **changes})


def tiny_run(folder: Path, **changes: Any) -> Run:
    """A run of the tiny config on the CPU."""
    config = tiny_config(**changes)
    return Run(folder, config, config.labels.predicted(), torch.device("cpu"))


class TinyNetwork(nn.Module):
    """Two convolutions and two outputs; its dropout makes a resumed run need torch's global random state."""

    def __init__(self, classes: int = len(CLASSES) + 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 6, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.fine = nn.Conv3d(6, classes, 1)
        self.coarse = nn.Conv3d(6, classes, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Any:
        if self.training:
            self.calls += 1
        x = self.dropout(nn.functional.silu(self.first(x)))
        fine = self.fine(x)
        if not deep_supervision:
            return fine
        return [fine, self.coarse(nn.functional.avg_pool3d(x, 2, ceil_mode=True))]


class BandSource:
    """Scans with three bright bands, one for each structure."""

    def __init__(self, nan_at: int | None = None) -> None:
        self.nan_at = nan_at
        self.seeds: list[Any] = []

    def sample(self, seed: int | tuple[int, ...], batch: int = 1) -> tuple[Tensor, Tensor]:
        self.seeds.append(seed)
        number = hash(seed) % 2**31
        generator = torch.Generator().manual_seed(number)
        target = torch.zeros(batch, SIZE, SIZE, SIZE, dtype=torch.int64)
        start = int(torch.randint(0, 4, (), generator=generator))
        for index in range(1, 4):
            target[:, start + 2 * index - 2 : start + 2 * index] = index
        scan = target[:, None] / 3 + 0.05 * torch.randn(batch, 1, SIZE, SIZE, SIZE, generator=generator)
        if self.nan_at is not None and isinstance(seed, tuple) and seed[1:] == (self.nan_at, 0):
            scan = scan * math.nan
        return scan, target


class BandBatches(GeneratedSource):
    """Batches of bands."""

    def __init__(self, source: BandSource, run: Run) -> None:
        super().__init__(cast(Any, source), run.config.seed, run.config.batch, run.config.accumulate)


def metrics_without_time(folder: Path) -> list[str]:
    """Rows of metrics.csv without times, which no two runs share."""
    rows = (folder / "metrics.csv").read_text().splitlines()
    return [",".join(cell for k, cell in enumerate(row.split(",")) if k not in (1, 2)) for row in rows]


def weights(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    """The contents of a checkpoint."""
    contents: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return contents
