from __future__ import annotations

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.training.picture import draw_case, draw_progress
from voxseg.training.planes import cut_planes
from voxseg.training.scores import CaseScore, CaseView, ValidationResult, class_counts, output_members

SCHEME = LabelScheme.model_validate(
    {
        "classes": [1, 2],
        "table": [{"id": 1, "name": "Core $x", "colour": "#00ff00"}, {"id": 2, "name": "Rim", "colour": "#ff00ff"}],
        "regions": [{"name": "whole", "ids": [1, 2], "label": 2}, {"name": "core $x", "ids": [1], "label": 1}],
    }
)


def view(turned: bool) -> CaseView:
    truth = np.zeros((20, 18, 16), dtype=np.uint8)
    truth[4:14, 4:14, 4:12] = 2
    truth[6:10, 6:10, 6:10] = 1
    prediction = np.where(truth == 2, 2, 0).astype(np.uint8)
    image = np.random.default_rng(0).random(truth.shape) + truth
    grid = Geometry(truth.shape, np.diag([1.0, 1.0, 3.0, 1.0]))
    planes = cut_planes(image, truth, prediction, grid, output_members(SCHEME))
    counts = class_counts(truth, prediction, SCHEME)
    score = CaseScore(0, "p1", counts, counts if turned else None)
    return CaseView(0, "p1", score, planes, planes if turned else [])


def near(picture: np.ndarray, colour: tuple[float, float, float], within: float = 0.3) -> np.ndarray:
    return np.abs(picture[..., :3] - colour).max(-1) < within


@pytest.mark.parametrize("turned", [False, True])
def test_case_shows_truth_above_prediction(tmp_path: Path, turned: bool) -> None:
    path = tmp_path / "p1.png"
    draw_case(path, view(turned), SCHEME, "step 5: p1 $")
    picture = matplotlib.image.imread(path)
    panels = picture[:, : round(picture.shape[1] * 0.6)]
    upper, lower = np.array_split(panels, 2)
    assert near(upper, (0, 1, 0)).sum() > 20  # the core, in the truth only
    assert near(lower, (0, 1, 0)).sum() == 0
    assert near(upper, (1, 0, 1)).sum() > 20
    assert near(lower, (1, 0, 1)).sum() > 20
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("full", [False, True])
def test_progress_with_and_without_what_may_be_missing(tmp_path: Path, full: bool) -> None:
    steps = [float(step) for step in range(1, 9)]
    scores = [math.nan, 0.25] * 4
    metrics = {"step": steps, "loss": steps[::-1], "learning_rate": steps, "dice": scores}
    metrics |= {"dice whole": scores, "dice core $x": [math.nan] * 8}
    if full:
        metrics |= {"turned": [math.nan, 0.8] * 4, "equivariance_error": [math.nan, 0.5] * 4}
    shown = view(True)
    result = ValidationResult([shown.score], [shown] if full else [], [])
    draw_progress(tmp_path / "progress.png", metrics, SCHEME, result, "tiny: step 8 of 8")
    picture = matplotlib.image.imread(tmp_path / "progress.png")
    curves = picture[: picture.shape[0] // 2]
    purple = near(curves, (0.58, 0.40, 0.74), 0.05)
    assert (purple.sum() > 10) == full
    outlines = near(picture[picture.shape[0] // 2 :], (0, 1, 0))
    assert (outlines.sum() > 10) == full
