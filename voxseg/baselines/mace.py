"""MACE on voxels: products of what arrives with itself, so that one layer sees several neighbours together.

I. Batatia, D. P. Kovacs, G. N. C. Simm, C. Ortner, G. Csanyi, "MACE: Higher Order Equivariant Message Passing Neural
Networks for Fast and Accurate Force Fields", NeurIPS 2022, arXiv:2206.07697.

    A_{c,lm}(p) = sum_q [ (W_in h(q)) (x) R(|q - p|) Y(q - p) ] mixed to C copies of each degree        (eq. 8)
    B_{c,LM}(p) = symmetric contraction of A_c(p) up to order nu, weights by class of p               (eqs. 10, 11)
    h'(p)       = W B(p)  +  sum_t a_t(p) W_t h(p)                                                    (eq. 12)

What a layer of order nu makes of a place depends on up to nu neighbours together (body order nu + 1), where ordinary
messages depend on one. There is no other non-linearity.

What differs: messages are `voxseg.baselines.messages`', on voxels an ordinary convolution; chemical elements become
soft classes of intensity, as in `voxseg.baselines.nequip`; voxseg's norm over the channels of each voxel stands before
the products, which would otherwise leave the range of float32 in a deep network. It tells of no more than |A_l|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import FieldLinear, FieldNorm, FieldType
from voxseg.steerable.layout import as_rows, as_volume
from voxseg.testing import grid_rotations

from .base import Baseline, Group, sampled, skeleton
from .cuequivariance_backend import CuequivarianceContraction
from .messages import Graph, Messages
from .nequip import InteractionUNet, Places, SelfConnection
from .quadrature import trained_on
from .symmetric_contraction import SymmetricContraction

__all__ = ["MACE", "MACEBlock", "MACELayers"]

Backend = Literal["own", "cuequivariance"]
BACKENDS: dict[Backend, type[SymmetricContraction]] = {
    "own": SymmetricContraction,
    "cuequivariance": CuequivarianceContraction,
}


class MACEBlock(nn.Module):
    """One layer.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        grid: mm between voxels of the input, along x, y, z.
        stride: 1 or 2 per axis.
        classes: T.
        order: nu.
        channels: C; by default as many as either field has copies of its most frequent irrep above degree 0, or has
            scalars where there are none.
        chunk: see `SymmetricContraction`.
        norm: whether A is normalised.
        backend: ``own``, or ``cuequivariance`` for products by that library; weights and values are the same.
        **messages: further arguments of `Messages`; A has the degrees up to `degree`.

    Raises:
        UserError: the library of `backend` is not installed.
        ValueError: there is no such backend, or no product of A has an irrep of the output.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        grid: Spacing | None = None,
        stride: Triple = (1, 1, 1),
        classes: int = 1,
        order: int = 3,
        channels: int | None = None,
        chunk: int = 4096,
        norm: bool = True,
        backend: Backend = "own",
        **messages: Any,
    ) -> None:
        super().__init__()
        field_in, field_out = FieldType(field_in), FieldType(field_out)
        self.grid, self.stride = grid, stride
        counts = {i.multiplicity for i in (*field_in.irreps, *field_out.irreps) if i.degree}
        channels = channels or max(counts or {i.multiplicity for i in field_out.irreps})
        odd = messages.get("group") == "O3"
        kinds = "+".join(f"{n}{'o' if odd and n % 2 else 'e'}" for n in range(messages.get("degree", 2) + 1))
        names = "+".join(dict.fromkeys(irrep.name for irrep in field_out.irreps))
        if backend not in BACKENDS:
            raise ValueError(f"backend is {' or '.join(BACKENDS)}, got '{backend}'")
        self.contraction = BACKENDS[backend](channels, kinds, names, order, classes, chunk)
        self.messages = Messages(field_in, self.contraction.field_in, trained=trained_on(grid, stride), **messages)
        self.norm = FieldNorm(self.contraction.field_in) if norm else None
        self.mix = FieldLinear(self.contraction.field_out, field_out)
        self.own = SelfConnection(field_in, field_out, classes)

    def forward(self, x: Tensor, source: Places, target: Places) -> Tensor:
        """On voxels; see `NequIPBlock.forward`."""
        a = self.messages(x, self.grid, self.stride, target.image, source.image)
        a = a if self.norm is None else self.norm(a)
        y = self._rest(as_rows(a), as_rows(sampled(x, self.stride)), as_rows(target.classes))
        return as_volume(y, (a.shape[0], *a.shape[2:]))

    def on_points(self, x: Tensor, graph: Graph, places: Places, volume: float = 1.0) -> Tensor:
        """Between points, which send and receive: ``[N, C_in]`` to ``[N, C_out]``; `volume` as for `Messages`."""
        a = self.messages.on_points(x, graph, places.image, volume)
        a = a if self.norm is None else as_rows(self.norm(as_volume(a, (1, len(a), 1, 1))))
        return self._rest(a, x, places.classes)

    def _rest(self, a: Tensor, h: Tensor, classes: Tensor) -> Tensor:
        """Products, mixing and the own term of rows."""
        mixed = self.mix(as_volume(self.contraction(a, classes), (1, len(a), 1, 1)))
        own: Tensor = self.own(h, classes)
        return as_rows(mixed) + own


class MACELayers:
    """A factory of MACE's layers for voxseg's U-Net.

    Args:
        radius: of the messages, in voxels of the level.
        classes: T.
        **block: further arguments of `MACEBlock`.
    """

    def __init__(self, radius: float, classes: int, **block: Any) -> None:
        self.radius, self.classes, self.arguments = radius, classes, block

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """A layer within so many voxels of the level."""
        sizes: dict[str, Any] = {"radius": self.radius * 2.0**level, "spacing": 2.0**level}
        return MACEBlock(field_in, field_out, spacing, stride, self.classes, **sizes, **self.arguments)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return FieldLinear(field_in, field_out)


class MACE(Baseline):
    """A U-Net of MACE's layers; two on every level but the finest, which has one, and one on every level up.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: field types, finest first.
        order: nu, the number of factors of the products, 1 to 3.
        radius: of the messages, in voxels of their level.
        degree: highest degree of the harmonics and of A.
        bessel: number of Bessel functions.
        width: of the radial networks' hidden layer.
        classes: of tissue, each with weights of its own in products and self-connections.
        chunk: voxels whose products are held at a time.
        group: ``SO3``, or ``O3`` for products that keep parity.
        backend: of the products, see `MACEBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[str] = ("3x0e+3x1e+3x2e", "7x0e+7x1e+7x2e", "12x0e+12x1e+12x2e"),
        order: int = 3,
        radius: float = 2.5,
        degree: int = 2,
        bessel: int = 4,
        width: int = 8,
        classes: int = 2,
        chunk: int = 4096,
        group: Group = "SO3",
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        self.group: Group = group
        sizes: dict[str, Any] = {"order": order, "degree": degree, "bessel": bessel, "width": width}
        layers = MACELayers(radius, classes, chunk=chunk, group=group, backend=backend, **sizes)
        self.unet = InteractionUNet(skeleton(in_channels, out_channels, levels, group), layers, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits

    def rotations(self) -> list[Tensor]:
        """The 24 rotations, and with O(3) the reflections."""
        return grid_rotations(improper=self.group == "O3")
