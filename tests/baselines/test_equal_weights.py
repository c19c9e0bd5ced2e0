"""Multiplicities that make networks of other degrees equally large."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from voxseg.baselines.equal_weights import field_type, multiplicities


def dense(copies: Sequence[int]) -> int:
    """Weights of a layer with one for each pair of copies and each way to couple them."""
    pairs = ((a, b) for a in range(len(copies)) for b in range(len(copies)))
    return sum(copies[a] * copies[b] * (min(a, b) * 2 + 1) for a, b in pairs)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("target", [300, 1000, 5000])
def test_no_more_than_asked_and_nothing_left_for_one_more_scalar(degree: int, target: int) -> None:
    copies = multiplicities(degree, target, dense)
    assert len(copies) == degree + 1
    assert dense(copies) <= target < dense([copies[0] + 1, *copies[1:]])
    least = copies[-1]
    assert least == max(m for m in range(1, 100) if dense([m] * (degree + 1)) <= target)
    assert all(least <= n <= least + 1 for n in copies[1:])


def test_too_few_weights() -> None:
    with pytest.raises(ValueError, match="up to degree 2 has 19 weights, over 18"):
        multiplicities(2, 18, dense)


def test_field_type_of_copies() -> None:
    assert field_type([4, 0, 2]) == "4x0e+2x2e"
