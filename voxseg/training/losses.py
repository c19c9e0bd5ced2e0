"""Soft Dice plus cross-entropy over several grids, for classes or regions, in the form that costs least on a CPU.

The one-hot target of the finest grid is never made: with 17 classes it is larger than everything else in the loss. The
result equals MONAI's `DiceCELoss(include_background=False, softmax=True, batch=True)` with the same smoothing in the
numerator and the denominator wherever every structure is present, at 0.3 times its time (64³ voxels, 17 classes, one
core, with backward: 0.036 s against 0.125 s).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from voxseg.errors import UserError
from voxseg.training.config import LossConfig

_BLOCK_VOXELS = 2**15

Pool = Callable[[Tensor], Tensor]


def _alone(sums: Tensor) -> Tensor:
    """The pooling of a process that has the whole batch."""
    return sums


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    smoothing: float = 5.0,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    pool: Pool = _alone,
) -> Tensor:
    """Soft Dice, averaged over the structures, plus cross-entropy, averaged over the voxels: for exclusive classes.

    The Dice of a structure pools the whole batch. A structure that is absent from it has no Dice term, and its false
    positives cost cross-entropy alone: with a term `S / (S + smoothing)` for S predicted voxels, windows without a
    small structure push its probability down much harder than windows with it pull it up, and small structures are
    learned late (measured: mean Dice on two real scans after 750 steps 0.29, three structures not found at all).

    Args:
        logits: `[B, K, X, Y, Z]`, class 0 is the background.
        target: class indices `[B, X, Y, Z]` int64, or class shares `[B, K, X, Y, Z]` that add up to one.
        smoothing: voxels added to both sides of the Dice fraction.
        dice_weight: weight of the Dice term.
        cross_entropy_weight: weight of the cross-entropy term.
        pool: sums a tensor over the processes that share the batch.

    Returns:
        The loss, a float32 scalar whatever the precision of the logits (float64 stays float64).

    Source:
        Soft Dice: Milletari et al., "V-Net" (arXiv 1606.04797), section 3, here without squares in the denominator;
        its sum with cross-entropy: Isensee et al., nnU-Net (doi 10.1038/s41592-020-01008-z).
    """
    if target.ndim == logits.ndim:
        entropy, overlap, predicted, volume = _sums_by_block(_sums_of_shares, logits, _rows(target))
    else:
        entropy, overlap, predicted, volume = _sums_by_block(_sums_of_classes, logits, target.reshape(-1))
    cross_entropy = entropy / (logits.numel() // logits.shape[1])
    dice = _dice_loss(overlap[1:], predicted[1:], volume[1:], smoothing, pool)
    return dice_weight * dice + cross_entropy_weight * cross_entropy


def region_dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    smoothing: float = 5.0,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    pool: Pool = _alone,
) -> Tensor:
    """The same for overlapping regions: a sigmoid for each, soft Dice plus binary cross-entropy.

    Args:
        logits: `[B, R, X, Y, Z]`.
        target: share of each region in each voxel, `[B, R, X, Y, Z]`.
        smoothing: voxels added to both sides of the Dice fraction.
        dice_weight: weight of the Dice term, averaged over the regions that are there.
        cross_entropy_weight: weight of the cross-entropy, averaged over voxels and regions.
        pool: sums a tensor over the processes that share the batch.
    """
    entropy, overlap, predicted, volume = _sums_by_block(_sums_of_regions, logits, _rows(target))
    dice = _dice_loss(overlap, predicted, volume, smoothing, pool)
    return dice_weight * dice + cross_entropy_weight * entropy / logits.numel()


def _rows(volumes: Tensor) -> Tensor:
    """`[B, K, X, Y, Z]` as one row a voxel, `[V, K]`: free of copies where the memory is channels-last."""
    return volumes.movedim(1, -1).reshape(-1, volumes.shape[1])


def _sums_by_block(sums: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> list[Tensor]:
    """What the losses need, added up over blocks of voxels, of which the backward pass keeps the logits alone.

    With 17 classes the probabilities and their logarithms are as large as the features of a whole level. Computed again
    block by block, they never are in memory at once.

    Args:
        sums: from logits `[V, K]` and target of a block to `[..., K]` of float32 (float64 for float64).
        logits: `[B, K, X, Y, Z]`.
        target: one row a voxel.

    Returns:
        Cross-entropy (its sum), and for each structure the probability within it, all probability, its volume.
    """
    blocks = zip(_rows(logits).split(_BLOCK_VOXELS), target.split(_BLOCK_VOXELS), strict=True)
    parts = [checkpoint(sums, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    entropy, overlap, predicted, volume = torch.stack(parts).sum(0).unbind()
    return [entropy.sum(), overlap, predicted, volume]


def _sums_of_classes(rows: Tensor, index: Tensor) -> Tensor:
    classes = rows.shape[1]
    log_probability = _accurate(rows).log_softmax(1)
    own = log_probability.gather(1, index[:, None])[:, 0]
    none = torch.zeros(classes, dtype=own.dtype, device=rows.device)
    volume = torch.bincount(index, minlength=classes).to(own.dtype)
    entropy, overlap = none.index_add(0, index, -own), none.index_add(0, index, own.exp())
    return torch.stack([entropy, overlap, log_probability.exp().sum(0), volume])


def _sums_of_shares(rows: Tensor, share: Tensor) -> Tensor:
    log_probability = _accurate(rows).log_softmax(1)
    probability, share = log_probability.exp(), share.to(log_probability.dtype)
    return torch.stack(
        [-(share * log_probability).sum(0), (share * probability).sum(0), probability.sum(0), share.sum(0)]
    )


def _sums_of_regions(rows: Tensor, share: Tensor) -> Tensor:
    rows = _accurate(rows)
    share = share.to(rows.dtype)
    probability = rows.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(rows, share, reduction="none")
    return torch.stack([entropy.sum(0), (share * probability).sum(0), probability.sum(0), share.sum(0)])


def _accurate(rows: Tensor) -> Tensor:
    """In float32 or float64."""
    return rows if rows.dtype == torch.float64 else rows.float()


def _dice_loss(overlap: Tensor, predicted: Tensor, volume: Tensor, smoothing: float, pool: Pool) -> Tensor:
    """One minus the Dice of each structure, averaged over those that are there."""
    overlap, predicted, volume = pool(torch.stack([overlap, predicted, volume])).unbind()
    dice = (2 * overlap + smoothing) / (predicted + volume + smoothing)
    present = (volume > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def deep_supervision_loss(
    outputs: Sequence[Tensor],
    target: Tensor,
    config: LossConfig,
    membership: Tensor | None = None,
    pool: Pool = _alone,
) -> Tensor:
    """The weighted sum of the loss over the network's outputs, each against the target on its own grid.

    Args:
        outputs: logits, finest first, `[B, K, X, Y, Z]`, then at half the grid (`(n + 1) // 2` for `n` voxels), ...
        target: class indices on the finest grid, `[B, X, Y, Z]` int64.
        config: weights of the terms, and one of each output from the finest; outputs beyond those are left out. The
            smoothing is divided by 8 from one grid to the next, so that it stays one volume.
        membership: `[classes, R]`, which classes belong to which region, for a network of R regions.
        pool: sums a tensor over the processes that share the batch.

    Raises:
        UserError: there are more weights than outputs.
    """
    _check_weights(config, outputs)
    total = torch.zeros((), device=target.device)
    level_target = target
    loss = dice_cross_entropy if membership is None else region_dice_cross_entropy
    if membership is not None:
        level_target = membership.to(outputs[0].device, torch.float32)[target].movedim(-1, 1)
    for level, (logits, weight) in enumerate(zip(outputs, config.deep_supervision, strict=False)):
        if level:
            level_target = coarser(level_target, logits.shape[1], logits.shape[2:])
        smoothing = config.smoothing / 8**level
        total = total + weight * loss(logits, level_target, smoothing, config.dice, config.cross_entropy, pool)
    return total


def field_loss(outputs: Sequence[Tensor], field: Tensor, known: Tensor, config: LossConfig) -> Tensor:
    """How far predicted fields are from the true ones, over the network's outputs, each on its own grid.

    For each voxel where the field is known, the squared length of the error e over all its components, divided by their
    number: a length is the same in every pose. With `config.huber` = d it is the pseudo-Huber
    ``2 d^2 (sqrt(1 + |e|^2 / d^2) - 1)`` in its place (Charbonnier et al. 1997, doi:10.1109/83.551699).

    Args:
        outputs: fields, finest first, `[B, K, X, Y, Z]`, then at half the grid, ...
        field: the truth on the finest grid, `[B, K, X, Y, Z]`.
        known: where it is known, `[B, X, Y, Z]`, 0 or 1. On coarser grids the field is the mean of what is known.
        config: `huber`, and the weight of each output from the finest; outputs beyond those are left out.

    Raises:
        UserError: there are more weights than outputs.
    """
    _check_weights(config, outputs)
    weight = known[:, None].to(field.dtype)
    sums = field * weight
    total = torch.zeros((), device=field.device)
    for level, (output, share) in enumerate(zip(outputs, config.deep_supervision, strict=False)):
        if level:
            grid = output.shape[2:]
            sums, weight = coarser(sums, sums.shape[1], grid), coarser(weight, 1, grid)
        squared = (output.to(sums.dtype) - sums / weight.clamp(min=1e-6)).square().sum(1, keepdim=True)
        if config.huber is not None:
            squared = 2 * config.huber**2 * ((1 + squared / config.huber**2).sqrt() - 1)
        mean = (squared * weight).sum() / weight.sum().clamp(min=1) / field.shape[1]
        total = total + share * mean
    return total


def _check_weights(config: LossConfig, outputs: Sequence[Tensor]) -> None:
    if len(config.deep_supervision) > len(outputs):
        found, given = len(outputs), len(config.deep_supervision)
        raise UserError("loss.deep_supervision", f"has {given} weights for {found} outputs", f"give at most {found}")


def coarser(target: Tensor, classes: int, grid: Sequence[int] | None = None) -> Tensor:
    """The share of each class in each voxel of the grid with half as many voxels.

    An even axis of n voxels becomes n / 2 cells of two voxels. An odd one becomes (n + 1) / 2 cells, two voxels apart
    and centred on every other voxel from the first to the last, each taking its own voxel and half of both neighbours
    (the first and last count their own voxel in place of the missing half). Both are symmetric under flips and turns.

    Args:
        target: class indices `[B, X, Y, Z]` int64 or shares `[B, K, X, Y, Z]`.
        classes: K.
        grid: voxels of each axis of the result: half, or as many as before for an axis that is not halved; all halved
            by default.

    Returns:
        Shares `[B, K, *grid]`, float32 for class indices, else of the dtype given.

    Raises:
        ValueError: an axis of `grid` is neither.
    """
    fine = target.shape[-3:]
    grid = [(size + 1) // 2 for size in fine] if grid is None else list(grid)
    groups: list[int] = []  # x cells, voxels a cell, y cells, ...
    for axis, (size, cells) in enumerate(zip(fine, grid, strict=True)):
        if cells == size:
            groups += [size, 1]
        elif cells != (size + 1) // 2:
            raise ValueError(f"a grid of {tuple(fine)} voxels does not become one of {tuple(grid)}")
        elif size % 2:
            halves = torch.arange(2 * (size + 1), device=target.device)
            voxels = ((halves - 1) // 2).clamp(0, size - 1)
            target = target.index_select(target.ndim - 3 + axis, voxels)
            groups += [(size + 1) // 2, 4]
        else:
            groups += [size // 2, 2]
    if target.ndim == 5:
        return target.reshape(*target.shape[:2], *groups).mean((3, 5, 7))
    batch = target.shape[0]
    # The members of a cell as one axis, then each adds its share to its class: no one-hot array on the fine grid.
    members = target.reshape(batch, *groups).permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, -1, *grid)
    share = torch.full_like(members, 1.0, dtype=torch.float32) / members.shape[1]
    return torch.zeros(batch, classes, *grid, device=target.device).scatter_add_(1, members, share)
