"""Symmetry-breaking order parameters: what an equivariant network lacks to fit its labels, found by gradient.

T. E. Smidt, M. Geiger, B. K. Miller, "Finding symmetry breaking order parameters with Euclidean neural networks", Phys.
Rev. Research 3, L012002 (2021), arXiv:2007.02005.

An equivariant function f cannot make its output less symmetric than its input (Curie's principle): for every g that
leaves x as it is,

    f(x) = f(g x) = g f(x),       so that    Sym(x) is a subgroup of Sym(f(x)).

Labels y without that symmetry have a loss bounded from below; its minimum is the mean of ``g y`` over Sym(x). For left
and right of a mirror-symmetric head under a network of O(3) that is one half each, and the cross-entropy ln 2. So the
network is given further inputs, global fields theta of some irreps, which start near zero and are trained with the
weights,

    min over w, theta of   L(f_w(x, theta), y) + penalty(theta),        f_w(g x, D(g) theta) = g f_w(x, theta),

and those that stay away from zero say how the labels break the symmetry: here one 1o vector from left to right.

In the paper theta is a feature of points, which lie where matter is. On voxels that is ``theta`` times the image, so
that empty space stays empty and nothing depends on where the field of view ends: the extra inputs are the fields
``x_c theta`` for each image c. The network is voxseg's steerable U-Net of group O(3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from voxseg.networks import UNet
from voxseg.networks.layers import SteerableLayers
from voxseg.steerable import FieldType, Irrep
from voxseg.testing import grid_rotations, representation

from .base import Baseline, Group, skeleton

__all__ = ["OrderParameterUNet", "OrderParameters"]


class OrderParameters(nn.Module):
    """Learnable global fields, times the image: ``[B, C, ...]`` to ``[B, C (1 + dim theta), ...]``.

    Args:
        channels: C, of the image.
        irreps: of theta, such as ``1x1o+1x2e``.
        start: standard deviation of theta's components at the start. At exactly zero the weights that read theta would
            have no gradient.

    Attributes:
        field: type of the output, the image first.
        theta: ``[dim theta]``, components in the order of the irreps.
    """

    def __init__(self, channels: int, irreps: str, start: float = 0.01) -> None:
        super().__init__()
        self.irreps = FieldType(irreps)
        copies = tuple(Irrep(i.multiplicity * channels, i.degree, i.parity) for i in self.irreps.irreps)
        self.field = FieldType(f"{channels}x0e") + FieldType(copies)
        self.theta = nn.Parameter(start * torch.randn(self.irreps.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Append the fields; see the class for shapes."""
        parts = [x]
        for irrep, components in self.irreps.slices():
            theta = self.theta[components].view(1, 1, irrep.multiplicity, irrep.components, 1, 1, 1).to(x.dtype)
            parts.append((x[:, :, None, None] * theta).flatten(1, 3))
        return torch.cat(parts, 1)

    def by_irrep(self) -> dict[str, Tensor]:
        """Theta taken apart: name of an irrep to ``[multiplicity, 2l + 1]``."""
        return {
            irrep.name: self.theta.detach()[components].view(irrep.multiplicity, irrep.components)
            for irrep, components in self.irreps.slices()
        }

    def penalty(self) -> Tensor:
        """The sum of the lengths of all fields: it drives those that do not help to zero (as L1 does for numbers)."""
        lengths = [
            (part.view(irrep.multiplicity, irrep.components).square().sum(1) + 1e-12).sqrt().sum()
            for irrep, components in self.irreps.slices()
            for part in (self.theta[components],)
        ]
        return torch.stack(lengths).sum()


class OrderParameterUNet(Baseline):
    """A steerable U-Net of O(3) that is given order parameters; two convolutions on every level but the finest.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        irreps: of the order parameters.
        start: standard deviation of their components at the start.
        levels: field types, finest first. Pseudoscalars and pseudovectors (0o, 1e) would lead nowhere: no kernel makes
            the scalars of the last block of them.
        group: ``O3``; with ``SO3`` they can only break rotations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        irreps: str = "1x1o+1x1e+1x2e",
        start: float = 0.01,
        levels: Sequence[str] = ("8x0e+3x1o+1x2e", "16x0e+6x1o+3x2e", "28x0e+12x1o+5x2e"),
        group: Group = "O3",
    ) -> None:
        super().__init__()
        self.order = OrderParameters(in_channels, irreps, start)
        config = skeleton(in_channels, out_channels, levels, group)
        self.unet = UNet(config, SteerableLayers(config), image=self.order.field)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(self.order(x))
        assert isinstance(logits, Tensor)
        return logits

    def rotations(self) -> list[Tensor]:
        """Those under which theta is what it is: all 48 at zero, often the identity alone."""
        theta = self.order.theta.detach().double()
        kept = []
        for rotation in grid_rotations(improper=self.unet.config.group == "O3"):
            turned = representation(self.order.irreps, rotation).to(theta.device) @ theta
            if torch.allclose(turned, theta, rtol=0, atol=1e-12):
                kept.append(rotation)
        return kept
