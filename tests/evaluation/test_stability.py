from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from voxseg.evaluation.stability import StabilityInput, deform, middle_cube, relative_stability, turn
from voxseg.networks import NetworkConfig, build_network

SIDE = 40
AXIS = (1.0, 2.0, 3.0)
LEVELS = ("4x0e+2x1e", "6x0e+2x1e")


@pytest.fixture(scope="module")
def shown() -> StabilityInput:
    """Smooth tissue in a ball."""
    offset = np.arange(SIDE) - (SIDE - 1) / 2
    radius = np.sqrt(offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2)
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(SIDE,) * 3), 2.5)
    image = (0.6 + 0.25 * texture / texture.std()) / (1 + np.exp((radius - 14) / 1.5))
    return middle_cube(torch.from_numpy(image[None]).float(), ["tissue"], 2.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pointwise(x: Tensor) -> Tensor:
    return torch.cat([2 * x - 0.3, 0.5 - x, 0.1 * x], 1)


def sharp(x: Tensor) -> Tensor:
    """A pointwise function that is not linear."""
    return torch.cat([torch.sigmoid(8 * (x - 0.6)), torch.cos(4 * x)], 1)


def by_place(x: Tensor) -> Tensor:
    """A function that knows where it is."""
    ramp = torch.linspace(-1, 1, x.shape[2])[:, None, None].expand(x.shape[2:])
    return torch.cat([x + 2 * ramp, x - 2 * ramp], 1)


def gradients(x: Tensor) -> Tensor:
    """A function that commutes with shifts and depends on directions."""
    return torch.cat([torch.gradient(x, dim=d)[0] * (d - 1) + x * 0.01 for d in (2, 3, 4)], 1)


def quotient(function, shown: StabilityInput, warp) -> float:  # type: ignore[no-untyped-def]
    measured = relative_stability(function, shown, warp, rng(9))
    return measured.deformation / measured.noise


def test_a_pointwise_function_deforms_with_its_input(shown: StabilityInput) -> None:
    for seed in range(3):
        warp = deform(shown, 2.0, rng(seed))
        assert relative_stability(pointwise, shown, warp, rng(9)).deformation < 1e-10
        assert quotient(sharp, shown, warp) < 0.05
    faded, warp = turn(shown, AXIS, 45.0)
    assert relative_stability(pointwise, faded, warp, rng(9)).deformation < 1e-10
    assert quotient(sharp, faded, warp) < 0.05


def test_a_function_that_leans_on_the_place_or_the_direction_does_not(shown: StabilityInput) -> None:
    faded, warp = turn(shown, AXIS, 45.0)
    assert quotient(by_place, faded, warp) > 1
    assert quotient(gradients, faded, warp) > 10 * quotient(sharp, faded, warp)
    assert quotient(by_place, shown, deform(shown, 2.0, rng())) > 10 * quotient(sharp, shown, deform(shown, 2.0, rng()))


def test_noise_is_as_long_as_the_change_that_the_deformation_makes(shown: StabilityInput) -> None:
    seen = []

    def remember(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return pointwise(x)

    measured = relative_stability(remember, shown, deform(shown, 2.0, rng()), rng(9))
    upright, warped, noisy = seen if len(seen) == 3 else (seen[0], seen[1], seen[-1])
    assert float((noisy - upright).norm()) == pytest.approx(float((warped - upright).norm()), rel=1e-4)
    # For a linear function the noise comes out as it went in.
    inside = torch.from_numpy(shown.tissue)
    expected = (noisy - upright)[0, 0][inside].square().sum()
    centred = upright[0, 0][inside] - upright[0, 0][inside].mean()
    assert measured.noise == pytest.approx(float(expected / centred.square().sum()), rel=1e-3)


def test_only_differences_of_exclusive_logits_count(shown: StabilityInput) -> None:
    """What is added to all logits alike changes no class; regions have thresholds of their own."""

    def shared(x: Tensor) -> Tensor:
        return pointwise(x) + by_place(x)[:, :1]

    warp = deform(shown, 2.0, rng())
    assert relative_stability(shared, shown, warp, rng(9)).deformation < 1e-10
    assert relative_stability(shared, shown, warp, rng(9), exclusive=False).deformation > 1e-4


def test_a_constant_output_has_none(shown: StabilityInput) -> None:
    measured = relative_stability(lambda x: torch.zeros(1, 3, *x.shape[2:]), shown, deform(shown, 2.0, rng()), rng())
    assert math.isnan(measured.deformation)
    assert math.isnan(measured.noise)


@pytest.mark.parametrize("architecture", ["steerable_unet", "plain_unet"])
def test_networks_with_random_weights_mind_both_alike(shown: StabilityInput, architecture: str) -> None:
    torch.manual_seed(1)
    config = NetworkConfig(
        architecture=architecture, out_channels=4, levels=LEVELS, encoder_convolutions=(1, 1), decoder_convolutions=(1,)
    )
    network = build_network(config).eval()
    ratios = [quotient(network, shown, deform(shown, 2.0, rng(seed))) for seed in range(3)]
    assert 0.2 < float(np.median(ratios)) < 5


def test_a_steerable_network_minds_a_turn_less_than_its_plain_twin(shown: StabilityInput) -> None:
    faded, warp = turn(shown, AXIS, 45.0)
    found = {}
    for architecture in ("steerable_unet", "plain_unet"):
        ratios = []
        for seed in range(3):
            torch.manual_seed(seed)
            network = build_network(
                NetworkConfig(
                    architecture=architecture,
                    out_channels=4,
                    levels=LEVELS,
                    encoder_convolutions=(1, 1),
                    decoder_convolutions=(1,),
                )
            ).eval()
            ratios.append(quotient(network, faded, warp))
        found[architecture] = float(np.median(ratios))
    assert found["steerable_unet"] < 0.5 * found["plain_unet"]


def test_the_cube_is_about_the_tissue_and_holds_what_was_there() -> None:
    image = torch.zeros(2, 30, 20, 26)
    image[0, 18:28, 3:9, 10:20] = torch.rand(10, 6, 10) + 1
    image[1, 18:28, 3:9, 10:20] = -1.0
    shown = middle_cube(image, ["zscore", "zscore"], 1.5)
    assert shown.image.shape == (2, 24, 24, 24)
    assert shown.tissue.sum() == 600
    assert float(shown.image[0].sum()) == pytest.approx(float(image[0].sum()))
    middle = np.array(np.nonzero(shown.tissue)).mean(1)
    assert np.abs(middle - 11.5).max() <= 0.5
    assert shown.spacing == 1.5
