"""`voxseg plan` from the files to the config: looking, measuring, deciding, writing, and telling."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
import yaml
from tqdm import tqdm

from voxseg.data.datasets.case import Dataset
from voxseg.data.staging import write_text
from voxseg.errors import UserError
from voxseg.inference.memory import free_memory
from voxseg.planning.fingerprint import Fingerprint, take_fingerprint
from voxseg.planning.plan import Machine, Plan, make_plan, set_rate, settle_size
from voxseg.planning.plan_file import render
from voxseg.planning.step_rate import StepTime, faster_precision, time_step
from voxseg.training.config import TrainingConfig
from voxseg.training.environment import select_device
from voxseg.training.symmetry import broken_symmetry

__all__ = ["find_machine", "plan_dataset"]

SHARE_OF_GPU, SHARE_OF_MEMORY = 0.9, 0.6
"""Of what is free now: other programs come and go, and workers and the cache of files want their part of the RAM."""


def plan_dataset(
    dataset: Dataset,
    output: Path,
    folder: Path,
    images: Sequence[str] | None,
    patterns: Mapping[str, str],
    spacing: float | None,
    memory: float | None,
    device: str,
    timing: bool,
    terminal: TextIO,
    group: str = "SO3",
) -> str:
    """Plan, and write the config.

    Args:
        dataset: with labels.
        output: file of the config.
        folder: of the data set as the user gave it.
        images: names in the order of the channels; None for all.
        patterns: by which the files were found.
        spacing: mm of the working grid; None to choose.
        memory: GB that training may take; None for what is free.
        device: "auto", "cpu" or "cuda".
        timing: whether steps are timed.
        terminal: for the progress.
        group: of the network.

    Returns:
        A summary for people.

    Raises:
        UserError: the data set or the machine allows no plan; the message says why.
    """
    machine = find_machine(device, memory)
    timing = timing and (machine.device == "cpu" or torch.cuda.is_available())
    with tqdm(total=1, desc="reading", unit="case", file=terminal, leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fingerprint = take_fingerprint(dataset, images, patterns, progress)
    plan = make_plan(fingerprint, machine, spacing, group)
    taken: StepTime | None = None
    if timing:
        print("timing a few steps ...", file=terminal, flush=True)
        plan, taken = _timed(plan, machine)
    text = render(plan, fingerprint, _name(output), str(folder))
    warning = broken_symmetry(TrainingConfig.model_validate(yaml.safe_load(text)))
    write_text(output, text)
    return _summary(plan, fingerprint, machine, taken, output, folder, warning)


def find_machine(device: str, memory: float | None) -> Machine:
    """The machine to plan for: this one, or one with a GPU of so much memory.

    Raises:
        UserError: there is no GPU and nothing says how large the one is that will be used.
    """
    if device == "cuda" and not torch.cuda.is_available():
        if memory is None:
            problem = "there is none here, so that its memory is not known"
            raise UserError("--device cuda", problem, "say how many GB the GPU has with --memory")
        return Machine("cuda", int(memory * 1e9), "bfloat16")
    name = select_device(device).type
    if name == "cuda":
        free, _ = torch.cuda.mem_get_info()
        precision = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
        return Machine("cuda", int(memory * 1e9 if memory else SHARE_OF_GPU * free), precision)
    return Machine("cpu", int(memory * 1e9 if memory else SHARE_OF_MEMORY * (free_memory() or 8e9)))


def _timed(plan: Plan, machine: Machine) -> tuple[Plan, StepTime]:
    """The plan with the precision and the number of steps that fit the speed of the machine."""
    regions = bool(plan.labels.regions)
    if machine.device == "cpu":
        machine = replace(machine, precision=faster_precision(plan.network, regions))
        plan = settle_size(replace(plan, precision=machine.precision), machine)
    place = torch.device(machine.device)
    part = plan.batch // plan.accumulate
    taken = time_step(plan.network, plan.window, plan.accumulate, part, plan.precision, place, regions)
    return set_rate(plan, taken.seconds), taken


def _name(output: Path) -> str:
    """The name of a config from that of its file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", output.stem).lstrip("._-") or "plan"


def _summary(
    plan: Plan,
    fingerprint: Fingerprint,
    machine: Machine,
    taken: StepTime | None,
    output: Path,
    folder: Path,
    warning: str | None,
) -> str:
    """What was found and decided, in a few lines."""
    window, case = ([f"{n * plan.spacing:.0f}" for n in size] for size in (plan.window, plan.case_size))
    structures = f"{len(plan.labels.regions)} regions" if plan.labels.regions else f"{len(plan.labels.classes)} labels"
    scales = ", ".join(f"{name} ({image.scale})" for name, image in plan.images.items())
    parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    rows = [
        ("data set", f"{fingerprint.cases} cases, {fingerprint.layout}; {structures}"),
        ("images", scales),
        ("spacing", f"{plan.spacing:g} mm; the median case is {' x '.join(map(str, plan.case_size))} voxels"),
        ("window", f"{' x '.join(map(str, plan.window))} voxels, {' x '.join(window)} mm of {' x '.join(case)} mm"),
        ("network", f"{len(plan.network.levels)} levels from {plan.network.levels[0]} to {plan.network.levels[-1]}"),
        ("batch", f"{plan.batch}{parts}, {plan.precision}"),
        ("memory", f"{plan.bytes / 1e9:.1f} GB of {machine.memory / 1e9:.1f} GB ({machine.device})"),
    ]
    if plan.steps_per_hour is None or taken is None:
        rows.append(("steps", f"{plan.steps:,}; not timed"))
    else:
        how = "estimated from a smaller window" if taken.scaled else "measured, without reading data and validation"
        rate = f"{plan.steps_per_hour:,.0f}" if plan.steps_per_hour >= 10 else f"{plan.steps_per_hour:.1f}"
        rows.append(("speed", f"{rate} steps an hour ({how})"))
        rows.append(("steps", f"{plan.steps:,}, about {_duration(plan.steps * taken.seconds)}"))
    lines = [f"{name:<9} {value}" for name, value in rows]
    for image in fingerprint.images:
        if image.missing:
            lines.append(f"{'note':<9} {image.name} is missing in {image.missing} cases")
    if taken is not None and plan.steps * taken.seconds > 24 * 3600:
        lines.append(
            f"{'note':<9} too slow here for an evening: use a GPU, or a coarser grid (--spacing {2 * plan.spacing:g})"
        )
    if warning:
        lines.append(f"{'warning':<9} {warning}")
    source = folder if str(folder).isprintable() and " " not in str(folder) else f"'{folder}'"
    return "\n".join([*lines, "", f"voxseg train {output} --data {source}"])


def _duration(seconds: float) -> str:
    """Minutes, hours or days."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
