from __future__ import annotations

import math

import numpy as np
import pytest

from voxseg.data.label_scheme import LabelScheme
from voxseg.training.scores import (
    CaseScore,
    CaseView,
    ValidationResult,
    class_counts,
    mean_dice,
    merge,
    output_colours,
)

TABLE = [{"id": 1, "name": "Core"}, {"id": 2, "name": "Oedema"}, {"id": 4, "name": "Enhancing", "colour": "#ff0000"}]
REGIONS = [
    {"name": "whole", "ids": [1, 2, 4], "label": 2},
    {"name": "core", "ids": [1, 4], "label": 1},
    {"name": "enhancing", "ids": [4], "label": 4},
]


def scheme(regions: bool) -> LabelScheme:
    values = {"classes": [1, 2, 4], "table": TABLE, "regions": REGIONS if regions else []}
    return LabelScheme.model_validate(values)


def score(number: int, name: str, *rows: tuple[int, int, int], turned: bool = False) -> CaseScore:
    counts = np.array(rows, dtype=np.int64)
    return CaseScore(number, name, counts, counts // 2 if turned else None)


@pytest.mark.parametrize("regions", [False, True])
def test_counts_are_those_of_masks(regions: bool) -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
    ids = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]} if regions else {"1": [1], "2": [2], "4": [3]}
    expected = []
    for classes in ids.values():
        t, p = np.isin(truth, classes), np.isin(prediction, classes)
        expected.append([(t & p).sum(), t.sum(), p.sum()])
    assert class_counts(truth, prediction, scheme(regions)).tolist() == np.array(expected).tolist()


def test_counts_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        class_counts(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), scheme(False))


def test_dice_is_the_mean_over_cases_in_which_the_structure_is_there_or_predicted() -> None:
    result = ValidationResult(
        [
            score(0, "a", (4, 4, 4), (0, 0, 0), (0, 0, 0)),
            score(1, "b", (1, 2, 2), (0, 0, 5), (0, 0, 0)),  # the second one predicted where there is none: 0
        ]
    )
    assert result.dice[:2] == [0.75, 0.0]
    assert math.isnan(result.dice[2])
    assert mean_dice(result.dice) == 0.375
    assert result.turned is None
    assert math.isnan(result.equivariance_error)


def test_merge_puts_cases_in_their_order_and_pools_those_of_one_name() -> None:
    first = ValidationResult([score(2, "c", (1, 1, 1)), score(0, "a", (0, 1, 1))], errors=[0.2])
    second = ValidationResult([score(1, "b", (1, 2, 2))], [CaseView(1, "b", score(1, "b", (1, 2, 2)), [])], [0.4])
    merged = merge([first, second, ValidationResult([])])
    assert [case.name for case in merged.cases] == ["a", "b", "c"]
    assert merged.dice == [0.5]
    assert merged.equivariance_error == pytest.approx(0.3)
    assert [view.name for view in merged.views] == ["b"]

    windows = [ValidationResult([score(rank, "windows", (2 * rank, 4, 4), turned=True)]) for rank in (1, 0)]
    pooled = merge(windows)
    assert len(pooled.cases) == 1
    assert pooled.dice == [0.25]
    assert pooled.turned == [0.25]


def test_colours_of_regions_are_those_of_their_labels() -> None:
    assert output_colours(scheme(True)) == [output_colours(scheme(False))[k] for k in (1, 0, 2)]
    assert output_colours(scheme(True))[2] == "#ff0000"
