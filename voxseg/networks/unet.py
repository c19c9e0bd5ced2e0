"""One U-Net skeleton for steerable and for plain layers: what differs is only the factory that makes the layers.

Levels are numbered from the finest grid (0) to the coarsest. Going down, each level begins with a convolution of stride
2; going up, the coarser features are mixed into the skip connection's type, upsampled linearly and concatenated to it.
No volume is ever padded: a grid of n voxels becomes ``ceil(n / 2)`` and comes back exactly, for any n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..steerable import FieldType, Irrep, add_upsampled, beside_upsampled, strides_for
from .config import NetworkConfig
from .layers import Block

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Heads = Sequence[nn.Module] | nn.ModuleList


class LayerFactory(Protocol):
    """Makes the layers of one family (steerable or plain) for given field types."""

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """Convolution, norm and non-linearity."""

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """A 1x1x1 convolution."""


class UNet(nn.Module):
    """U-Net over fields.

    Args:
        config: the network.
        layers: makes its layers.
        grid_spacing: mm between voxels of the input along x, y, z; by default ``config.spacing`` on every axis. The
            same weights run on any grid: kernels are built in mm, and an axis that is already coarse is not halved
            until the others have caught up.
        image: type of the input; by default ``config.in_channels`` scalars.

    Shape:
        ``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``.
    """

    def __init__(
        self,
        config: NetworkConfig,
        layers: LayerFactory,
        grid_spacing: Spacing | None = None,
        image: FieldType | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image = image = image or FieldType(f"{config.in_channels}x0e")
        fields = [FieldType(level) for level in config.levels]
        spacings, strides = grids(config, grid_spacing or (config.spacing,) * 3)
        depth = len(fields)

        self.encoder = nn.ModuleList()
        for level, field in enumerate(fields):
            blocks = []
            for index in range(config.encoder_convolutions[level]):
                first = index == 0
                field_in = field if not first else fields[level - 1] if level else image
                spacing = spacings[level - 1] if first and level else spacings[level]
                stride = strides[level] if first else (1, 1, 1)
                blocks.append(layers.block(field_in, field, spacing, level - 1 if first and level else level, stride))
            self.encoder.append(nn.Sequential(*blocks))

        self.narrow = nn.ModuleList(layers.linear(fields[level + 1], fields[level]) for level in range(depth - 1))
        self.decoder = nn.ModuleList()
        decoded = [finest_field(config), *fields[1:]]
        for level in range(depth - 1):
            blocks = []
            count = config.decoder_convolutions[level]
            for index in range(count):
                field_in = fields[level] + fields[level] if index == 0 else fields[level]
                field_out = decoded[level] if index == count - 1 else fields[level]
                blocks.append(layers.block(field_in, field_out, spacings[level], level, (1, 1, 1)))
            self.decoder.append(nn.Sequential(*blocks))

        logits = config.output_field
        supervised = max(depth - 1, 1) if config.deep_supervision else 1
        self.logits = nn.ModuleList(layers.linear(field, logits) for field in decoded[:supervised])
        self.coarse_logits = layers.linear(decoded[1], logits) if config.coarse_logits and depth > 1 else None
        if self.coarse_logits is not None:
            # Nothing is added at first, so that it can be put into a trained network that lacks it.
            for parameter in self.coarse_logits.parameters():
                nn.init.zeros_(parameter)
        self.heads = nn.ModuleDict(
            {name: layers.linear(decoded[0], FieldType(field)) for name, field in config.heads.items()}
        )

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor | list[Tensor]:
        """Logits; with ``deep_supervision`` a list of logits, finest first, each on the grid of its level."""
        levels = len(self.logits) if deep_supervision else 1
        logits = self.features(x, levels, self.logits[:levels])
        return logits if deep_supervision else logits[0]

    def forward_heads(self, x: Tensor) -> dict[str, Tensor]:
        """All outputs by name: ``segmentation`` and the config's further heads."""
        finest, *coarser = self.features(x, 2)
        logits = self.logits[0](finest)
        if self.coarse_logits is not None:
            logits = add_upsampled(logits, self.coarse_logits(coarser[0]))
        return {"segmentation": logits} | {name: head(finest) for name, head in self.heads.items()}

    def features(self, x: Tensor, levels: int = 1, heads: Heads = ()) -> list[Tensor]:
        """Decoder features of the ``levels`` finest grids, finest first: ``[B, C_level, ceil(X / 2^level), ...]``.

        With ``heads``, finest first, what they make of the features of their levels. The finest features then need
        never be whole.
        """
        if x.dim() != 5 or x.shape[1] != self.image.channels:
            raise ValueError(f"expected [B, {self.image.channels}, X, Y, Z], got {tuple(x.shape)}")
        skips = []
        for stage in self.encoder:
            x = self._run(stage, stage, x)
            skips.append(x)
        coarsest = len(self.decoder)
        results = [heads[coarsest](x) if coarsest < len(heads) else x]
        for level in reversed(range(coarsest)):
            decode = partial(self._decode, level, heads[0] if heads and level == 0 else None)
            x = self._run(self.decoder[level], decode, skips.pop(level), x)
            # Before the finer levels, so that the backward pass makes the gradient of these features after theirs.
            results.append(heads[level](x) if 0 < level < len(heads) else x)
        return results[::-1][:levels]

    def _decode(self, level: int, head: nn.Module | None, skip: Tensor, x: Tensor) -> Tensor:
        """From the coarser features to those of a level, ``[B, C_level, grid of skip]``, or what a head makes of them.

        ``[B, 2 C_level, ...]`` go into the first block; where it can, it upsamples half of them a few planes at a time.
        With a head, which is that of the finest logits, the coarse logits are added where the network has them.
        """
        added = None if head is None or self.coarse_logits is None else self.coarse_logits(x)
        *others, last = self.decoder[level].children()
        coarse: Tensor | None = self.narrow[level](x)
        x = skip
        for block in others:
            x, coarse = _through(block, x, coarse), None
        x = _through(last, x, coarse, head)
        return x if added is None else add_upsampled(x, added)

    def fold(self) -> nn.Module:
        """A copy for inference whose steerable layers are multiplied out to constant weights; it computes the same."""
        folded = _folded(self)
        folded.requires_grad_(False)
        return folded.eval()

    def _run(self, blocks: nn.Module, stage: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run a part of the network; with checkpointing, of all that it computes only the result is kept."""
        alone = all(isinstance(block, Block) and block.recompute for block in blocks.children())
        if self.config.checkpointing and torch.is_grad_enabled() and not alone:
            result: Tensor = checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=False)
            return result
        return stage(*inputs)


def _through(block: nn.Module, x: Tensor, coarse: Tensor | None, head: nn.Module | None = None) -> Tensor:
    """A block of any family, and a head if there is one; ``coarse`` is on the next coarser grid."""
    if isinstance(block, Block):
        return block(x, coarse, head)
    y: Tensor = block(beside_upsampled(x, coarse))
    return y if head is None else head(y)


def finest_field(config: NetworkConfig) -> FieldType:
    """The type of the finest features, from which the outputs are read.

    Logits are scalars, so all channels of the finest level become scalars in the last block, and no field is computed
    that nothing reads; only the irreps that a further head asks for are kept beside them. A network of a single level
    has no decoder and keeps its type; so does one that predicts a field.
    """
    finest = FieldType(config.levels[0])
    if len(config.levels) == 1 or config.output is not None:
        return finest
    asked = {irrep.name for field in config.heads.values() for irrep in FieldType(field).irreps} - {"0e"}
    kept = tuple(irrep for irrep in finest.irreps if irrep.name in asked)
    return FieldType((Irrep(finest.channels - sum(irrep.channels for irrep in kept), 0, 1), *kept))


def grids(config: NetworkConfig, spacing: Spacing) -> tuple[list[Spacing], list[Triple]]:
    """Spacing of each level in mm, and the stride by which it is reached from the one before."""
    spacings, strides = [spacing], [(1, 1, 1)]
    for level in range(1, len(config.levels)):
        stride = strides_for(spacings[-1], config.spacing * 2**level)
        x, y, z = (h * s for h, s in zip(spacings[-1], stride, strict=True))
        spacings.append((x, y, z))
        strides.append(stride)
    return spacings, strides


def _folded(module: nn.Module) -> nn.Module:
    """A shallow copy of a module tree in which every module that can fold is replaced by its folded form."""
    copy = module.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy._modules = {
        name: child if child is None else child.fold() if hasattr(child, "fold") else _folded(child)  # type: ignore[operator]
        for name, child in module._modules.items()
    }
    copy._parameters = {
        name: None if p is None else nn.Parameter(p.detach().clone()) for name, p in module._parameters.items()
    }
    return copy
