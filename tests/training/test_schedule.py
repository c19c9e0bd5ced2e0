from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from voxseg.training.config import ScheduleConfig
from voxseg.training.schedule import averaging_decay, learning_rate, update_average


def test_learning_rate_rises_then_falls_to_the_final_one() -> None:
    config = ScheduleConfig(warmup=10, final_learning_rate=1e-5)
    rates = [learning_rate(step, 100, 1e-2, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == rates[10] == pytest.approx(1e-2)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_runs_shorter_than_the_warm_up(steps: int) -> None:
    rates = [learning_rate(step, steps, 1e-2, ScheduleConfig(warmup=5)) for step in range(steps)]
    assert rates == pytest.approx([2e-3 * (step + 1) for step in range(steps)])


def test_no_warm_up() -> None:
    assert learning_rate(0, 10, 1e-2, ScheduleConfig(warmup=0)) == pytest.approx(1e-2)


def test_average_is_the_plain_mean_at_first() -> None:
    network, averaged = nn.Linear(2, 1), nn.Linear(2, 1)
    seen = []
    for step in range(1, 6):
        nn.init.normal_(network.weight)
        seen.append(network.weight.detach().clone())
        update_average(averaged, network, averaging_decay(step, 0.995))
    torch.testing.assert_close(averaged.weight.detach(), torch.stack(seen).mean(0))
    assert averaging_decay(10_000, 0.995) == 0.995


def test_buffers_are_copied() -> None:
    network, averaged = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    network(torch.randn(4, 3))
    update_average(averaged, network, 0.9)
    assert averaged.num_batches_tracked == 1
    torch.testing.assert_close(averaged.running_mean, network.running_mean)


def test_polynomial_decay() -> None:
    config = ScheduleConfig(decay="polynomial", warmup=0, final_learning_rate=0)
    rates = [learning_rate(step, 101, 1.0, config) for step in range(101)]
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.5**0.9)
    assert rates[-1] == 0.0
