"""Networks on homogeneous spaces: a U-Net over fields of a finite group, exact under all its grid rotations.

T. Cohen, M. Geiger, M. Weiler, "A General Theory of Equivariant CNNs on Homogeneous Spaces", NeurIPS 2019,
arXiv:1811.02017; with regular fields these are the group convolutions of T. Cohen and M. Welling, ICML 2016,
arXiv:1602.07576.

A field of a representation rho of H turns by ``(h f)(x) = rho(h) f(h^-1 x)``; layers between fields are convolutions
with kernels of the space that `intertwiners` solves. On a regular field, one channel an element of H, ``h`` permutes
the channels, so that pointwise non-linearities commute with it. The first layer lifts the image (a trivial field), the
logits are trivial again. With H = O (24 rotations) and regular fields nothing has to be isotropic: every kernel is free
and used in 24 poses. With H = {1, left-right mirror} it is a network of brains that are the same on both sides; its
logits mirror with the image, so that labels with sides have to be merged.

    block:  y = act(norm(K * x)),   act: SiLU on permutation fields,  y sigmoid(a |y|^2 + b) on others
    norm:   by the root mean square over the channels of a voxel, all fields of a representation together (never over
            space, and without centring: the mean of a regular field is all of it that the logits can see)
    down:   (1, 3, 3, 1)/8 at even sizes, (1, 2, 1)/4 at odd ones, along each axis, stride 2, on each channel

What differs from the papers: they have theorems, not a network; low-pass and interpolation are voxseg's own, which keep
the grid's symmetry at every size.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.networks.layers import GAIN
from voxseg.steerable import upsample
from voxseg.testing import grid_rotations

from .base import Baseline
from .finite_groups import FiniteRepresentation, finite_group, representation
from .intertwiners import KernelSpace, kernel_space

__all__ = ["FiniteActivation", "FiniteConv3d", "FiniteField", "FiniteNorm", "Homogeneous", "blur_down"]

_TERM = re.compile(r"^\s*(?:(\d+)\s*x\s*)?([a-z]+(?::\w+)?)\s*$")


@dataclass(frozen=True)
class FiniteField:
    """The channels of a volume as fields of a finite group, such as ``"4xregular+8xtrivial+2xvector"``.

    Attributes:
        group: the group's name.
        terms: multiplicity and name of each representation; the component index is fastest.
    """

    group: str
    terms: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, group: str, text: str) -> FiniteField:
        """Read a field type.

        Raises:
            ValueError: a term is none, or the group has no such representation.
        """
        terms = []
        for term in text.split("+"):
            match = _TERM.match(term)
            if match is None:
                raise ValueError(
                    f"{term.strip()!r} in {text!r} is no field; write terms like '4xregular', joined by '+'"
                )
            representation(group, match[2])
            terms.append((int(match[1] or 1), match[2]))
        return cls(group, tuple(terms))

    @property
    def channels(self) -> int:
        """Total number of channels."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Channels of each term."""
        return [count * rep.dimension for (count, _), rep in zip(self.terms, self.representations, strict=True)]

    @property
    def representations(self) -> list[FiniteRepresentation]:
        """Of each term."""
        return [representation(self.group, name) for _, name in self.terms]

    def __add__(self, other: FiniteField) -> FiniteField:
        return FiniteField(self.group, self.terms + other.terms)

    def matrix(self, element: int) -> Tensor:
        """What an element does to all channels, ``[C, C]`` float64."""
        blocks = [
            rep.matrices[element]
            for (count, _), rep in zip(self.terms, self.representations, strict=True)
            for _ in range(count)
        ]
        return torch.block_diag(*blocks)


