"""One optimiser step: gradients of all its parts, agreement between the processes, new weights."""

from __future__ import annotations

import math
import signal
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from voxseg.errors import UserError
from voxseg.training.checkpoint import TrainingState
from voxseg.training.distributed import SINGLE, Processes
from voxseg.training.environment import StopSignals
from voxseg.training.losses import deep_supervision_loss, field_loss
from voxseg.training.run import Run
from voxseg.training.samples import Batch, SampleSource
from voxseg.training.schedule import averaging_decay, learning_rate, update_average

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, in the memory layout in which 3D convolutions are fastest."""
    return network.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def forward(network: nn.Module, image: Tensor, precision: str, **options: Any) -> Any:
    """The network's outputs for images `[B, C, X, Y, Z]`, computed in the precision given."""
    image = image.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(image.device.type, dtype=DTYPES[precision], enabled=precision != "float32"):
        return network(image, **options)


class Step:
    """Optimiser steps, one after the other.

    Args:
        run: the folder and the config.
        state: what the steps change.
        source: of the samples.
        processes: this one among those that train together.
    """

    def __init__(self, run: Run, state: TrainingState, source: SampleSource, processes: Processes) -> None:
        config, loss = run.config, run.config.loss
        self.run, self.state, self.processes = run, state, processes
        # Weights of outputs that the loss leaves out get no gradient.
        all_used = not config.network.heads and len(loss.deep_supervision) >= len(config.network.levels) - 1
        self.network = processes.share(state.network, all_used)
        if config.compile:
            self.network.compile()
        self.membership = torch.from_numpy(config.labels.membership()) if config.labels.regions else None
        # Whole cases come in different numbers to the processes, which then cannot add up sums part by part.
        self.pooled = processes if config.windows.size != "whole" else SINGLE
        self.batches = iter(source.batches(state.step, config.steps))

    def take(self, stop: StopSignals) -> tuple[dict[str, float], signal.Signals | None]:
        """One step.

        Args:
            stop: what this process has been told.

        Returns:
            The figures of the step, the same in every process, and the signal to stop for, if any process has one.

        Raises:
            UserError: the loss or its gradient is infinite or not a number; its samples are kept in the run folder.
        """
        config, state, processes = self.run.config, self.state, self.processes
        asked = time.monotonic()
        parts = next(self.batches)
        waited = time.monotonic() - asked
        loss, worst = self._gradients(parts)
        state.scaler.unscale_(state.optimiser)
        norm = float(nn.utils.clip_grad_norm_(state.network.parameters(), config.optimiser.clip))

        # A scaler that finds its factor too high for float16 skips the step and lowers it: no mistake.
        sound = math.isfinite(loss) and (math.isfinite(norm) or state.scaler.is_enabled())
        agreed = [loss if math.isfinite(loss) else 0.0, float(not sound), float(stop.received is not None), waited]
        total, unsound, stopped, waiting = processes.totals(agreed, self.run.device)
        if unsound:
            raise self._not_a_number(loss, norm, worst, mine=not sound)

        rate = learning_rate(state.step, config.steps, config.optimiser.learning_rate, config.schedule)
        for group in state.optimiser.param_groups:
            group.update(lr=rate, betas=config.optimiser.betas, weight_decay=config.optimiser.weight_decay)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.step += 1
        update_average(state.averaged, state.network, averaging_decay(state.step, config.averaging.decay))
        figures = {
            "waiting": round(waiting / processes.world, 3),
            "loss": total / processes.world,
            "learning_rate": rate,
            "gradient_norm": norm,
        }
        return figures, (stop.received or signal.SIGTERM) if stopped else None

    def _gradients(self, parts: list[Batch]) -> tuple[float, Batch]:
        """Adds up the gradients of all parts of a step.

        Returns:
            This process's share of the loss, and the part with the largest one, or with one that is not a number.
        """
        config, state, processes = self.run.config, self.state, self.processes
        samples = float(sum(len(part.names) for part in parts))
        if self.pooled is not processes:
            samples = processes.totals([samples], self.run.device)[0] / processes.world
        state.optimiser.zero_grad()
        losses = []
        for number, part in enumerate(parts, start=1):
            unfinished = processes.world > 1 and number < len(parts)
            with self.network.no_sync() if unfinished else nullcontext():  # type: ignore[operator]
                # No name for the outputs: their memory is free as soon as the backward pass has read them.
                loss = self._loss(forward(self.network, part.image, config.precision, deep_supervision=True), part)
                loss = loss * (len(part.names) / samples)
                state.scaler.scale(loss).backward()
            losses.append(float(loss.detach()))
        worst = max(range(len(parts)), key=lambda k: losses[k] if math.isfinite(losses[k]) else math.inf)
        return sum(losses), parts[worst]

    def _loss(self, outputs: list[Tensor], part: Batch) -> Tensor:
        """The loss of a part over all outputs."""
        config = self.run.config.loss
        if part.field is not None:
            return field_loss(outputs, part.field, part.target, config)
        return deep_supervision_loss(outputs, part.target, config, self.membership, self.pooled.sum)

    def _not_a_number(self, loss: float, norm: float, batch: Batch, mine: bool) -> UserError:
        """What is told in place of a step that would spoil the weights."""
        run, step = self.run, self.state.step
        problem = f"the loss is {loss} and its gradient {norm} in step {step + 1}"
        if mine:
            kept = run.keep_failed(step, batch)
            problem += f" ({', '.join(batch.names)}; kept as {kept.relative_to(run.folder)})"
        if not run.store.exists():
            return UserError(run.folder, problem, "look at those samples, or lower optimiser.learning_rate")
        remedy = "look at those samples, or lower optimiser.learning_rate and go on with --resume"
        return UserError(run.folder, f"{problem}; the last checkpoint is kept", remedy)
