"""NequIP on voxels: depthwise tensor-product messages in millimetres, own terms by tissue class, gates.

S. Batzner, A. Musaelian, L. Sun, M. Geiger, J. P. Mailoa, M. Kornbluth, N. Molinari, T. E. Smidt, B. Kozinsky,
"E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials", Nat. Commun. 13, 2453
(2022), arXiv:2101.03164.

In an interaction an atom p hears its neighbours within a cut-off and itself, by the chemical element it is:

    h'(p) = gate( sum_t a_t(p) W_t h(p)  +  m(p) ),      m(p) = W_out sum_q (W_in h(q)) (x) R(|q - p|) Y(q - p)

with m from `voxseg.baselines.messages`, which has the radial network R. Here voxels are the atoms, and what element an
atom is becomes a soft class of its intensities I(p), as in a mixture of Gaussians of equal weight,

    a_t(p) = softmax_t( -|I(p) - c_t|^2 / 2 s_t^2 ),

with learned c_t and s_t. In the data-dependent form R sees the intensities of both ends too.

What differs: see `messages` for the radial part; voxseg's norm over the channels of each voxel stands before the gate;
the skeleton for segmentation is voxseg's U-Net, where coarser levels see the image averaged. As kernels are functions
of millimetres, `NequIP.at_spacing` gives the same network on another grid, isotropic or not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.networks import NetworkConfig, UNet
from voxseg.networks.layers import GAIN
from voxseg.networks.unet import Heads, Spacing, Triple, grids
from voxseg.steerable import FieldLinear, FieldNorm, FieldType, Gate, upsample
from voxseg.steerable.layout import as_rows, as_volume
from voxseg.testing import grid_rotations

from .base import Baseline, Group, sampled, skeleton
from .messages import Graph, Messages
from .quadrature import trained_on

__all__ = ["InteractionUNet", "NequIP", "NequIPBlock", "NequIPLayers", "Places", "SelfConnection", "TissueClasses"]


@dataclass(frozen=True)
class Places:
    """What is known of voxels or points beside their features.

    Attributes:
        image: intensities, ``[B, I, X, Y, Z]`` of voxels or ``[N, I]`` of points.
        classes: a_t, ``[B, T, X, Y, Z]`` or ``[N, T]``.
    """

    image: Tensor
    classes: Tensor


class TissueClasses(nn.Module):
    """Soft classes of intensities, a_t of the module's docstring.

    Args:
        intensities: I, of a place.
        classes: T.
    """

    def __init__(self, intensities: int, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1.5, 1.5, classes)[:, None].repeat(1, intensities))
        self.log_widths = nn.Parameter(torch.zeros(classes))

    def forward(self, rows: Tensor) -> Tensor:
        """``[N, I]`` to ``[N, T]``."""
        squares = (rows[:, None] - self.centres).square().sum(-1)
        return torch.softmax(-squares * torch.exp(-2 * self.log_widths) / 2, -1)

    def on_voxels(self, image: Tensor) -> Places:
        """Of an image ``[B, I, X, Y, Z]``."""
        return Places(image, as_volume(self(as_rows(image)), (image.shape[0], *image.shape[2:])))

    def on_points(self, image: Tensor) -> Places:
        """Of points with intensities ``[N, I]``."""
        return Places(image, self(image))


class SelfConnection(nn.Module):
    """``sum_t a_t W_t h``: mixing of fields of one kind, by class; kinds that the input has not are zero.

    Args:
        field_in: type of h.
        field_out: type of the output.
        classes: T.
    """

    def __init__(self, field_in: FieldType, field_out: FieldType, classes: int) -> None:
        super().__init__()
        names = {irrep.name for irrep in field_in.irreps}
        shared = [(irrep, channels) for irrep, channels in field_out.slices() if irrep.name in names]
        self.channels_out = field_out.channels
        self.channels = [c for _, channels in shared for c in range(channels.start, channels.stop)]
        self.linears = nn.ModuleList()
        if shared:
            made = FieldType(tuple(irrep for irrep, _ in shared))
            self.linears.extend(FieldLinear(field_in, made, bias=False) for _ in range(classes))

    def forward(self, rows: Tensor, classes: Tensor) -> Tensor:
        """``[N, C_in]`` and ``[N, T]`` to ``[N, C_out]``."""
        result = rows.new_zeros(len(rows), self.channels_out)
        if not self.linears:
            return result
        matrices = torch.cat([linear.matrix() for linear in self.linears])  # type: ignore[operator]
        each = F.linear(rows, matrices).unflatten(1, (len(self.linears), -1))
        mixed = torch.einsum("nt,ntc->nc", classes, each)
        return result.index_add(1, torch.tensor(self.channels, device=rows.device), mixed)


class NequIPBlock(nn.Module):
    """One interaction.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        grid: mm between voxels of the input, along x, y, z.
        stride: 1 or 2 per axis.
        classes: T.
        **messages: further arguments of `Messages`.
    """

    def __init__(
        self,
        field_in: FieldType | str,
        field_out: FieldType | str,
        grid: Spacing | None = None,
        stride: Triple = (1, 1, 1),
        classes: int = 1,
        **messages: Any,
    ) -> None:
        super().__init__()
        self.grid, self.stride = grid, stride
        self.gate = Gate(FieldType(field_out))
        before = self.gate.field_in
        self.own = SelfConnection(FieldType(field_in), before, classes)
        self.messages = Messages(field_in, before, trained=trained_on(grid, stride), **messages)
        self.norm = FieldNorm(before)
        nn.init.constant_(self.norm.scale, GAIN)

    def forward(self, x: Tensor, source: Places, target: Places) -> Tensor:
        """On voxels.

        Args:
            x: ``[B, C_in, X, Y, Z]``.
            source: of the voxels of x.
            target: of the voxels of the output.

        Returns:
            ``[B, C_out, ceil(X / stride), ...]``.
        """
        y = self.messages(x, self.grid, self.stride, target.image, source.image)
        own = self.own(as_rows(sampled(x, self.stride)), as_rows(target.classes))
        activated: Tensor = self.gate(self.norm(y + as_volume(own, (y.shape[0], *y.shape[2:]))))
        return activated

    def on_points(self, x: Tensor, graph: Graph, places: Places, volume: float = 1.0) -> Tensor:
        """Between points, which send and receive: ``[N, C_in]`` to ``[N, C_out]``; `volume` as for `Messages`."""
        y = self.messages.on_points(x, graph, places.image, volume) + self.own(x, places.classes)
        return as_rows(self.gate(self.norm(as_volume(y, (1, len(y), 1, 1)))))


class _Interactions(Protocol):
    """Layers whose blocks are called as `NequIPBlock`."""

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module: ...

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module: ...


class NequIPLayers:
    """A factory of interactions for voxseg's U-Net.

    Args:
        radius: of the messages, in voxels of the level on the network's own grid.
        classes: T of `TissueClasses`.
        **messages: further arguments of `Messages`.
    """

    def __init__(self, radius: float, classes: int, **messages: Any) -> None:
        self.radius, self.classes, self.messages = radius, classes, messages

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """An interaction within so many voxels of the level."""
        voxel = 2.0**level
        return NequIPBlock(
            field_in,
            field_out,
            spacing,
            stride,
            self.classes,
            radius=self.radius * voxel,
            spacing=voxel,
            **self.messages,
        )

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return FieldLinear(field_in, field_out)


def _first(stage: nn.Module) -> Any:
    return next(stage.children())


class InteractionUNet(UNet):
    """voxseg's U-Net, whose blocks also see the intensities of their voxels and classes of them.

    Args:
        config: of the network.
        layers: make blocks that are called as `NequIPBlock`.
        classes: T of `TissueClasses`.
    """

    def __init__(self, config: NetworkConfig, layers: _Interactions, classes: int) -> None:
        super().__init__(config, layers)
        self.classes = TissueClasses(config.in_channels, classes)

    def move(self, spacing: Spacing) -> None:
        """From now on volumes have this spacing: kernels are evaluated there, coarse axes are not halved at first."""
        spacings, strides = grids(self.config, spacing)
        for level, stage in enumerate(self.encoder):
            for index, block in enumerate(stage.children()):
                first = index == 0 and level > 0
                block.grid = spacings[level - first]  # type: ignore[assignment]
                block.stride = strides[level] if first else (1, 1, 1)  # type: ignore[assignment]
        for level, stage in enumerate(self.decoder):
            for block in stage.children():
                block.grid = spacings[level]  # type: ignore[assignment]

    def features(self, x: Tensor, levels: int = 1, heads: Heads = ()) -> list[Tensor]:
        """As `UNet.features`."""
        if x.dim() != 5 or x.shape[1] != self.image.channels:
            raise ValueError(f"expected [B, {self.image.channels}, X, Y, Z], got {tuple(x.shape)}")
        places = [self.classes.on_voxels(x)]
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                places.append(self.classes.on_voxels(sampled(places[-1].image, _first(stage).stride)))
            for index, block in enumerate(stage.children()):
                x = block(x, places[level - 1 if level and index == 0 else level], places[level])
            skips.append(x)
        decoded = [x]
        for level in reversed(range(len(self.decoder))):
            x = torch.cat([skips[level], upsample(self.narrow[level](x), skips[level].shape[2:])], 1)
            for block in self.decoder[level].children():
                x = block(x, places[level], places[level])
            decoded.append(x)
        decoded = decoded[::-1][:levels]
        return [heads[level](x) if level < len(heads) else x for level, x in enumerate(decoded)]


class NequIP(Baseline):
    """A U-Net of interactions; two on every level but the finest, which has one, and one on every level up.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: field types, finest first.
        radius: of the messages, in voxels of their level on the grid that it is trained on.
        degree: highest degree of the harmonics.
        bessel: number of Bessel functions.
        width: of the radial networks' hidden layer.
        classes: of tissue, each with a self-connection of its own.
        data_dependent: whether the radial networks see the intensities of both ends.
        group: ``SO3``, or ``O3`` for products that keep parity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[str] = ("4x0e+2x1e+1x2e", "10x0e+6x1e+3x2e", "20x0e+12x1e+6x2e"),
        radius: float = 2.5,
        degree: int = 2,
        bessel: int = 4,
        width: int = 8,
        classes: int = 3,
        data_dependent: bool = False,
        group: Group = "SO3",
    ) -> None:
        super().__init__()
        self.group: Group = group
        layers = NequIPLayers(
            radius,
            classes,
            degree=degree,
            bessel=bessel,
            width=width,
            intensities=in_channels if data_dependent else 0,
            group=group,
        )
        self.unet = InteractionUNet(skeleton(in_channels, out_channels, levels, group), layers, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits

    def at_spacing(self, spacing: Spacing) -> NequIP:
        """A copy with the same weights for another grid.

        Args:
            spacing: voxels of the input along x, y, z, in units of those that it was trained on.
        """
        moved = copy.deepcopy(self)
        moved.unet.move(spacing)
        return moved

    def rotations(self) -> list[Tensor]:
        """The 24 rotations, and with O(3) the reflections."""
        return grid_rotations(improper=self.group == "O3")
