"""The weights of a network put into a wider one, so that what was learnt need not be learnt again.

After Net2Net (Chen, Goodfellow and Shlens 2016), with fields in the place of channels: each new field begins as a copy
of one that was there, a little disturbed, so that the norms, which divide by a mean over the fields of a voxel, find
what they found before. Nothing reads the new fields at first: their weights there are zero and have gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, compress, groupby

import torch
from torch import Tensor, nn

from voxseg.networks import NetworkConfig
from voxseg.networks.layers import Block
from voxseg.steerable import FieldLinear, FieldNorm, FieldType, Gate, SteerableConv3d

__all__ = ["is_wider", "widen"]

FREE = {"levels", "spacing", "checkpointing", "dense"}
"""Keys of a network that neither change what its other weights do nor their shapes."""

DISTURBANCE = 0.1
"""Of fresh weights that is added to those of new fields, so that copies become different."""


def is_wider(here: NetworkConfig, there: NetworkConfig) -> bool:
    """Whether a steerable U-Net differs from another in nothing but in having more fields on some level."""
    if here.architecture != "steerable_unet" or here.import_path is not None:
        return False
    if here.model_dump(exclude=FREE) != there.model_dump(exclude=FREE):
        return False
    levels = [(FieldType(a).irreps, FieldType(b).irreps) for a, b in zip(here.levels, there.levels, strict=False)]
    if len(here.levels) != len(there.levels) or all(wide == narrow for wide, narrow in levels):
        return False
    return all(
        [irrep.name for irrep in wide] == [irrep.name for irrep in narrow]
        and all(w.multiplicity >= n.multiplicity for w, n in zip(wide, narrow, strict=True))
        # Otherwise the fields of a level and those of the next, set side by side, would count as one kind.
        and wide[0].name != wide[-1].name
        for wide, narrow in levels
    )


@torch.no_grad()
def widen(wide: nn.Module, narrow: nn.Module) -> None:
    """Puts the weights of a network into a wider one.

    Args:
        wide: a steerable U-Net with fresh weights; changed in place.
        narrow: one for which `is_wider` is true.
    """
    for name, part in wide.named_modules():
        other = narrow.get_submodule(name)
        if isinstance(part, Block) and isinstance(other, Block):
            _widen_block(part, other)
        elif isinstance(part, FieldLinear) and isinstance(other, FieldLinear):
            for weight, known in zip(part.weights, other.weights, strict=True):
                _put(weight, known, [len(weight)], [len(known)])
            if part.bias is not None and other.bias is not None:
                _put(part.bias, other.bias, [len(part.bias)], [len(other.bias)])


def _widen_block(wide: Block, narrow: Block) -> None:
    """The same for a convolution and its norm, in whose input the gates come first."""
    (convolution, norm, gate), (known_convolution, known_norm, known_gate) = wide, narrow
    assert isinstance(convolution, SteerableConv3d)
    assert isinstance(known_convolution, SteerableConv3d)
    assert isinstance(norm, FieldNorm)
    assert isinstance(known_norm, FieldNorm)
    assert isinstance(gate, Gate)
    assert isinstance(known_gate, Gate)
    rows, known_rows = _rows(gate), _rows(known_gate)
    for path, weight in convolution.weights.items():
        o = int(path.split("_")[0])
        _put(weight, known_convolution.weights[path], rows[o], known_rows[o])
    scalars = [irrep.name == "0e" for irrep in gate.field_in.irreps]
    for vector, known in ((convolution.bias, known_convolution.bias), (norm.shift, known_norm.shift)):
        _put(vector, known, _joined(compress(rows, scalars)), _joined(compress(known_rows, scalars)))
    _put(norm.scale, known_norm.scale, _joined(rows), _joined(known_rows))


def _rows(gate: Gate) -> list[list[int]]:
    """For each irrep that comes into a gate, how many of its fields are gates of each kind, and how many its own."""
    gates = [("0e", irrep.multiplicity) for irrep in gate.field.irreps if irrep.name != "0e"]
    fields = [*gates, *((irrep.name, irrep.multiplicity) for irrep in gate.field.irreps)]
    return [[count for _, count in group] for _, group in groupby(fields, key=lambda field: field[0])]


def _joined(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def _put(wide: Tensor, narrow: Tensor, parts: Sequence[int], known: Sequence[int]) -> None:
    """Fills a tensor from a smaller one.

    Args:
        wide: fresh; changed in place.
        narrow: its values.
        parts: how many rows of `wide` belong to each kind of field that comes out; columns are of one kind.
        known: the same of `narrow`.
    """
    starts = accumulate(known[:-1], initial=0)
    sources, is_new = (torch.cat(items) for items in zip(*map(_copied, parts, known, starts), strict=True))
    if wide.dim() == 1:
        wide.copy_(narrow[sources])
        return
    wide.mul_(DISTURBANCE * is_new.view(-1, *[1] * (wide.dim() - 1)))
    wide[:, : narrow.shape[1]] += narrow[sources]


def _copied(count: int, known: int, start: int) -> tuple[Tensor, Tensor]:
    """Of which known fields so many are copies, and which of them are new."""
    place = torch.arange(count)
    return start + place % known, place >= known
