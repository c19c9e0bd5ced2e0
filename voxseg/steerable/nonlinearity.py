"""What may happen at a voxel without breaking equivariance: norms and gates.

Both are written as products with small matrices over the channels of all voxels, ``[voxels, C] x [C, k]``: on a CPU
that is several times faster than slicing a volume into its fields and concatenating them again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fields import FieldType, Irrep
from .layout import as_rows, as_volume


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

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see the class for shapes."""
        rows = as_rows(x) @ self._centre.to(x.dtype)
        mean_square = rows.square() @ self._mean.to(x.dtype)
        scale = self._member * (self.scale @ self._spread)
        factor = (mean_square + self.epsilon).rsqrt() @ scale.to(x.dtype)
        return as_volume(
            torch.addcmul((self.shift @ self._shifted).to(x.dtype), rows, factor), (x.shape[0], *x.shape[2:])
        )


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


def _components(field: FieldType) -> Tensor:
    """``[fields, C]``, 1 where a channel is a component of a field."""
    sizes = torch.tensor([irrep.components for irrep in field.irreps for _ in range(irrep.multiplicity)])
    return torch.repeat_interleave(torch.eye(len(sizes)), sizes, dim=1)
