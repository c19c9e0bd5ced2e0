"""What may happen at a voxel without breaking equivariance: norms and gates.

Both are written as products with small matrices over the channels of all voxels, ``[voxels, C] x [C, k]``: on a CPU
that is several times faster than slicing a volume into its fields and concatenating them again.

:func:`gated_norm` does both at once, a few thousand voxels at a time so that they stay in the cache, and keeps its
input alone for the backward pass, where autograd keeps six volumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fields import FieldType, Irrep
from .layout import as_rows, as_volume, sum_type
from .uncompiled import uncompiled

# Numbers of an intermediate matrix of `gated_norm`, 512 KiB in float32: the fastest of 2^15 to 2^21.
_BLOCK_ELEMENTS = 2**17


class Affine(Protocol):
    """A map of the channels of each voxel."""

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """``[K, C]`` and ``[K]``."""


class FieldNorm(nn.Module):
    """Normalisation over the channels of each voxel, never over space: the result does not depend on the window.

    Scalars are layer-normalised (Ba et al. 2016); fields of any other irrep are divided by the root mean square of the
    components of all fields of that irrep; each field then has a learned scale, each 0e scalar a learned shift.

    Args:
        field: type of input and output.
        epsilon: added to the mean square. The default, far above rounding, keeps empty space from being blown up to
            unit size.

    Shape:
        ``[B, field.channels, X, Y, Z]`` to the same.
    """

    def __init__(self, field: FieldType | str, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.field, self.epsilon = FieldType(field), epsilon
        irreps = self.field.irreps
        self.scale = nn.Parameter(torch.ones(sum(irrep.multiplicity for irrep in irreps)))
        self.shift = nn.Parameter(torch.zeros(self.field.scalars))
        kind = torch.repeat_interleave(torch.arange(len(irreps)), torch.tensor([irrep.channels for irrep in irreps]))
        member = torch.nn.functional.one_hot(kind, len(irreps)).float()  # [C, irreps]
        # A lone scalar minus its mean would be nothing, so it is only scaled.
        centred = torch.tensor([float(irrep.name == "0e" and irrep.multiplicity > 1) for irrep in irreps])
        mean = member / member.sum(0)
        self._centre: Tensor
        self._mean: Tensor
        self._member: Tensor
        self._spread: Tensor
        self._shifted: Tensor
        self.register_buffer("_centre", torch.eye(len(kind)) - (mean * centred) @ member.T, persistent=False)
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_member", member.T.contiguous(), persistent=False)
        self.register_buffer("_spread", _components(self.field), persistent=False)
        scalars = torch.cat([torch.full((irrep.channels,), irrep.name == "0e") for irrep in irreps])
        self.register_buffer("_shifted", torch.eye(len(kind))[scalars], persistent=False)

    @property
    def centring(self) -> Tensor:
        """``[C, C]``, symmetric: takes the mean of the scalars off. A linear map before the norm can do it as well."""
        return self._centre

    def scales(self) -> Tensor:
        """``[irreps, C]``: what the inverse root mean squares of a voxel are multiplied by for each channel."""
        return self._member * (self.scale @ self._spread)

    def shifts(self) -> Tensor:
        """``[C]``, what is added at last."""
        return self.shift @ self._shifted

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see the class for shapes."""
        rows = as_rows(x) @ self._centre.to(x.dtype)
        mean_square = rows.square() @ self._mean.to(x.dtype)
        factor = (mean_square + self.epsilon).rsqrt() @ self.scales().to(x.dtype)
        return as_volume(torch.addcmul(self.shifts().to(x.dtype), rows, factor), (x.shape[0], *x.shape[2:]))


