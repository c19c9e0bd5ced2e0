"""The picture of learning curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.image import imread

from voxseg.evaluation.power_law import LearningCurve, fit_power_law
from voxseg.report.learning_curves import COLOURS, draw_learning_curves

PANELS = (("upright", "upright"), ("turned", "turned, mean over the poses"))


def curve(arm: str, panel: str, errors: dict[int, list[float]]) -> LearningCurve:
    return LearningCurve(arm, f"{arm} network $x_1$", panel, errors, fit_power_law(errors, 100))


def errors(a: float, b: float, c: float) -> dict[int, list[float]]:
    return {n: [(a * n**-b + c) * 1.05, (a * n**-b + c) / 1.05] for n in (1, 2, 4, 8)}


def painted(picture: np.ndarray, colour: str) -> np.ndarray:
    """Where a picture has about a colour, rows from the top."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.abs(picture[..., :3] - rgb).max(-1) < 0.02


def test_each_arm_has_its_colour_in_both_panels(tmp_path):
    path = tmp_path / "curves.png"
    curves = [curve("steerable", "upright", errors(0.3, 0.5, 0.02)), curve("plain", "upright", errors(0.5, 0.4, 0.02))]
    curves += [curve("steerable", "turned", errors(0.3, 0.5, 0.02)), curve("plain", "turned", errors(0.8, 0.1, 0.02))]
    draw_learning_curves(path, curves, "heads with 50 % of $", "whole tumour", PANELS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]
    picture = imread(path)
    half = picture.shape[1] // 2
    for k in range(2):
        there = painted(picture, COLOURS[k])
        assert there[:, :half].sum() > 200
        assert there[:, half:].sum() > 200
    # The larger errors of the plain network lie higher.
    heights = [
        np.flatnonzero(painted(picture[: int(0.85 * len(picture)), half:], c).any(1)).mean() for c in COLOURS[:2]
    ]
    assert heights[1] < heights[0]


@pytest.mark.parametrize(
    "values",
    [
        {4: [0.3, 0.4]},
        {4: [0.3]},
        {1: [0.5], 2: [math.nan], 4: [0.4]},
        {1: [1.0, 1.0], 2: [1.0, 0.9], 4: [0.0, 0.0]},
        {1: [math.nan]},
    ],
)
def test_whatever_there_is_can_be_drawn(values, tmp_path):
    path = tmp_path / "curves.png"
    draw_learning_curves(path, [curve("plain", "upright", values)], "title", "subtitle", PANELS)
    assert imread(path).shape[1] > 600


def test_many_arms_share_one_legend(tmp_path):
    curves = [curve(f"arm{k}", "upright", errors(0.2 + 0.1 * k, 0.5, 0)) for k in range(6)]
    draw_learning_curves(tmp_path / "curves.png", curves, "title", "subtitle", PANELS[:1])
    picture = imread(tmp_path / "curves.png")
    assert all(painted(picture, colour).any() for colour in COLOURS[:6])
