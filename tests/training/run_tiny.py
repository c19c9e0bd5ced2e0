"""A tiny training as a program, for tests that start it under torchrun or kill it: FOLDER BATCH STEPS [--resume]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tiny_training import BandSource, tiny_config
from voxseg.networks import build_network
from voxseg.training.distributed import join_processes
from voxseg.training.environment import seed_everything
from voxseg.training.loop import fit
from voxseg.training.run import Run
from voxseg.training.samples import GeneratedSource

NETWORK = {"levels": ["3x0e+1x1e", "4x0e+1x1e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1]}


def main(folder: Path, batch: int, steps: int, resume: bool) -> None:
    torch.set_num_threads(1)
    # The same rate whatever the number of steps, so that a run whose steps are raised is that of all of them.
    schedule = {"warmup": 2, "final_learning_rate": 0.01}
    config = tiny_config(network=NETWORK, loss={"deep_supervision": [1.0]}, schedule=schedule, batch=batch, steps=steps)
    with join_processes("cpu") as (processes, device):
        run = Run(folder, config, config.labels.predicted(), device)
        source = GeneratedSource(BandSource(), config.seed, batch, rank=processes.rank)  # type: ignore[arg-type]
        seed_everything(0)
        fit(run, build_network(config.network), source, None, resume, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "--resume" in sys.argv)