class Gate(nn.Module):
    """Gated non-linearity (Weiler et al. 2018, section 2.3).

    Each 0e scalar is multiplied by its own sigmoid (SiLU), any other field by that of a gate.

    Args:
        field: type of the output. The input has one more 0e scalar in front for each field that is no 0e scalar, see
            :attr:`field_in`.

    Shape:
        ``[B, field_in.channels, X, Y, Z]`` to ``[B, field.channels, X, Y, Z]``.
    """

    def __init__(self, field: FieldType | str) -> None:
        super().__init__()
        self.field = FieldType(field)
        self.gates = sum(irrep.multiplicity for irrep in self.field.irreps if irrep.name != "0e")
        self.field_in = FieldType((Irrep(self.gates, 0, 1), *self.field.irreps))
        # Row = the channel whose sigmoid is used, column = the channel of the output that it multiplies.
        source = torch.zeros(self.field_in.channels, self.field.channels)
        gate = 0
        for irrep, channels in self.field.slices():
            for index in range(channels.start, channels.stop):
                own = (index - channels.start) // irrep.components
                source[self.gates + index if irrep.name == "0e" else gate + own, index] = 1
            gate += 0 if irrep.name == "0e" else irrep.multiplicity
        self._controls = int(source.sum(1).nonzero().max()) + 1  # nothing after the last control needs a sigmoid
        self._source: Tensor
        self.register_buffer("_source", source[: self._controls], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply; see the class for shapes."""
        rows = as_rows(x)
        multiplier = torch.sigmoid(rows[:, : self._controls]) @ self._source.to(x.dtype)
        return as_volume(rows[:, self.gates :] * multiplier, (x.shape[0], *x.shape[2:]))


@uncompiled  # a loop over blocks that the compiler would unroll
def gated_norm(x: Tensor, norm: FieldNorm, gate: Gate) -> Tensor:
    """``gate(norm(x))`` for volumes whose scalars have no mean: what came before has done ``norm.centring``.

    Computed in float32 (float64 for float64) whatever the type of the input, which is that of the output.

    Args:
        x: ``[B, C, X, Y, Z]``, best in ``channels_last_3d``.
        norm: over ``gate.field_in``.
        gate: what follows it.

    Returns:
        ``[B, gate.field.channels, X, Y, Z]``.
    """
    with torch.autocast(x.device.type, enabled=False):
        then = GatedNorm.of(norm, gate, None, x.dtype)
        rows: Tensor = _GatedNorm.apply(as_rows(x), then, *then.tensors)
    return as_volume(rows, (x.shape[0], *x.shape[2:]))


@dataclass(frozen=True)
class GatedNorm:
    """``gate(norm(x))`` and what may follow, a mixing of the channels, for rows ``[voxels, C]``, with its gradients.

    For rows ``c`` of mean squares ``q``: ``n = c ((q + epsilon)^-1/2 S) + t``, ``y = n_out (sigmoid(n_control) G)``,
    and then, if there is a head, ``y H^T + h``. Both passes run a few thousand rows at a time.

    Attributes:
        scales: ``S``, ``[irreps, C]``.
        shifts: ``t``, ``[C]``.
        mean: ``[C, irreps]``, takes the means of the squares.
        source: ``G``, ``[controls, C']``.
        epsilon: of the norm.
        head: ``H``, ``[K, C']``, and ``h``, ``[K]``, in the type of the rows.
    """

    scales: Tensor
    shifts: Tensor
    mean: Tensor
    source: Tensor
    epsilon: float
    head: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, norm: FieldNorm, gate: Gate, head: Affine | None, dtype: torch.dtype) -> GatedNorm:
        """For rows of some type, with the present weights; ``head`` maps the channels that come out of the gate."""
        accurate = sum_type(dtype)
        affine = None
        if head is not None:
            matrix, bias = head.affine()
            affine = matrix.to(dtype), matrix.new_zeros(len(matrix)).to(dtype) if bias is None else bias.to(dtype)
        return cls(
            norm.scales().to(accurate),
            norm.shifts().to(accurate),
            norm._mean.to(accurate),
            gate._source.to(accurate),
            norm.epsilon,
            affine,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that have gradients, in the order of ``sums`` in :meth:`backward`."""
        return (self.scales, self.shifts, *(self.head or ()))

    @property
    def channels(self) -> int:
        """How many come out."""
        return self.source.shape[1] if self.head is None else len(self.head[0])

    def forward(self, rows: Tensor, target: Tensor) -> None:
        """Set ``target``, ``[voxels, channels]``."""
        gates = rows.shape[1] - self.source.shape[1]
        for part in _blocks(rows):
            *_, normed = self._normed(rows[part].to(self.scales.dtype))
            multiplier = torch.sigmoid(normed[:, : len(self.source)]) @ self.source
            features = multiplier.mul_(normed[:, gates:])
            if self.head is None:
                target[part] = features
            else:
                torch.addmm(self.head[1], features.to(rows.dtype), self.head[0].T, out=target[part])

    def backward(self, rows: Tensor, gradient: Tensor, sums: Sequence[Tensor]) -> Tensor:
        """From the gradient of what comes out to that of ``rows``; adds those of :attr:`tensors` to ``sums``."""
        gates, controls = rows.shape[1] - self.source.shape[1], len(self.source)
        result = torch.empty_like(rows)
        for part in _blocks(rows):
            centred = rows[part].to(self.scales.dtype)
            inverse, factor, normed = self._normed(centred)
            sigmoid = torch.sigmoid(normed[:, :controls])
            multiplier = sigmoid @ self.source
            back = gradient[part]
            if self.head is not None:
                features = (multiplier * normed[:, gates:]).to(rows.dtype)
                sums[2].add_(back.T @ features)
                sums[3].add_(back.sum(0, dtype=sums[3].dtype))
                back = back @ self.head[0]
            back = back.to(self.scales.dtype)
            # Through the gate: what is multiplied, and what it is multiplied by.
            for_normed = torch.zeros_like(normed) if gates else torch.empty_like(normed)
            torch.mul(back, multiplier, out=for_normed[:, gates:])
            for_control = (back * normed[:, gates:]) @ self.source.T
            for_normed[:, :controls] += for_control.mul_(sigmoid).mul_(1 - sigmoid)
            # Through the norm.
            sums[1].add_(for_normed.sum(0))
            for_factor = for_normed * centred
            sums[0].add_(inverse.T @ for_factor)
            for_square = (for_factor @ self.scales.T).mul_(inverse.pow(3)).neg_()  # twice the gradient of q
            result[part] = for_normed.mul_(factor).addcmul_(centred, for_square @ self.mean.T)
        return result

    def _normed(self, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inverse root mean squares ``[V, irreps]``, what each channel is multiplied by, and the normalised rows."""
        inverse = (centred.square() @ self.mean).add_(self.epsilon).rsqrt_()
        factor = inverse @ self.scales
        return inverse, factor, torch.addcmul(self.shifts, centred, factor)


class _GatedNorm(torch.autograd.Function):
    """See :func:`gated_norm`; keeps the rows that it is given, and computes all else again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, then: GatedNorm, *tensors: Tensor) -> Tensor:
        del tensors  # those of `then`, given for their gradients
        ctx.save_for_backward(rows)
        ctx.then = then
        result = rows.new_empty(len(rows), then.channels)
        then.forward(rows, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        sums = [torch.zeros_like(tensor) for tensor in ctx.then.tensors]
        return (ctx.then.backward(rows, gradient.contiguous(), sums), None, *sums)


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Cut rows into blocks that stay in a CPU's cache; a GPU takes all at once."""
    step = max(_BLOCK_ELEMENTS // rows.shape[1], 1) if rows.device.type == "cpu" else max(len(rows), 1)
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _components(field: FieldType) -> Tensor:
    """``[fields, C]``, 1 where a channel is a component of a field."""
    sizes = torch.tensor([irrep.components for irrep in field.irreps for _ in range(irrep.multiplicity)])
    return torch.repeat_interleave(torch.eye(len(sizes)), sizes, dim=1)
