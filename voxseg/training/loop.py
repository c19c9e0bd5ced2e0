"""Training, readable from top to bottom: `train` sets a run up or takes it up again, `fit` is the loop."""

from __future__ import annotations

import copy
import math
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxseg.data.synthesis import LabelMaps, ScanGenerator
from voxseg.errors import UserError
from voxseg.networks import build_network
from voxseg.training.checkpoint import TrainingState
from voxseg.training.config import TrainingConfig
from voxseg.training.config_file import read_yaml
from voxseg.training.environment import StopSignals, seed_everything, select_device
from voxseg.training.losses import deep_supervision_loss
from voxseg.training.progress import Display
from voxseg.training.run import Recorder, Run, check_folder, take_up
from voxseg.training.samples import SampleSource
from voxseg.training.schedule import averaging_decay, learning_rate, update_average
from voxseg.training.validation import Validation, mean_dice


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        step: steps taken.
        signal: what stopped it early, or None.
        dice: mean Dice of the latest validation; NaN if there was none.
    """

    step: int
    signal: signal.Signals | None
    dice: float


def train(config: TrainingConfig, folder: Path, device: str = "auto", resume: bool = False) -> Outcome:
    """Trains a network on generated scans, or goes on with a run.

    Seeds the global random states of Python, numpy and torch.

    Args:
        config: the run. `data.label_maps` has to be set, except that a run to go on with knows its own.
        folder: of the run: new, or with `resume` that of the run to go on with.
        device: "auto", "cpu", "cuda" or "mps".
        resume: whether to go on with a run.

    Raises:
        UserError: the folder is taken or holds no run to go on with, the config does not fit the run, there are no
            label maps, there is no such device, or the loss stops being a number.
    """
    place = select_device(device)
    check_folder(folder, resume)
    label_maps = config.data.label_maps
    if label_maps is None and resume:
        label_maps = (read_yaml(folder / "config.yaml").get("data") or {}).get("label_maps")
    if label_maps is None:
        raise UserError("data.label_maps", "is not set", "give the folder of the label maps with --data FOLDER")
    config = config.model_copy(deep=True)
    config.data.label_maps = Path(label_maps).resolve()

    maps = LabelMaps.read(config.data.label_maps, config.labels, place)
    source = ScanGenerator(maps, config.generator, place)
    seed_everything(config.seed)
    network = build_network(config.network)
    return fit(Run(folder, config, config.labels.table(), place), network, source, resume)


def fit(run: Run, network: nn.Module, source: SampleSource, resume: bool = False) -> Outcome:
    """The training loop.

    Args:
        run: the folder and the config.
        network: where `network(x, deep_supervision=True)` gives logits, finest first.
        source: of the samples; step k, from 0, takes those of the seed `(config.seed, k, 0)`.
        resume: whether to go on from the checkpoint in the folder.

    Raises:
        UserError: the config does not fit the run, or the loss stops being a number.
    """
    config, optimisation = run.config, run.config.optimiser
    network = to_device(network, run.device).train()
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    state = TrainingState(network, averaged, torch.optim.AdamW(network.parameters()))
    validation = Validation(source, config.validation.windows, config.validation.seed, config.network.out_channels)

    with ExitStack() as stack:
        display = stack.enter_context(Display(config.steps, config.log_every))
        if resume:
            take_up(run, state, display)
        recorder = stack.enter_context(Recorder(run, state, display))
        stop = stack.enter_context(StopSignals())
        display.start(state.step)
        saved_at = time.monotonic()

        while state.step < config.steps and stop.received is None:
            started = time.monotonic()
            scan, target = source.sample((config.seed, state.step, 0), config.batch)
            outputs = forward(network, scan, config.precision, deep_supervision=True)
            loss = deep_supervision_loss(outputs, target, config.loss)
            state.optimiser.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), optimisation.clip)
            _check_finite(run, recorder, loss.item(), norm.item())

            rate = learning_rate(state.step, config.steps, optimisation.learning_rate, config.schedule)
            for group in state.optimiser.param_groups:
                group.update(lr=rate, betas=optimisation.betas, weight_decay=optimisation.weight_decay)
            state.optimiser.step()
            state.step += 1
            update_average(averaged, network, averaging_decay(state.step, config.averaging.decay))

            result = None
            if state.step % config.validation.every == 0 or state.step == config.steps:
                # In float32 whatever the training's precision, as the finished model is used.
                result = validation.run(lambda x: forward(averaged, x, "float32"), run.device)
            state.seconds += time.monotonic() - started
            recorder.record(loss.item(), rate, norm.item(), result)

            overdue = time.monotonic() - saved_at >= 60 * config.checkpoint.minutes
            if overdue or state.step % config.checkpoint.steps == 0:
                recorder.save()
                saved_at = time.monotonic()
        if recorder.saved_step != state.step:
            recorder.save()
        finished = state.step >= config.steps
        return Outcome(state.step, None if finished else stop.received, mean_dice(recorder.dice or []))


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, in the memory layout in which 3D convolutions are fastest on CPUs."""
    return network.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def forward(network: nn.Module, scan: Tensor, precision: str, **options: Any) -> Any:
    """The network's outputs for a scan `[B, C, X, Y, Z]`, computed in the precision given."""
    scan = scan.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(scan.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return network(scan, **options)


def _check_finite(run: Run, recorder: Recorder, loss: float, norm: float) -> None:
    """Stops before a step that would spoil the weights.

    Raises:
        UserError: the loss or its gradient is infinite or not a number.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    step = recorder.state.step
    kept = f"the checkpoint of step {recorder.saved_step} is kept: " if recorder.saved_step else ""
    raise UserError(
        run.folder,
        f"the loss is {loss} and its gradient {norm} in step {step + 1} (sample seed {(run.config.seed, step, 0)})",
        f"{kept}lower optimiser.learning_rate" + (" and go on with --resume" if kept else " and start again"),
    )
