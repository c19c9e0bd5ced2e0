"""Training, readable from top to bottom: `train` sets a run up or takes it up again, `fit` is the loop."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from voxseg.errors import UserError
from voxseg.networks import build_network
from voxseg.training.checkpoint import TrainingState
from voxseg.training.config import TrainingConfig
from voxseg.training.data import open_data, resolve_paths
from voxseg.training.distributed import SINGLE, Processes, join_processes
from voxseg.training.environment import StopSignals, seed_everything
from voxseg.training.initial_weights import describe, take_weights
from voxseg.training.progress import Display
from voxseg.training.recorder import SilentRecorder, open_recorder
from voxseg.training.run import Run, check_folder, take_up
from voxseg.training.samples import SampleSource
from voxseg.training.step import Step, to_device
from voxseg.training.validation import Validation

NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        step: steps taken.
        signal: what stopped it early, or None.
        dice: mean Dice of the latest validation; NaN if there was none.
        exhausted: whether it ended because the validation did not improve any more.
        score: what the latest validation found, in words; empty if there was none.
    """

    step: int
    signal: signal.Signals | None
    dice: float
    exhausted: bool = False
    score: str = ""


def train(config: TrainingConfig, folder: Path, device: str = "auto", resume: bool = False) -> Outcome:
    """Trains a network, or goes on with a run; under `torchrun`, together with its other processes.

    Seeds the global random states of Python, numpy and torch.

    Args:
        config: the run. `data` has to be set, except that a run to go on with knows its own.
        folder: of the run: new, or with `resume` that of the run to go on with.
        device: "auto", "cpu", "cuda" or "mps".
        resume: whether to go on with a run.

    Raises:
        UserError: the folder is taken or holds no run to go on with, the config does not fit the run or the data,
            there is no such device, the model to start from is not there or does not fit, the memory is not enough,
            or the loss stops being a number.
    """
    with join_processes(device) as (processes, place):
        processes.leader_does(lambda: check_folder(folder, resume))
        config = resolve_paths(config, folder, resume)
        if config.precision == "float16" and place.type != "cuda":
            raise UserError("precision", f"float16 is for CUDA, this is {place.type}", "use bfloat16 or float32")
        run = Run(folder, config, config.labels.predicted(), place)
        # Before the data, whose preparation can take an hour: what is wrong with a network is told at once.
        seed_everything(config.seed)
        network = build_network(config.network)
        if config.initial_weights and not (resume and run.store.exists()):
            run.origin = take_weights(network, config.network, config.initial_weights)
        data = open_data(run, processes)
        run.facts |= data.facts
        seed_everything(config.seed)
        return fit(run, network, data.source, data.validation, resume, processes)


def fit(
    run: Run,
    network: nn.Module,
    source: SampleSource,
    validation: Validation | None,
    resume: bool = False,
    processes: Processes = SINGLE,
) -> Outcome:
    """The training loop.

    Args:
        run: the folder and the config.
        network: where `network(x, deep_supervision=True)` gives logits, finest first.
        source: of the samples.
        validation: what is measured during the run.
        resume: whether to go on from the checkpoint in the folder.
        processes: this one among those that train together.

    Raises:
        UserError: as `train` does.
    """
    config = run.config
    network = to_device(network, run.device).train()
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    scaler = torch.amp.GradScaler(run.device.type, enabled=config.precision == "float16")
    state = TrainingState(network, averaged, torch.optim.AdamW(network.parameters()), scaler)

    with ExitStack() as stack:
        display = stack.enter_context(Display(config.steps, config.log_every, silent=not processes.leads))
        if resume:
            take_up(run, state, display)
        if run.origin is not None and state.step == 0:
            display.message(describe(run.origin))
        processes.wait()  # the first writes into the folder from here on
        recorder = open_recorder(run, state, display) if processes.leads else SilentRecorder(state)
        stack.enter_context(recorder)
        stop = stack.enter_context(StopSignals())
        step = Step(run, state, source, processes)
        display.start(state.step)
        saved_at = time.monotonic()
        received: signal.Signals | None = None
        patience = config.validation.patience or math.inf
        stale = recorder.stale

        while state.step < config.steps and received is None and stale < patience:
            started = time.monotonic()
            result = None
            with _memory_errors(run, state):
                figures, received = step.take(stop)
                if validation and (state.step % config.validation.every == 0 or state.step == config.steps):
                    result = validation.merge(processes.gather(validation.run(averaged, run.device)))
            state.seconds += time.monotonic() - started
            recorder.record(figures, result)
            stale = int(processes.totals([float(recorder.stale)], run.device)[0])

            # Only the first process writes, so that only its clock matters.
            overdue = time.monotonic() - saved_at >= 60 * config.checkpoint.minutes
            if overdue or state.step % config.checkpoint.steps == 0:
                recorder.save()
                saved_at = time.monotonic()
        if recorder.saved_step != state.step:
            recorder.save()
        processes.wait()  # for the files that the first writes
        finished = state.step >= config.steps or stale >= patience
        exhausted = finished and state.step < config.steps
        return Outcome(state.step, None if finished else received, recorder.dice, exhausted, recorder.score)


@contextmanager
def _memory_errors(run: Run, state: TrainingState) -> Iterator[None]:
    """Tells what to lower where the memory is not enough.

    Raises:
        UserError: in the place of torch's errors about that.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Without a GPU torch raises a plain RuntimeError.
        told = str(error).lower()
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(hint in told for hint in NO_MEMORY):
            raise
        config = run.config
        size = config.generator.window if config.generator else config.windows.size
        voxels = "whole cases" if size == "whole" else " x ".join(map(str, size))
        lower = [f"lower {'generator.window' if config.generator else 'windows.size'} (now {voxels})"]
        if config.batch > config.accumulate:
            lower.append(f"raise accumulate (batch {config.batch}, accumulate {config.accumulate})")
        if not config.network.checkpointing and config.network.import_path is None:
            lower.append("set network.checkpointing=true")
        problem = f"out of memory on {run.device} after step {state.step}"
        raise UserError(run.folder, problem, ", or ".join(lower) + ", and use --resume") from error
