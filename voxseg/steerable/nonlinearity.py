"""What may happen at a voxel without breaking equivariance: norms and gates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fields import FieldType, Irrep


class FieldNorm(nn.Module):
    """Normalisation over the channels of each voxel, never over space, so that the result does not depend on the window.

    Scalars are layer-normalised (Ba et al. 2016); fields of a higher degree are divided by the root mean square of the components of all fields
    of that degree; each field then has a learned scale, each 0e scalar a learned shift.

    Args:
        field: type of input and output.
        epsilon: added to the mean square. The default, far above rounding, keeps empty space from being blown up to unit size.

    Shape:
        ``[B, field.channels, X, Y, Z]`` to the same.
    """

    def __init__(self, field: FieldType | str, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.field, self.epsilon = FieldType(field), epsilon
        self.scale = nn.Parameter(torch.ones(sum(irrep.multiplicity for irrep in self.field.irreps)))
        self.shift = nn.Parameter(torch.zeros(self.field.scalars))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see the class for shapes."""
        x = x.movedim(1, -1)  # [B, X, Y, Z, C]
        parts, field, scalar = [], 0, 0
        for irrep, channels in self.field.slices():
            part = x[..., channels]
            scale = self.scale[field : field + irrep.multiplicity]
            shift = None
            if irrep.name == "0e":
                shift = self.shift[scalar : scalar + irrep.multiplicity]
                scalar += irrep.multiplicity
            parts.append(self._normalised(part, irrep, scale.to(x.dtype), None if shift is None else shift.to(x.dtype)))
            field += irrep.multiplicity
        return torch.cat(parts, -1).movedim(-1, 1)

    def _normalised(self, part: Tensor, irrep: Irrep, scale: Tensor, shift: Tensor | None) -> Tensor:
        if irrep.name == "0e" and irrep.multiplicity > 1:
            return F.layer_norm(part, (irrep.channels,), scale, shift, self.epsilon)
        # The mean of pseudoscalars changes sign under reflection as they do, but a lone scalar minus its mean would be nothing.
        factor = part.square().mean(-1, keepdim=True).add(self.epsilon).rsqrt()
        part = part * (factor * scale.repeat_interleave(irrep.components))
        return part if shift is None else part + shift


class Gate(nn.Module):
    """Gated non-linearity (Weiler et al. 2018, section 2.3): scalars through SiLU, other fields times the sigmoid of a scalar of their own.

    Pseudoscalars (0o) pass through tanh, which is odd as they are.

    Args:
        field: type of the output. The input has one more 0e scalar in front for each field that is gated, see :attr:`field_in`.

    Shape:
        ``[B, field_in.channels, X, Y, Z]`` to ``[B, field.channels, X, Y, Z]``.
    """

    def __init__(self, field: FieldType | str) -> None:
        super().__init__()
        self.field = FieldType(field)
        self.gates = sum(irrep.multiplicity for irrep in self.field.irreps if irrep.degree > 0)
        self.field_in = FieldType((Irrep(self.gates, 0, 1), *self.field.irreps))

    def forward(self, x: Tensor) -> Tensor:
        """Apply; see the class for shapes."""
        x = x.movedim(1, -1)  # [B, X, Y, Z, C]
        gates = torch.sigmoid(x[..., : self.gates])
        fields = x[..., self.gates :]
        parts, used = [], 0
        for irrep, channels in self.field.slices():
            part = fields[..., channels]
            if irrep.degree == 0:
                parts.append(F.silu(part) if irrep.parity > 0 else torch.tanh(part))
                continue
            gate = gates[..., used : used + irrep.multiplicity, None]
            parts.append((part.unflatten(-1, (irrep.multiplicity, irrep.components)) * gate).flatten(-2))
            used += irrep.multiplicity
        return torch.cat(parts, -1).movedim(-1, 1)
