"""A plan as a commented YAML file that `voxseg train` takes as it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from voxseg.data.labels import LabelTable
from voxseg.planning.fingerprint import Fingerprint
from voxseg.planning.plan import Plan

__all__ = ["render"]

DEEP_SUPERVISION = (1.0, 0.4, 0.16, 0.064, 0.0256)


def render(plan: Plan, fingerprint: Fingerprint, name: str, folder: str) -> str:
    """The text of the config.

    Args:
        plan: the decisions.
        fingerprint: what they were made from, for the comments.
        name: of the config.
        folder: of the data set, as the user gave it.
    """
    blocks = [_head(plan, fingerprint, name, folder), _labels(plan, fingerprint), _dataset(plan, fingerprint)]
    blocks += [_preparation(plan, fingerprint), _windows(plan), _network(plan), _rest(plan, fingerprint)]
    return "\n".join(blocks)


def scalar(text: str) -> str:
    """A string as YAML, quoted where it has to be."""
    words = ("null", "true", "false", "yes", "no", "on", "off")
    plain = re.fullmatch(r"[A-Za-z][\w-]*(?: [\w-]+)*", text) and text.lower() not in words
    return text if plain else json.dumps(text)


def _note(code: str, comment: str) -> str:
    """A line of YAML with a comment behind it, whatever the comment quotes from the data set."""
    return f"{code:<34} # {' '.join(comment.split())}"


def _head(plan: Plan, fingerprint: Fingerprint, name: str, folder: str) -> str:
    images, read = ", ".join(plan.images), f"{fingerprint.examined} of {fingerprint.cases} cases"
    rate = "was not measured" if plan.steps_per_hour is None else f"about {plan.steps_per_hour:,.0f} steps an hour"
    lines = [
        _note("", f"Planned by `voxseg plan` from the voxels of {read} and the headers of all.").lstrip(),
        "# A start, from rules of thumb: look at the validation of a run, then change what it shows to be wrong.",
        _note("", f"voxseg train THIS_FILE --data {folder}").lstrip(),
        "# The keys that are left out here have the defaults that configs/custom.yaml explains.",
        f"name: {scalar(name)}",
        "description: " + json.dumps(f"Trained on {images}."),
        _note('licence: ""', "of the trained weights"),
        "seed: 0",
        _note(f"steps: {plan.steps}", f"speed where it was planned: {rate}"),
        f"batch: {plan.batch}",
        _note(f"precision: {plan.precision}", f"a step takes about {plan.bytes / 1e9:.1f} GB"),
    ]
    if plan.accumulate > 1:
        lines.append(_note(f"accumulate: {plan.accumulate}", "parts of the batch, to fit the memory"))
    return "\n".join(lines) + "\n"


def _labels(plan: Plan, fingerprint: Fingerprint) -> str:
    labels = plan.labels
    known = {entry.id: entry.name for entry in labels.table}
    lines = ["labels:", "  # With the number of cases read in which each was found, and its mean volume there."]
    if not labels.table:
        lines[1:1] = ["  # FreeSurfer's ids, as far as its table has them; any other is background."]
        known = {label.id: label.name for label in LabelTable.freesurfer()}
    lines.append("  classes:")
    for i in labels.classes:
        present, voxels = fingerprint.present.get(i, 0), fingerprint.voxels.get(i, 0)
        volume = f", {voxels / present:,.0f} voxels" if present else ""
        lines.append(_note(f"    - {i}", f"{known[i]}: in {present} of {fingerprint.examined}{volume}"))
    if labels.refuse:
        lines.append(_note("  unlisted: refuse", "any other id is a mistake in the data"))
    if labels.sides or not labels.table:
        lines.append(_note("  merge_sides: false", "true makes one structure of left and right: half the outputs"))
    if labels.table:
        lines.append("  table:")
        for entry in labels.table:
            partner = f", side: {entry.side}, partner: {entry.partner}" if entry.partner else ""
            lines.append(f"    - {{id: {entry.id}, name: {scalar(entry.name)}{partner}}}")
    if labels.regions:
        lines.append("  # Overlapping outputs; turned back into labels, a later one is painted over an earlier one.")
        lines.append("  regions:")
        for region in labels.regions:
            ids = ", ".join(map(str, region.ids))
            lines.append(f"    - {{name: {scalar(region.name)}, ids: [{ids}], label: {region.label}}}")
    return "\n".join(lines) + "\n"


def _dataset(plan: Plan, fingerprint: Fingerprint) -> str:
    lines = ["dataset:", f"  layout: {fingerprint.layout}"]
    if fingerprint.patterns:
        lines.append("  patterns:")
        lines += [f"    {scalar(name)}: {json.dumps(path)}" for name, path in fingerprint.patterns.items()]
    if plan.folds > 1:
        lines += [f"  folds: {plan.folds}", _note("  fold: 0", "validated on, not trained on")]
    else:
        lines.append(_note("  fold: all", "one subject: there is nothing to validate on"))
    return "\n".join(lines) + "\n"


def _preparation(plan: Plan, fingerprint: Fingerprint) -> str:
    kinds = sorted({tuple(round(s, 3) for s in sorted(spacing)) for spacing in fingerprint.spacings})
    seen = _times(kinds[0]) if len(kinds) == 1 else f"{_times(kinds[0])} to {_times(kinds[-1])}"
    reasons = {
        "tissue": "air around the head is 0, bright tissue 1",
        "zscore": "the background of each was set to one value",
        "window": "CT: what 99 % of the labelled voxels have",
    }
    lines = ["preparation:", _note(f"  spacing: {plan.spacing:g}", f"mm; the scans have {seen}"), "  images:"]
    for name, image in plan.images.items():
        window = f", low: {json.dumps(image.low)}, high: {json.dumps(image.high)}" if image.scale == "window" else ""
        lines.append(_note(f"    {scalar(name)}: {{scale: {image.scale}{window}}}", reasons[image.scale]))
    reason = "to the box around the head, which holds all labels" if plan.crop else "the whole field of view"
    return "\n".join([*lines, _note(f"  crop: {str(plan.crop).lower()}", reason)]) + "\n"


def _windows(plan: Plan) -> str:
    mirror, reason = 0.5, "no label has a side"
    if plan.labels.sides:
        reason = "sides are swapped with it; 0 where left and right are no mirror images, as in a heart"
    if plan.labels.unpaired:
        mirror, reason = 0.0, f"{plan.labels.unpaired[0]} has no partner on the other side"
    window, case = (_times([n * plan.spacing for n in size], "{:.0f}") for size in (plan.window, plan.case_size))
    lines = [
        "windows:",
        _note(f"  size: {list(plan.window)}", f"{window} mm; the median case has {case} mm"),
        _note("  foreground: 0.67", "share centred near a structure, each equally often"),
        "",
        "augmentation:",
        _note("  rotation_deg: 10.0", "a steerable network needs none for poses"),
        _note(f"  mirror: {mirror}", reason),
        "",
        "postprocessing:",
        _note(f"  largest_component: {str(not plan.labels.scattered).lower()}", "of all structures together"),
    ]
    return "\n".join(lines) + "\n"


def _network(plan: Plan) -> str:
    network = plan.network
    spacings = ", ".join(f"{plan.spacing * 2**level:g}" for level in range(len(network.levels)))
    lines = [
        "network:",
        "  architecture: steerable_unet",
        f"  # On grids of {spacings} mm. Thin where the voxels are, wide where the context is.",
        "  levels:",
        *[f"    - {level}" for level in network.levels],
        f"  encoder_convolutions: {list(network.encoder_convolutions)}",
        f"  decoder_convolutions: {list(network.decoder_convolutions)}",
    ]
    if plan.labels.sides:
        lines.append(
            _note(f"  group: {network.group}", "labels have sides: a network of O3 could not tell left from right")
        )
    elif network.group == "O3":
        lines.append(_note("  group: O3", "turns and mirrors alike"))
    if network.checkpointing:
        lines.append(_note("  checkpointing: true", "less memory, more time"))
    return "\n".join(lines) + "\n"


def _rest(plan: Plan, fingerprint: Fingerprint) -> str:
    weights = ", ".join(f"{weight:g}" for weight in DEEP_SUPERVISION[: len(plan.network.levels) - 1])
    lines = ["optimiser:", "  learning_rate: 0.01", "", "schedule:", "  decay: cosine", "  warmup: 100", ""]
    lines += ["loss:", f"  deep_supervision: [{weights}]"]
    if plan.folds > 1:
        many = fingerprint.cases > 8 * plan.folds
        lines += ["", "validation:", f"  every: {max(100, math.ceil(plan.steps / 20 / 50) * 50)}"]
        lines.append(_note("  cases: 8" if many else "  cases: null", "of the fold" if many else "all of the fold"))
        lines.append(_note("  turned_deg: 40.0", "each also in a turned pose; 0 leaves it out"))
    return "\n".join(lines) + "\n"


def _times(lengths: Sequence[float], form: str = "{:g}") -> str:
    return " x ".join(form.format(length) for length in lengths)
