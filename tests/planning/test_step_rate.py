"""Timing of steps: that real steps are taken, and that it ends in time."""

from __future__ import annotations

import pytest
import torch

from voxseg.networks import NetworkConfig
from voxseg.planning import step_rate

NETWORK = NetworkConfig(
    in_channels=2,
    out_channels=3,
    levels=("4x0e+1x1e", "4x0e+1x1e"),
    encoder_convolutions=(1, 1),
    decoder_convolutions=(1,),
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("regions", [False, True])
def test_a_small_window_is_timed_as_it_is(regions):
    taken = step_rate.time_step(NETWORK, (16, 8, 16), 2, 1, "float32", CPU, regions, budget=600)
    assert taken.seconds > 0
    assert not taken.scaled


def test_a_window_that_takes_too_long_is_not_waited_for(monkeypatch):
    sizes = []

    def stepper(*_):
        return lambda size, batch: sizes.append((size, batch)) or 1.5

    monkeypatch.setattr(step_rate, "_stepper", stepper)
    taken = step_rate.time_step(NETWORK, (96, 96, 192), 3, 2, "float32", CPU, False)
    assert taken == step_rate.StepTime(1.5 * 16 * 2 * 3, scaled=True)
    assert set(sizes) == {((48, 48, 48), 1)}


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_bfloat16_has_to_be_clearly_faster(monkeypatch, seconds, chosen):
    times = {"float32": 1.0, "bfloat16": seconds}
    monkeypatch.setattr(step_rate, "bfloat16_in_software", lambda device: False)
    monkeypatch.setattr(step_rate, "_stepper", lambda _, precision, *__: lambda *_: times[precision])
    assert step_rate.faster_precision(NETWORK, False) == chosen


def test_bfloat16_in_software_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(step_rate, "bfloat16_in_software", lambda device: True)
    monkeypatch.setattr(step_rate, "_stepper", lambda *_: pytest.fail("measured all the same"))
    assert step_rate.faster_precision(NETWORK, False) == "float32"
