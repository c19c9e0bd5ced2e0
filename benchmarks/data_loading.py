"""How long training waits for its samples, and whether memory stays flat.

    python benchmarks/data_loading.py [--steps 500] [--window 96] [--workers 0 1 2] [--threads 1] [--device cpu]

A generated data set (four images of 160 x 192 x 160 voxels, three nested structures) is written to a temporary folder
and prepared; then a thin steerable network takes optimiser steps on windows with the default augmentation, for each
number of workers. Printed: the share of the time between two steps that was spent waiting for samples (the first ten
steps are left out), and the private memory of the training process and of its workers as training goes on. Private
memory is `RssAnon` of Linux: without the mapped files of the cache, which the system drops as it likes. Each process
uses `--threads` threads for the network and one a worker, so that there have to be as many cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from voxseg.data.cache import CachedCase, CaseCache
from voxseg.data.datasets.case import Case, ImageFile
from voxseg.networks import build_network
from voxseg.training.config import TrainingConfig
from voxseg.training.dataset_source import DatasetSource
from voxseg.training.losses import deep_supervision_loss
from voxseg.training.step import forward, to_device

SHAPE = (160, 192, 160)
IMAGES = ("t1", "t1ce", "t2", "flair")
WARM_UP = 10
IDS = (1, 2, 4)


def write_case(folder: Path, number: int) -> Case:
    """An ellipsoid of textured tissue with three nested balls in it, in four contrasts."""
    random = np.random.default_rng(number)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij", sparse=True)
    tissue = sum((a / 0.85) ** 2 for a in axes) < 1
    centre = random.uniform(-0.35, 0.35, 3)
    away = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    ids = np.select([away < 0.12, away < 0.22, away < 0.35], [4, 1, 2], 0).astype(np.uint8)
    images = {}
    for k, name in enumerate(IMAGES):
        texture = ndimage.zoom(random.normal(0, 60, [n // 8 for n in SHAPE]), 8, order=1)
        values = np.where(tissue, 500 + 40.0 * (k + 1) * ids + texture + random.normal(0, 15, SHAPE), 0)
        images[name] = ImageFile(folder / f"{number:03d}_{name}.nii")
        nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), images[name].path)
    label = folder / f"{number:03d}_seg.nii"
    nib.save(nib.Nifti1Image(ids, np.eye(4)), label)
    return Case(f"{number:03d}", images, label, f"{number:03d}")


def configuration(arguments: argparse.Namespace, workers: int) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "name": "loading",
            "steps": arguments.steps,
            "batch": arguments.batch,
            "labels": {"classes": list(IDS), "table": [{"id": i, "name": f"part-{i}"} for i in IDS]},
            "preparation": {"spacing": 1.0, "images": {name: {"scale": "zscore"} for name in IMAGES}},
            "dataset": {"workers": workers},
            "windows": {"size": [arguments.window] * 3},
            "loss": {"deep_supervision": [1.0, 0.4]},
            "network": {
                "levels": ["4x0e+2x1e", "8x0e+4x1e", "8x0e+4x1e"],
                "encoder_convolutions": [1, 1, 1],
                "decoder_convolutions": [1, 1],
            },
        }
    )


def private_memory(pid: int) -> float:
    """MB of a process that are its own; NaN where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), float("nan"))


def train(cases: list[CachedCase], config: TrainingConfig, device: torch.device) -> None:
    """Takes the steps and prints a line for this number of workers, and one for its memory."""
    assert config.dataset is not None
    torch.manual_seed(0)
    network = to_device(build_network(config.network), device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    source = DatasetSource(cases, config, device)
    memory: dict[int, str] = {}
    waited = started = 0.0
    with closing(source.batches(0, config.steps)) as batches:
        for step, parts in enumerate(batches, start=1):
            for batch in parts:
                outputs = forward(network, batch.image, config.precision, deep_supervision=True)
                loss = deep_supervision_loss(outputs, batch.target, config.loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                loss.item()
            if step == WARM_UP:
                started, waited = time.perf_counter(), source.waited
            if step in (50, 100, 200, 300, 400, 500, config.steps):
                workers = multiprocessing.active_children()
                own = private_memory(multiprocessing.current_process().pid or 0)
                memory[step] = f"{own:.0f}" + "".join(f" + {private_memory(w.pid or 0):.0f}" for w in workers)
        seconds = time.perf_counter() - started
    share = (source.waited - waited) / seconds
    per_step = seconds / (config.steps - WARM_UP)
    print(f"{config.dataset.workers:7d} {100 * share:10.1f} % {per_step:12.3f} s", flush=True)
    print("        MB at step " + "; ".join(f"{step}: {text}" for step, text in memory.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP:
        parser.error(f"--steps has to be above {WARM_UP}")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(arguments, 0)
        cases = [write_case(Path(folder), k) for k in range(arguments.cases)]
        cached = CaseCache(Path(folder, "cache"), config.preparation, config.labels).build(cases)
        print(f"windows of {arguments.window} voxels with {len(IMAGES)} images, batch {arguments.batch}")
        print(f"{'workers':>7s} {'waiting':>12s} {'time a step':>14s}")
        for workers in arguments.workers:
            train(cached, configuration(arguments, workers), torch.device(arguments.device))


if __name__ == "__main__":
    main()
