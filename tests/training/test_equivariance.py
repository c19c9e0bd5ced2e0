from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from voxseg.networks import NetworkConfig, build_network
from voxseg.testing import blobs
from voxseg.training.equivariance import equivariance_error

LEVELS = ("4x0e+2x1e", "6x0e+2x1e")


def image(size: int = 32) -> torch.Tensor:
    return blobs("1x0e", torch.eye(3, dtype=torch.float64), (size,) * 3, width=3.0)[0].float()


def test_pointwise_networks_turn_with_their_input() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Tanh(), nn.Conv3d(4, 3, 1))
    assert equivariance_error(network, image(), 40.0) < 0.01


def test_a_bias_does_not_hide_an_error() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    error = equivariance_error(network, image(), 75.0)
    with torch.no_grad():
        network.bias += 1000
    assert equivariance_error(network, image(), 75.0) == pytest.approx(error, rel=0.02)


def test_a_shift_along_an_axis_is_found() -> None:
    assert equivariance_error(lambda x: x.roll(4, 2), image(), 75.0) > 0.3


@pytest.mark.parametrize("degrees", [40.0, 130.0])
def test_steerable_against_plain(degrees: float) -> None:
    errors = {}
    for architecture in ("steerable_unet", "plain_unet"):
        torch.manual_seed(1)
        config = NetworkConfig(
            architecture=architecture,
            levels=LEVELS,
            encoder_convolutions=(1, 1),
            decoder_convolutions=(1,),
            out_channels=3,
            spacing=1.0,
        )
        errors[architecture] = equivariance_error(build_network(config).eval(), image(), degrees)
    assert errors["steerable_unet"] < 0.2
    assert errors["plain_unet"] > 2.5 * errors["steerable_unet"]


def test_constant_output_has_no_error_and_any_shape_will_do() -> None:
    assert math.isnan(equivariance_error(lambda x: torch.ones_like(x), image(), 40.0))
    oblong = torch.rand(2, 20, 9, 33)
    assert equivariance_error(lambda x: x, oblong, 40.0) < 0.02
