"""What tissue has and label maps do not show: faint borders of deep grey matter, and folds of the cerebellum."""

from __future__ import annotations

import torch
from torch import Tensor

from voxseg.data._intensity import smooth_noise, smooth_widely, stripes
from voxseg.data.label_maps import LabelMaps

__all__ = ["add_folds", "soften_borders"]


def soften_borders(
    scan: Tensor, rows: Tensor, maps: LabelMaps, mean: Tensor, shares: tuple[float, float], sigma: float
) -> None:
    """Blend deep grey matter and the white matter around it, each a little way into the other.

    Args:
        scan: intensities [X, Y, Z]; changed in place.
        rows: of the label table, int64 [X, Y, Z].
        maps: what the rows are.
        mean: intensity of each row, [R].
        shares: of the contrast between the two that is lost at the border on the side of white matter, and on that of
            grey matter.
        sigma: how far it reaches, in voxels; more than one.
    """
    if not maps.white.any():
        return
    white, deep = maps.white[rows], maps.deep[rows]
    if not deep.any():
        return
    contrast = torch.where(deep, mean[rows] - mean[maps.white].mean(), 0)
    volumes = torch.stack((white.float(), deep.float(), contrast))
    near_white, near_deep, near_contrast = smooth_widely(volumes, sigma)
    both = (near_white + near_deep).clamp_min(1e-3)
    # On the border both shares are half, so that each side has all of what it is given of the other.
    outside = (2 * near_deep / both).clamp_max(1) * near_contrast / near_deep.clamp_min(1e-3)
    inside = (2 * near_white / both).clamp_max(1) * contrast
    scan += shares[0] * outside * white - shares[1] * inside * deep


def add_folds(
    scan: Tensor,
    rows: Tensor,
    maps: LabelMaps,
    mean: Tensor,
    shares: tuple[float, float],
    wave: Tensor,
    noise: torch.Generator,
) -> None:
    """Add white matter and fluid to the cerebellar cortex, in turn, in bent stripes.

    Args:
        scan: intensities [X, Y, Z]; changed in place.
        rows: of the label table, int64 [X, Y, Z].
        maps: what the rows are.
        mean: intensity of each row, [R].
        shares: of white matter and of fluid in the middle of a stripe.
        wave: wave vector of the stripes, radians per voxel [3].
        noise: generator on the device of the scan.
    """
    folded = (maps.folds[0] != torch.arange(len(mean), device=mean.device))[rows]
    if not folded.any():
        return
    stripe = stripes(wave, 2 * smooth_noise(tuple(scan.shape), 8, noise))[folded]
    white, fluid = (share * (mean[other] - mean)[rows[folded]] for share, other in zip(shares, maps.folds, strict=True))
    scan[folded] += stripe.clamp_min(0) * white - stripe.clamp_max(0) * fluid