class FiniteConv3d(nn.Module):
    """Convolution with kernels of the solved space.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        size: of the kernel, odd.
        bias: a constant for each permutation field; on others it would point somewhere.

    Shape:
        ``[B, field_in.channels, X, Y, Z]`` to ``[B, field_out.channels, X, Y, Z]``.
    """

    def __init__(self, field_in: FiniteField, field_out: FiniteField, size: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.field_in, self.field_out, self.size = field_in, field_out, size
        self.spaces: dict[str, KernelSpace] = {}
        self.weights = nn.ParameterDict()
        fan_in = field_in.channels * size**3
        for o, (count_out, out) in enumerate(field_out.terms):
            for i, (count_in, into) in enumerate(field_in.terms):
                space = kernel_space(field_in.group, into, out, size)
                if space.dimension:
                    name = f"{o}_{i}"
                    self.spaces[name] = space
                    # Of all entries of a kernel, an orthonormal basis spans this share.
                    entries = representation(field_in.group, into).dimension * size**3
                    spread = entries * representation(field_in.group, out).dimension / space.dimension
                    weight = torch.randn(count_out, count_in, space.dimension) * math.sqrt(spread / fan_in)
                    self.weights[name] = nn.Parameter(weight)
        self.bias = _constants(field_out) if bias else None

    def kernel(self) -> Tensor:
        """``[C_out, C_in, s, s, s]``."""
        rows = []
        for o, size_out in enumerate(self.field_out.sizes):
            blocks = []
            for i, size_in in enumerate(self.field_in.sizes):
                name = f"{o}_{i}"
                shape = (size_out, size_in, *(self.size,) * 3)
                if name in self.spaces:
                    kernels = self.spaces[name].kernels(self.weights[name])  # [U, V, d_out, d_in, s, s, s]
                    blocks.append(kernels.transpose(1, 2).reshape(shape))
                else:
                    blocks.append(next(iter(self.weights.values())).new_zeros(shape))
            rows.append(torch.cat(blocks, 1))
        return torch.cat(rows)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; see the class for shapes."""
        kernel = self.kernel().to(x.dtype)
        y = F.conv3d(x, kernel, padding=self.size // 2)
        return y if self.bias is None else y + _over_channels(self.field_out, self.bias, y)


class FiniteNorm(nn.Module):
    """Divides the channels of each representation at each voxel by their root mean square; a shift for permutations.

    Args:
        field: type of input and output.
        epsilon: added to the mean square, so that empty space is not blown up.
    """

    def __init__(self, field: FiniteField, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.field, self.epsilon = field, epsilon
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(count)) for count, _ in field.terms)
        self.shift = _constants(field)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, X, Y, Z]`` to the same."""
        parts = []
        for part, rep, scale in zip(x.split(self.field.sizes, 1), self.field.representations, self.scale, strict=True):
            factor = (part.square().mean(1, keepdim=True) + self.epsilon).rsqrt()
            parts.append(part * factor * scale.repeat_interleave(rep.dimension).view(-1, 1, 1, 1))
        return torch.cat(parts, 1) + _over_channels(self.field, self.shift, x)


class FiniteActivation(nn.Module):
    """SiLU on each component of a permutation field; other fields times the sigmoid of their squared length.

    Args:
        field: type of input and output.
    """

    def __init__(self, field: FiniteField) -> None:
        super().__init__()
        self.field = field
        self.slope = nn.ParameterDict(
            {
                str(number): nn.Parameter(torch.zeros(2, count))
                for number, (count, name) in enumerate(field.terms)
                if not representation(field.group, name).permutation
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, X, Y, Z]`` to the same."""
        parts = []
        for number, (part, rep) in enumerate(
            zip(x.split(self.field.sizes, 1), self.field.representations, strict=True)
        ):
            if rep.permutation:
                parts.append(F.silu(part))
                continue
            fields = part.unflatten(1, (-1, rep.dimension))
            a, b = self.slope[str(number)].view(2, -1, 1, 1, 1, 1)
            parts.append((fields * torch.sigmoid(a * fields.square().mean(2, keepdim=True) + b)).flatten(1, 2))
        return torch.cat(parts, 1)


def _constants(field: FiniteField) -> nn.ParameterDict:
    """A number for each permutation field, by the number of its term: all that a constant field of the type can be."""
    return nn.ParameterDict(
        {
            str(number): nn.Parameter(torch.zeros(count))
            for number, (count, name) in enumerate(field.terms)
            if representation(field.group, name).permutation
        }
    )


def _over_channels(field: FiniteField, constants: nn.ParameterDict, like: Tensor) -> Tensor:
    """Those numbers over the channels, ``[C, 1, 1, 1]``, zero for fields that have none."""
    parts = []
    for number, (size, rep) in enumerate(zip(field.sizes, field.representations, strict=True)):
        values = constants.get(str(number))
        parts.append(like.new_zeros(size) if values is None else values.repeat_interleave(rep.dimension).to(like.dtype))
    return torch.cat(parts).view(-1, 1, 1, 1)


def blur_down(x: Tensor) -> Tensor:
    """Every second sample of each axis after a low-pass, symmetric about the centre: ``ceil(n / 2)`` samples.

    Args:
        x: ``[B, C, X, Y, Z]``, at least 2 voxels a side.
    """
    for axis in (2, 3, 4):
        even = x.shape[axis] % 2 == 0
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if even else [1.0, 2.0, 1.0], dtype=x.dtype, device=x.device)
        shape = [1, 1, 1, 1, 1]
        shape[axis] = len(taps)
        step, border = [1, 1, 1], [0, 0, 0]
        step[axis - 2], border[axis - 2] = 2, 1
        samples = x.flatten(0, 1)[:, None]
        x = F.conv3d(samples, (taps / taps.sum()).view(shape), None, step, border)[:, 0].unflatten(0, x.shape[:2])
    return x


class Homogeneous(Baseline):
    """A U-Net of convolutions with solved kernels: one block on the finest level, two on the others, one on the way up.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        symmetry: the group: ``O`` (24 rotations), ``Oh`` (with reflections, 48), ``mirror`` (left and right), or
            another of `finite_groups.FINITE_GROUPS`.
        levels: fields of each level, finest first, such as ``4xregular`` or ``8xtrivial+2xvector+1xquotient:C4``.
        size: of the kernels, odd.

    Raises:
        ValueError: for a group, a field or a size that there is not.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        symmetry: str = "O",
        levels: Sequence[str] = ("6xtrivial+1xregular", "6xtrivial+2xregular", "3xregular"),
        size: int = 3,
    ) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is odd, got {size}")
        self.symmetry = symmetry
        finite_group(symmetry)
        fields = [FiniteField.parse(symmetry, level) for level in levels]
        image = FiniteField(symmetry, ((in_channels, "trivial"),))
        logits = FiniteField(symmetry, ((out_channels, "trivial"),))

        def block(field_in: FiniteField, field_out: FiniteField) -> nn.Module:
            norm = FiniteNorm(field_out)
            for scale in norm.scale:
                nn.init.constant_(scale, GAIN)
            return nn.Sequential(FiniteConv3d(field_in, field_out, size, bias=False), norm, FiniteActivation(field_out))

        self.encoder = nn.ModuleList([block(image, fields[0])])
        for finer, field in itertools.pairwise(fields):
            self.encoder.append(nn.Sequential(block(finer, field), block(field, field)))
        self.narrow = nn.ModuleList(FiniteConv3d(coarser, field, 1) for field, coarser in itertools.pairwise(fields))
        self.decoder = nn.ModuleList(block(field + field, field) for field in fields[:-1])
        self.logits = FiniteConv3d(fields[0], logits, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(blur_down(x) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            skip = skips[level]
            x = upsample(self.narrow[level](x), skip.shape[2:])
            x = self.decoder[level](torch.cat([skip, x], 1))
        logits: Tensor = self.logits(x)
        return logits

    def rotations(self) -> list[Tensor]:
        """Those of the group."""
        members = {tuple(m.flatten().tolist()) for m in finite_group(self.symmetry).elements}
        return [r for r in grid_rotations(improper=True) if tuple((r + 0.0).flatten().tolist()) in members]
