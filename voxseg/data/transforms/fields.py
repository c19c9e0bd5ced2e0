"""Turned and mirrored windows with dense targets: places and components turn together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCropd, Compose, DivisiblePadd, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor

from voxseg.data.config import AugmentationConfig, WindowConfig
from voxseg.data.field_kinds import FieldTarget
from voxseg.data.preparation import MULTIPLE
from voxseg.data.resample import affine_points, interpolate_at
from voxseg.data.transforms.intensity import EachImaged, RandDropImaged
from voxseg.data.transforms.pipeline import cut_margin, look_changes
from voxseg.data.transforms.spatial import RandWindowd

__all__ = ["KEYS", "RandMirrorFieldd", "RandTurnFieldd", "field_transforms"]

Data = dict[Hashable, Any]
KEYS = ("image", "label", "target")
MIRROR = np.diag([-1.0, 1.0, 1.0])
KNOWN = 0.5


def field_transforms(
    windows: WindowConfig, augmentation: AugmentationConfig, target: FieldTarget, spacing: float
) -> Compose:
    """Cuts a window out of a prepared case with a dense target and changes it.

    Takes "image" `[C, X, Y, Z]`, "target" `[K, X, Y, Z]` (fields in the axes of the grid), "label" `[1, X, Y, Z]` (1
    where the target is known) and, if there, "points"; gives them in the size of the window, "target" 0 where "label"
    is. Windows are turned and mirrored with their target, as far as the config says; looks change the image alone.

    Args:
        windows: size, and the share of windows near voxels whose target is known.
        augmentation: how much is changed.
        target: what the fields are.
        spacing: mm of a voxel.
    """
    turned = augmentation.probability > 0 and augmentation.rotation_deg > 0
    turn = RandTurnFieldd(target, augmentation.rotation_deg, augmentation.probability)
    steps: list[Callable[..., Any]] = []
    if windows.size == "whole":
        steps = [DivisiblePadd(KEYS, k=MULTIPLE), *([turn] if turned else [])]
    else:
        margin = cut_margin(windows.size, augmentation) if turned else (0, 0, 0)
        steps.append(RandWindowd(KEYS, windows.size, 1, windows.foreground, margin))
        if turned:
            steps += [turn, CenterSpatialCropd(KEYS, windows.size)]
    if augmentation.mirror > 0:
        steps.append(RandMirrorFieldd(target, augmentation.mirror))
    looks = look_changes(augmentation, spacing)
    if looks:
        steps.append(EachImaged(("image",), Compose(looks)))
    if augmentation.drop_image > 0:
        steps.append(RandDropImaged(("image",), augmentation.drop_image))
    return Compose(steps)


class RandTurnFieldd(RandomizableTransform):
    """Turns a window about its centre by a random angle about a random axis.

    The image is interpolated linearly, the mask by the share that is known, the target between voxels where it is
    known; then its components are turned by the same rotation.

    Args:
        target: what the fields are.
        degrees: the largest angle.
        prob: how often.
    """

    def __init__(self, target: FieldTarget, degrees: float, prob: float = 0.3) -> None:
        super().__init__(prob)
        self.target, self.degrees = target, degrees

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Turns all or nothing."""
        self.randomize(None)
        if not self._do_transform:
            return dict(data)
        axis = self.R.normal(size=3)
        angle = np.deg2rad(self.R.uniform(-self.degrees, self.degrees))
        return {**data, **self.turned(data, rotation_about(axis, angle))}

    def turned(self, data: Mapping[Hashable, Any], rotation: NDArray[np.float64]) -> Data:
        """The window turned by a rotation `[3, 3]` in the axes of its grid."""
        image, known, fields = (_plain(data[key]).float() for key in KEYS)
        middle = (np.array(image.shape[1:]) - 1) / 2
        back = np.eye(4)
        back[:3, :3], back[:3, 3] = rotation.T, middle - rotation.T @ middle
        x, y, z = (range(n) for n in image.shape[1:])
        points = affine_points(back, (x, y, z))
        together = torch.cat([image, known, fields * known])
        values = interpolate_at(together[None], points)
        channels = len(image)
        share = values[channels : channels + 1]
        there = share >= KNOWN - 1e-4
        found = values[channels + 1 :] / share.clamp(min=KNOWN / 2) * there
        turned = torch.from_numpy(self.target.turned(found.numpy(), rotation))
        return {"image": values[:channels], "label": there.to(torch.uint8), "target": turned}


class RandMirrorFieldd(RandomizableTransform):
    """Mirror image along the first axis, with components mirrored as their parities say.

    Args:
        target: what the fields are.
        prob: how often.
    """

    def __init__(self, target: FieldTarget, prob: float = 0.5) -> None:
        super().__init__(prob)
        self.target = target

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Mirrors all or nothing."""
        result = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in KEYS:
                result[key] = _plain(data[key]).flip(1)
            result["target"] = torch.from_numpy(self.target.turned(result["target"].numpy(), MIRROR))
        return result


def rotation_about(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """The rotation `[3, 3]` by an angle in radians about an axis `[3]` of any length but 0."""
    from scipy.spatial.transform import Rotation

    matrix: NDArray[np.float64] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    return matrix


def _plain(volume: Tensor) -> Tensor:
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
