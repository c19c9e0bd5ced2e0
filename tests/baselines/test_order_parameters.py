"""Order parameters: how they turn, and left and right of a symmetric phantom, with them and without."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from voxseg.baselines.order_parameters import OrderParameters, OrderParameterUNet
from voxseg.networks import NetworkConfig, build_network
from voxseg.testing import assert_equivariant, grid_rotations, representation, rotate_field

LEVELS = ("4x0e+3x1o", "6x0e+4x1o")
SIDE = 8


def phantom() -> tuple[Tensor, Tensor]:
    """A body with two bodies left and right in it, a mirror image of itself along x alone; 1 left, 2 right, 0 else."""
    axis = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    body = torch.exp(-(x**2 / 18 + (y - 0.5) ** 2 / 10 + (z + 0.5) ** 2 / 14))
    nose = torch.exp(-(x**2 + (y - 3) ** 2 + (z + 1) ** 2) / 3)
    pair = torch.exp(-((x.abs() - 2.5) ** 2 + (y + 1) ** 2 + (z - 0.5) ** 2) / 2)
    image = body + nose + 2 * pair
    labels = torch.where(pair > 0.5, torch.where(x > 0, 2, 1), 0)
    return image[None, None], labels[None]


def side_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of left against right within the two bodies, with the background's logit left out."""
    inside = (labels > 0)[0]
    return F.cross_entropy(logits[0, 1:, inside].T, labels[0, inside] - 1)


def trained(network: torch.nn.Module, steps: int, penalty: float = 0.0) -> float:
    """Train on the phantom; returns the loss of the sides."""
    image, labels = phantom()
    theta = [weight for name, weight in network.named_parameters() if name.endswith("theta")]
    others = [weight for name, weight in network.named_parameters() if not name.endswith("theta")]
    groups = [{"params": others, "lr": 0.015}, *([{"params": theta, "lr": 0.05}] if theta else [])]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = F.cross_entropy(network(image), labels, torch.tensor([0.1, 1.0, 1.0]))
        if penalty:
            loss = loss + penalty * network.order.penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return side_loss(network(image), labels).item()


def test_it_turns_if_theta_turns_with_the_volume() -> None:
    torch.manual_seed(0)
    network = OrderParameterUNet(1, 2, start=1.0, levels=LEVELS).double().eval()
    theta, x = network.order.theta.data.clone(), torch.randn(1, 1, 9, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        upright = network(x)
        for rotation in grid_rotations(improper=True)[::5]:
            network.order.theta.data = representation(network.order.irreps, rotation) @ theta
            turned = network(rotate_field(x, rotation, "1x0e"))
            torch.testing.assert_close(turned, rotate_field(upright, rotation, "2x0e"), rtol=0, atol=1e-9)


def test_at_zero_nothing_is_broken() -> None:
    torch.manual_seed(0)
    network = OrderParameterUNet(1, 2, start=0.0, levels=LEVELS).double().eval()
    assert len(network.rotations()) == 48
    assert_equivariant(network, "1x0e", "2x0e", size=(8, 8, 8), bound=0.3, batch=1, dtype=torch.float64)
    network.order.theta.data[0] = 1.0  # a vector along x
    kept = network.rotations()
    assert len(kept) == 8, "what turns about x, and the mirrors that hold it"
    assert all(rotation[0, 0] == 1 for rotation in kept)


def test_fields_are_the_image_times_theta() -> None:
    order = OrderParameters(2, "1x1o+2x0o", start=1.0)
    x = torch.randn(1, 2, 3, 3, 3)
    y = order(x)
    assert str(order.field) == "2x0e+2x1o+4x0o"
    torch.testing.assert_close(y[:, :2], x)
    torch.testing.assert_close(y[:, 5:8], x[:, 1:] * order.theta[:3].view(1, 3, 1, 1, 1))
    torch.testing.assert_close(order.penalty(), order.theta[:3].norm() + order.theta[3:].abs().sum())


def test_a_network_of_o3_is_stuck_at_ln_2() -> None:
    torch.manual_seed(0)
    network = build_network(
        NetworkConfig(out_channels=3, levels=LEVELS, encoder_convolutions=(1, 1), decoder_convolutions=(1,),
                      group="O3", spacing=1.0, deep_supervision=False)
    )  # fmt: skip
    stuck = trained(network, 30)
    assert stuck > math.log(2) - 1e-5, "half and half is the best that a symmetric function can do"
    assert stuck == pytest.approx(math.log(2), abs=0.02)
    image, _ = phantom()
    with torch.no_grad():
        logits = network(image)
    torch.testing.assert_close(logits, logits.flip(2), rtol=0, atol=1e-4)


def test_a_vector_from_left_to_right_frees_it() -> None:
    torch.manual_seed(0)
    network = OrderParameterUNet(1, 3, "1x1o", levels=LEVELS)
    assert trained(network, 110, penalty=0.1) < 0.05
    vector = network.order.by_irrep()["1o"][0]
    assert (vector[0].abs() / vector.norm()).item() > 0.99
