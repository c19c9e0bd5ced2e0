from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from voxseg.evaluation.robustness import UPRIGHT, ConditionScore, Robustness, StabilityScore
from voxseg.evaluation.robustness_tests import TESTS, RobustnessSettings
from voxseg.evaluation.structures import Structure
from voxseg.report.robustness_curves import COLOURS, PANEL, draw_robustness

STRUCTURES = (Structure("one", "label", (1,), "none", "#ff0000"), Structure("two", "label", (2,), "none", "#00ff00"))
LEVELS = {
    "angles": [2.0, 60.0, 120.0, 180.0],
    "noise": [0.05, 0.1, 0.2],
    "bias": [0.2, 0.4],
    "blur": [2.0, 4.0],
    "slices": [3.0, 5.0],
    "resolution": [2.0, 3.0],
    "gamma": [0.5, 2.0],
    "cropping": [0.1, 0.2],
    "deformation": [1.0, 2.0],
}


def score(model: str, test: str, level: float, dice: float, base: float) -> ConditionScore:
    pair = (dice - 0.05, dice + 0.05)
    return ConditionScore(
        model, "scan", test, "x", level, "", f"{test} {level}", "labels", UPRIGHT, pair, (base - 0.05, base + 0.05)
    )


def result(models: tuple[str, ...], tests: tuple[str, ...] = tuple(TESTS)) -> Robustness:
    found = Robustness(RobustnessSettings(tests), models, ("scan",), dict.fromkeys(models, STRUCTURES), complete=True)
    for number, model in enumerate(models):
        top = 0.8 - 0.04 * number
        found.scores.append(score(model, "upright", math.nan, top, top))
        for test in tests:
            for k, level in enumerate(LEVELS.get(test, [math.nan])):
                if test != "stability":
                    found.scores.append(score(model, test, level, top - 0.02 * (k + 1) * (number + 1), top))
        if "stability" in tests:
            found.stability.append(StabilityScore(model, "scan", "deformation", 2.0, 0.5 + number, 1.0))
            found.stability.append(StabilityScore(model, "scan", "rotation", 45.0, 0.1 + 10 * number, 1.0))
    return found


def has_colour(picture: np.ndarray, colour: str) -> bool:
    return bool((np.abs(picture[..., :3] - to_rgb(colour)).max(-1) < 0.02).sum() > 100)


def test_every_model_has_its_colour_in_the_picture(tmp_path: Path) -> None:
    draw_robustness(tmp_path / "a.png", result(("ours", "plain_$x$", "third")))
    picture = imread(tmp_path / "a.png")
    assert [has_colour(picture, colour) for colour in COLOURS[:4]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("tests", "rows", "width"),
    [(("noise",), 1, 6.5), (("angles", "rotations"), 1, 14), (tuple(TESTS), 3, 14), (("stability",), 1, 6.5)],
)
def test_there_are_panels_for_what_was_tried(tmp_path: Path, tests: tuple[str, ...], rows: int, width: float) -> None:
    draw_robustness(tmp_path / "a.png", result(("ours",), tests))
    height, across = imread(tmp_path / "a.png").shape[:2]
    assert across == pytest.approx(120 * width, abs=2)
    assert height == pytest.approx(120 * (rows * PANEL[1] + 1.1), abs=2)
    assert has_colour(imread(tmp_path / "a.png"), COLOURS[0])


def test_an_interrupted_run_without_all_models_is_drawn(tmp_path: Path) -> None:
    found = result(("ours", "plain"))
    found.complete = False
    found.scores = [s for s in found.scores if s.model == "ours"][:5]
    found.stability = [StabilityScore("ours", "scan", "rotation", 45.0, math.nan, math.nan)]
    draw_robustness(tmp_path / "a.png", found)
    assert has_colour(imread(tmp_path / "a.png"), COLOURS[0])
