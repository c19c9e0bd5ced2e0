"""A scalar potential of a scan and its gradient: an l=1 field without curl, by construction.

In NequIP (arXiv:2101.03164, eqs. 1 and 2) forces are the gradient of a learned energy, so that they conserve it
exactly. Here a potential U is read from the features h of a volume at any point x, not at voxels alone,

    U(x) = MLP( scalars of  sum_q  (W_in h(q)) (x) R(|q - x|) Y(q - x) ),      F(x) = -grad U(x),

with the messages of `voxseg.baselines.messages`, which are smooth functions of q - x, also where x is a voxel and where
a voxel comes into reach. U might be the signed distance from a surface, -F then is its normal.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from voxseg.networks.unet import Spacing
from voxseg.steerable import FieldType

from .messages import Messages
from .points import radius_graph

__all__ = ["ScalarPotential"]


class ScalarPotential(nn.Module):
    """U and F of the module's docstring.

    Args:
        field_in: type of h.
        hidden: scalars that a point hears, and width of the MLP.
        radius: of what a point hears, in mm.
        **messages: further arguments of `Messages`.
    """

    def __init__(self, field_in: FieldType | str, hidden: int = 16, radius: float = 2.5, **messages: Any) -> None:
        super().__init__()
        self.messages = Messages(field_in, f"{hidden}x0e", radius, **messages)
        self.readout = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor, points: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
        """The potential.

        Args:
            features: ``[C, X, Y, Z]``.
            points: ``[N, 3]`` in mm from the centre of the first voxel.
            spacing: mm between voxels.

        Returns:
            ``[N]``.
        """
        index = torch.tensor(list(itertools.product(*map(range, features.shape[1:]))), device=points.device)
        places = index.to(points) * torch.tensor(spacing).to(points)
        graph = radius_graph(places, self.messages.radius, points)
        volume = spacing[0] * spacing[1] * spacing[2] / self.messages.spacing**3
        heard = self.messages.on_points(features.flatten(1).T, graph, volume=volume)
        potential: Tensor = self.readout(heard)[:, 0]
        return potential

    def with_force(self, features: Tensor, points: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> tuple[Tensor, Tensor]:
        """U ``[N]`` and F ``[N, 3]`` per mm, both with gradients for training; see `forward`."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            potential = self(features, points, spacing)
            (gradient,) = torch.autograd.grad(potential.sum(), points, create_graph=True)
        return potential, -gradient
