"""Left or right of each voxel of paired structures: what the network says, made consistent by one mid-plane.

The network says for each voxel how likely it is on the right. Near the mid-plane that is sharp, far from it single
voxels can be wrong. The plane is a logistic regression of what the network says on the position, so it holds in every
pose and under every header: nothing but the network tells left from right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MidPlane", "fit_mid_plane", "side_field"]

NEAR_MM = 8.0
"""How far from the plane the network decides alone: the fissure bends by several mm."""
LARGEST_LOGIT = 4.0
_SAMPLES = 60_000
_SCALE_MM = 30.0
_RIDGE = 1e-3
_STEPS = 30

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class MidPlane:
    """The plane between the sides.

    Attributes:
        normal: unit vector towards the right along the axes of the grid, [3].
        offset: mm; a point p (mm from the first voxel) lies `normal @ p + offset` to the right.
        agreement: share of the paired structures' voxels for which the network says what the plane says.
    """

    normal: NDArray[np.float64]
    offset: float
    agreement: float

    def distance(self, shape: tuple[int, ...], spacing: float) -> Volume:
        """Signed distance to the right in mm of every voxel, [X, Y, Z]."""
        x, y, z = (n * spacing * np.arange(size) for n, size in zip(self.normal, shape, strict=True))
        return (x[:, None, None] + y[:, None] + z + self.offset).astype(np.float32)


def fit_mid_plane(right: Volume, paired: Volume, spacing: float) -> MidPlane | None:
    """The plane that tells the sides apart best.

    Args:
        right: probability of the right side, [X, Y, Z].
        paired: probability of any structure that has sides, [X, Y, Z].
        spacing: mm between voxels.

    Returns:
        None where there is no such structure, or the network tells no side.
    """
    where = np.argwhere(paired > 0.5)
    if len(where) < 10:
        return None
    where = where[:: max(1, len(where) // _SAMPLES)]
    target = right[tuple(where.T)].astype(np.float64)
    position = where * spacing
    centre = position.mean(0)
    design = np.column_stack([(position - centre) / _SCALE_MM, np.ones(len(where))])
    weights = np.zeros(4)
    for _ in range(_STEPS):
        told = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (told - target) / len(where) + _RIDGE * weights
        curvature = (design.T * (told * (1 - told))) @ design / len(where) + _RIDGE * np.eye(4)
        step = np.linalg.solve(curvature, slope)
        weights -= step * min(1.0, 5.0 / max(np.linalg.norm(step), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    length = np.linalg.norm(weights[:3]) / _SCALE_MM
    if length < 1e-6:
        return None
    normal = weights[:3] / _SCALE_MM / length
    offset = float(weights[3] / length - normal @ centre)
    agreement = float(((position @ normal + offset > 0) == (target > 0.5)).mean())
    return MidPlane(normal, offset, agreement)


def side_field(right: Volume, paired: Volume, spacing: float) -> tuple[Volume, MidPlane | None]:
    """A field that is positive on the right; its interpolation decides the side of every voxel of the scan.

    Within `NEAR_MM` of the mid-plane it is the logit of what the network says, beyond it only the plane counts.

    Args:
        right: probability of the right side, [X, Y, Z].
        paired: probability of any structure that has sides, [X, Y, Z].
        spacing: mm between voxels.
    """
    plane = fit_mid_plane(right, paired, spacing)
    clipped = np.clip(right, 1e-4, 1 - 1e-4)
    logit = np.clip(np.log(clipped / (1 - clipped)), -LARGEST_LOGIT, LARGEST_LOGIT).astype(np.float32)
    if plane is None:
        return logit, None
    distance = plane.distance(right.shape, spacing)
    far = np.abs(distance) > NEAR_MM
    logit[far] = np.copysign(LARGEST_LOGIT, distance[far])
    return logit, plane
