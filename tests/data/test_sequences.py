from __future__ import annotations

import csv
import math
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from voxseg.data import sequences
from voxseg.data.relaxation import relaxation
from voxseg.data.sequences import draw_signal

WHITE_MATTER, CORTEX, VENTRICLE, FAT = 0, 1, 2, 3
LABELS = np.array([2, 3, 4, 511])
BRAIN = torch.tensor([True, True, True, False])
CLASSES = torch.arange(4)


def draws(count: int = 200) -> Tensor:
    """Mean signals of `count` scans, [count, labels]."""
    random = torch.Generator().manual_seed(5)
    return torch.stack([draw_signal(random, relaxation(LABELS), CLASSES, BRAIN)[0] for _ in range(count)])


def only(monkeypatch: pytest.MonkeyPatch, sequence: int) -> None:
    """Draw this sequence alone, and timing as ever."""
    monkeypatch.setattr(sequences, "_draw_sequence", lambda random: sequence)


class TestRelaxation:
    def test_values_of_labels_in_their_order(self) -> None:
        assert relaxation(np.array([4, 2])).tolist() == pytest.approx(np.array([[4300, 500], [329, 70], [1.0, 0.77]]))

    def test_unknown_labels_are_nan(self) -> None:
        assert relaxation(np.array([2, 9999])).isnan().tolist() == [[False, True]] * 3

    def test_every_label_has_one_tissue_and_both_sides_the_same(self) -> None:
        with files("voxseg.data").joinpath("relaxation.csv").open(encoding="utf-8") as file:
            ids = [int(label) for row in csv.DictReader(file) for label in row["labels"].split()]
        assert len(ids) == len(set(ids))
        pairs = [(left, right) for left, right in zip((2, 3, 4, 7, 8), (41, 42, 43, 46, 47), strict=True)]
        pairs += list(zip((10, 11, 12, 13, 17, 18, 26, 28), (49, 50, 51, 52, 53, 54, 58, 60), strict=True))
        for left, right in pairs:
            assert torch.equal(relaxation(np.array([left])), relaxation(np.array([right])))


class TestDrawSignal:
    def test_order_of_tissues_in_each_sequence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        orders = {
            0: (VENTRICLE, CORTEX, WHITE_MATTER),  # T1: from dark to bright
            2: (WHITE_MATTER, CORTEX, VENTRICLE),  # T2
            3: (VENTRICLE, WHITE_MATTER, CORTEX),  # FLAIR
        }
        for sequence, order in orders.items():
            only(monkeypatch, sequence)
            found = draws(60)
            for darker, brighter in pairwise(order):
                assert (found[:, darker] < found[:, brighter]).float().mean() > 0.75, sequence

    def test_proton_density_is_flat(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only(monkeypatch, 1)
        found = draws(60)
        ratio = found[:, CORTEX] / found[:, WHITE_MATTER]
        assert 1.02 < ratio.median() < 1.3

    def test_signal_follows_the_equation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Timing at its least, so that the signal can be computed by hand.
        monkeypatch.setattr(sequences, "uniform", lambda random, low, high: low)
        tissue = torch.tensor([[500.0], [70.0], [0.77]])
        expected = {
            0: 0.77 * (1 - math.exp(-350 / 500)) * math.exp(-8 / 70),
            1: 0.77 * (1 - math.exp(-2000 / 500)) * math.exp(-8 / 70),
            2: 0.77 * (1 - math.exp(-2500 / 500)) * math.exp(-70 / 70),
        }
        for sequence, value in expected.items():
            only(monkeypatch, sequence)
            found = sequences._signal(torch.Generator(), tissue)
            assert found.item() == pytest.approx(value, rel=1e-5)

    def test_flair_has_no_signal_of_fluid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sequences, "uniform", lambda random, low, high: (low + high) / 2)
        only(monkeypatch, 3)
        fluid = torch.tensor([[sequences.FLUID], [329.0], [1.0]])
        assert sequences._signal(torch.Generator(), fluid).item() == pytest.approx(0, abs=1e-6)

    def test_unknown_tissue_gets_a_signal_of_its_own(self) -> None:
        random = torch.Generator().manual_seed(0)
        for labels in ([2, 3, 9999], [9997, 9998, 9999]):
            tissue = relaxation(np.array(labels))
            brain = torch.tensor([True, True, False])
            mean, deviation = draw_signal(random, tissue, torch.arange(3), brain)
            assert mean.isfinite().all()
            assert (torch.stack((mean, deviation)) > 0).all()
