"""Refusals of a case before anything is computed: images that do not fit the model, memory that does not suffice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from voxseg.data.volume import Volume
from voxseg.errors import UserError
from voxseg.inference.plan import Plan


def check_images(volumes: Sequence[Volume], names: Sequence[str]) -> None:
    """Refuse images that are not those of a model, or do not show the same space as the first.

    Raises:
        UserError: which one.
    """
    if len(volumes) != len(names):
        wanted = ", ".join(names) if len(names) > 1 else "one image"
        given = ", ".join(volume.path.name for volume in volumes)
        raise UserError(given, f"the model takes {wanted}, but {len(volumes)} are given", "give one file for each")
    first = volumes[0]
    for volume in volumes[1:]:
        one, other = first.geometry.canonical, volume.geometry.canonical
        moved = one.displacement(other)
        remedy = "give images of one session that are registered to each other"
        if max(one.spacing) < moved < math.inf:
            problem = f"lies up to {moved:.1f} mm elsewhere than {first.path.name}, which has as many voxels"
            raise UserError(volume.path, problem, remedy)
        if not one.overlaps(other):
            raise UserError(volume.path, f"shows another place than {first.path.name}: they do not overlap", remedy)


def check_memory(first: Volume, plan: Plan, what: str) -> None:
    """Refuse a case that needs more memory than is allowed even in the smallest windows.

    Args:
        first: image of the case.
        plan: of it.
        what: the memory is needed for.

    Raises:
        UserError: if it does.
    """
    if plan.expected > plan.allowed:
        needed, allowed = plan.expected / 1e9, plan.allowed / 1e9
        problem = f"needs {needed:.1f} GB for {what}, {allowed:.1f} GB are allowed"
        raise UserError(first.path, problem, "allow more with --max-memory, or give a smaller scan")
