"""How much memory a training step takes, computed from the config alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from voxseg.networks import NetworkConfig
from voxseg.networks.unet import finest_field, grids
from voxseg.steerable import FieldType, Gate
from voxseg.steerable.ways import SLAB_ELEMENTS

__all__ = ["saved_bytes", "training_bytes"]

_SLABS, _SLAB = 7, SLAB_ELEMENTS
"""Parts of a convolution's input that its backward pass holds at a time, and the most numbers of each on one thread:
three moments along X of the input, three of what comes back, and the gradient itself (`voxseg.steerable.ways`)."""

_LOW_PRECISION = 35e6
"""Bytes that 16-bit convolutions take for themselves on a CPU, measured."""

_LOSS = 6
"""Volumes of one output's logits that the loss and its gradient hold, in float32."""


@dataclass(frozen=True)
class _Block:
    """A convolution, its norm and its non-linearity. Counts are numbers for the whole volume of one sample.

    Attributes:
        entering: in the convolution's input, as far as no other block has the same.
        saved: kept for the backward pass, the input included.
        working: held besides while the backward pass of the convolution runs.
    """

    entering: float
    saved: float
    working: float


def training_bytes(config: NetworkConfig, size: Sequence[int], batch: int = 1, precision: str = "float32") -> int:
    """Bytes of the volumes that a training step holds at its peak, without weights and the framework's own memory.

    The peak is taken to be in the backward pass of the most expensive convolution while all that the forward pass has
    saved is still there. Against the memory of whole steps on a CPU that is 0.77 to 1.35 times what was
    measured (levels of 20, 44 and 88 channels, windows of 40 and 64 voxels, float32 and bfloat16, with and without
    checkpointing).

    Args:
        config: a packaged network; of another architecture the block `levels` is meaningless.
        size: voxels of a sample along each axis.
        batch: samples that are computed together.
        precision: as in the training config.
    """
    voxels = math.prod(size)
    working = max(block.working for stage in _stages(config, size) for block in stage)
    loss = 4 * _LOSS * config.out_channels * voxels
    scratch = 0 if precision == "float32" else _LOW_PRECISION
    return batch * int(_held(config, size) * _bytes(precision) + max(working * _bytes(precision), loss)) + int(scratch)


def saved_bytes(config: NetworkConfig, size: Sequence[int], batch: int = 1, precision: str = "float32") -> int:
    """Bytes that the forward pass keeps for the backward pass, the recomputed ones of the largest stage included."""
    return batch * int(_held(config, size) * _bytes(precision))


def _bytes(precision: str) -> int:
    return 4 if precision == "float32" else 2


def _held(config: NetworkConfig, size: Sequence[int]) -> float:
    """Numbers that the forward pass keeps for a sample."""
    stages = list(_stages(config, size))
    # What the 1x1x1 convolutions keep: the output of each level on the way up, and of the coarsest.
    voxels = _voxels(config, size)
    linear = sum(FieldType(level).channels * v for level, v in zip(config.levels, voxels, strict=True))
    saved = [sum(block.saved for block in stage) for stage in stages]
    if config.checkpointing and config.separable:
        # The finest logits come out of the block before them, whose features are not kept, nor is what the first block
        # makes of the scan: those who read it have it made again.
        spared = 2 if len(config.levels) > 1 else 0
        return linear + sum(saved) - spared * FieldType(config.levels[0]).channels * voxels[0]
    if config.checkpointing:
        return linear + sum(stage[0].entering for stage in stages) + max(saved)
    return linear + sum(saved)


def _voxels(config: NetworkConfig, size: Sequence[int]) -> list[int]:
    """Voxels of each level."""
    _, strides = grids(config, (config.spacing,) * 3)
    shape, result = tuple(size), []
    for stride in strides:
        shape = tuple(-(-n // s) for n, s in zip(shape, stride, strict=True))
        result.append(math.prod(shape))
    return result


def _stages(config: NetworkConfig, size: Sequence[int]) -> Iterator[list[_Block]]:
    """The blocks of each stage, way down first, as `voxseg.networks.unet.UNet` has them."""
    fields = [FieldType(level) for level in config.levels]
    voxels = _voxels(config, size)
    for level, field in enumerate(fields):
        before = fields[level - 1] if level else FieldType(f"{config.in_channels}x0e")
        first = _block(config, before, field, voxels[max(level - 1, 0)], voxels[level])
        others = config.encoder_convolutions[level] - 1
        yield [first] + [_block(config, field, field, voxels[level], voxels[level])] * others
    for level in range(len(fields) - 1):
        count = config.decoder_convolutions[level]
        stage = []
        for index in range(count):
            last = index == count - 1 and level == 0
            field_out = finest_field(config) if last else fields[level]
            coarser = voxels[level + 1] if index == 0 else 0
            stage.append(_block(config, fields[level], field_out, voxels[level], voxels[level], coarser))
        yield stage


def _block(
    config: NetworkConfig,
    field_in: FieldType,
    field_out: FieldType,
    before: int,
    after: int,
    coarser: int = 0,
) -> _Block:
    """The counts of a block between levels of so many voxels.

    Args:
        config: the network.
        field_in: of the input, and of what is upsampled beside it.
        field_out: of the output.
        before: voxels of the input.
        after: voxels of the output.
        coarser: voxels of what is upsampled; steerable blocks do so slab by slab.
    """
    channels, entering = field_out.channels, field_in.channels * before
    if config.architecture == "plain_unet":
        # The convolution keeps its padded input, norm and gate their common one.
        entering *= 2 if coarser else 1
        side = before ** (1 / 3)
        padded = entering * (1 + (config.plain_kernel - (1 if before == after else 2)) / side) ** 3
        return _Block(entering, padded + channels * after, entering + 2 * channels * after)
    leaving = Gate(field_out).field_in.channels * after
    if config.checkpointing and config.separable:
        leaving = 0  # made again slab by slab
    slabs = (_SLABS if leaving else _SLABS + 2) * min(entering * (2 if coarser else 1), _SLAB)
    working = entering + leaving + slabs
    if coarser:  # the skip connection itself is also the input of the level below
        entering = field_in.channels * coarser
        working += entering
    return _Block(entering, entering + leaving, working)
