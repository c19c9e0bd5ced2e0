from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models import write_model
from voxseg.networks import NetworkConfig, UNet, build_network
from voxseg.testing import assert_equivariant
from voxseg.training import widening
from voxseg.training.initial_weights import describe, take_weights
from voxseg.training.widening import is_wider, widen

NARROW: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "levels": ("4x0e+2x1e+1x2e", "6x0e+2x1e+1x2e", "5x0e+3x1e+2x2e"),
    "encoder_convolutions": (1, 2, 1),
    "decoder_convolutions": (1, 2),
    "heads": {"pose": "2x1e"},
}
DOUBLED = ("8x0e+4x1e+2x2e", "12x0e+4x1e+2x2e", "10x0e+6x1e+4x2e")
UNEVEN = ("4x0e+3x1e+1x2e", "9x0e+2x1e+2x2e", "11x0e+4x1e+5x2e")


def networks(levels: tuple[str, ...]) -> tuple[UNet, UNet]:
    """A network whose weights, biases and norms are all at random, and a wider one that was made of it."""
    torch.manual_seed(0)
    narrow, wide = (
        build_network(NetworkConfig(**{**NARROW, "levels": chosen})) for chosen in (NARROW["levels"], levels)
    )
    assert isinstance(narrow, UNet)
    assert isinstance(wide, UNet)
    with torch.no_grad():
        for parameter in narrow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    widen(wide, narrow)
    return narrow, wide


def outputs(network: UNet) -> list[torch.Tensor]:
    """Logits of all levels and the further head."""
    torch.manual_seed(1)
    image = torch.randn(1, 2, 12, 13, 16)
    return [*network(image, deep_supervision=True), network.forward_heads(image)["pose"]]


def test_twice_as_many_fields_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "DISTURBANCE", 0)
    narrow, wide = networks(DOUBLED)
    for expected, found in zip(outputs(narrow), outputs(wide), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("levels", "bound"), [(DOUBLED, 0.1), (UNEVEN, 0.5)])
def test_new_fields_learn_and_the_network_nearly_says_what_it_said(levels: tuple[str, ...], bound: float) -> None:
    narrow, wide = networks(levels)
    with torch.no_grad():
        for expected, found in zip(outputs(narrow), outputs(wide), strict=True):
            assert (found - expected).norm() < bound * expected.norm()
    optimiser = torch.optim.SGD(wide.parameters(), 1e-4)
    for _ in range(2):  # at first nothing reads the new fields, so that the weights which make them have no gradient
        optimiser.zero_grad()
        torch.stack([tensor.square().sum() for tensor in outputs(wide)]).sum().backward()
        optimiser.step()
    for name, parameter in wide.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.view(len(parameter), -1) != 0).any(1).all(), name


def test_it_stays_equivariant() -> None:
    _, wide = networks(UNEVEN)
    assert_equivariant(wide, "2x0e", "3x0e", bound=None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"levels": ("4x0e+2x1e+1x2e", "6x0e+2x1e+1x2e", "5x0e+2x1e+2x2e")},  # narrower
        {"levels": ("8x0e+2x1e+1x2e", "6x0e+2x1e+1x2e", "5x0e+3x1e+2x2e+1x3e")},  # other kinds
        {"levels": DOUBLED, "sigma": 2.0},
        {"levels": DOUBLED, "out_channels": 4},
        {"levels": DOUBLED, "architecture": "plain_unet"},
        {"levels": DOUBLED[:2], "encoder_convolutions": (1, 2), "decoder_convolutions": (1,)},
    ],
)
def test_what_is_no_wider_network(changes: dict[str, Any]) -> None:
    there = NetworkConfig(**NARROW)
    assert not is_wider(NetworkConfig(**{**NARROW, **changes}), there)
    assert is_wider(NetworkConfig(**{**NARROW, "levels": UNEVEN, "spacing": 1.0}), there)


def test_scalars_alone_are_not_widened() -> None:
    """Two levels of them side by side are one kind, whose parts cannot be told apart."""
    there = NetworkConfig(levels=("4x0e", "8x0e"), encoder_convolutions=(1, 1), decoder_convolutions=(1,))
    assert not is_wider(there.model_copy(update={"levels": ("8x0e", "8x0e")}), there)


def test_a_run_starts_from_a_narrower_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    config = NetworkConfig(
        out_channels=4, levels=("8x0e+2x1e", "7x0e+3x1e"), encoder_convolutions=(1, 1), decoder_convolutions=(1,),
        spacing=4.0,
    )  # fmt: skip
    network = build_network(config)
    origin = take_weights(network, config, str(folder))
    assert origin["taken"] == origin["tensors"]
    assert origin["new"] == {}
    assert origin["widened"] == ["4x0e+2x1e", "6x0e+2x1e"]
    assert describe(origin).endswith("tensors from tiny, widened from levels 4x0e+2x1e, 6x0e+2x1e")
