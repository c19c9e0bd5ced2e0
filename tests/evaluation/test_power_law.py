"""Fits of learning curves, on curves whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from voxseg.evaluation.power_law import LARGEST_EXPONENT, PowerLaw, fit_power_law

SIZES = (1, 2, 4, 8, 16, 32)


def simulated(law: PowerLaw, sizes: tuple[int, ...], seeds: int, deviation: float, random: np.random.Generator):
    return {n: list(law.error(n) * np.exp(deviation * random.standard_normal(seeds))) for n in sizes}


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.4, 0.7, 0.1), (0.5, 0.35, 0.0), (0.004, 1.7, 0.001), (0.2, 3.5, 0.3), (0.9, 0.05, 0.0)]
)
def test_an_exact_law_is_found(a, b, c):
    fit = fit_power_law({n: [PowerLaw(a, b, c).error(n).item()] for n in SIZES})
    assert fit.law is not None
    assert fit.law.error(np.array(SIZES)) == pytest.approx(PowerLaw(a, b, c).error(np.array(SIZES)), rel=1e-4)
    assert (fit.law.a, fit.law.b, fit.law.c) == pytest.approx((a, b, c), rel=5e-3, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_optimiser_finds_a_better_one(seed):
    random = np.random.default_rng(seed)
    errors = simulated(PowerLaw(0.4, 0.6, 0.08), SIZES[:5], 3, 0.15, random)
    n = np.repeat(SIZES[:5], 3)
    logs = np.log(np.concatenate(list(errors.values())))

    def residuals(p):
        return np.log(p[0] * n ** -p[1] + p[2]) - logs

    best = math.inf
    for start in ((0.5, 0.5, 0.05), (0.3, 1.5, 0.2), (0.5, 0.2, 1e-3)):
        found = least_squares(residuals, start, bounds=([1e-9, 0, 0], [10, LARGEST_EXPONENT, 1]))
        best = min(best, 2 * found.cost)
    law = fit_power_law(errors).law
    assert np.sum(residuals((law.a, law.b, law.c)) ** 2) <= best * (1 + 1e-3)


def test_a_negative_rest_becomes_none():
    law = fit_power_law({n: [0.6 * n**-0.5 - 0.08] for n in SIZES[:5]}).law
    assert law.c == 0
    assert law.a > 0


def test_errors_that_grow_give_a_constant():
    fit = fit_power_law({1: [0.20, 0.22], 2: [0.25, 0.22], 4: [0.3, 0.26], 8: [0.31, 0.35]})
    means = math.exp(np.mean(np.log(fit.means)))
    assert fit.law.error(np.array([1, 8])) == pytest.approx([means, means], rel=1e-6)
    assert not fit.b_identified
    assert not fit.c_identified
    assert any(note.startswith("b is not identified: its interval reaches 0") for note in fit.notes)


@pytest.mark.parametrize(("seeds", "sizes"), [(2, SIZES[:4]), (4, SIZES)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds, sizes):
    law, random, level, runs = PowerLaw(0.4, 0.6, 0.1), np.random.default_rng(1), 0.8, 60
    held = np.zeros(4)
    for k in range(runs):
        fit = fit_power_law(simulated(law, sizes, seeds, 0.06, random), 200, level, k)
        for j, (name, true) in enumerate((("a", law.a), ("b", law.b), ("c", law.c))):
            low, high = fit.intervals[name]
            held[j] += low <= true <= high
        held[3] += np.mean((fit.band[0] <= law.error(fit.grid)) & (law.error(fit.grid) <= fit.band[1]))
    # Three standard deviations of a share of 60 are 0.15.
    assert (np.abs(held / runs - level) < 0.15).all(), held / runs


def test_more_seeds_make_narrower_intervals_around_b():
    law, widths = PowerLaw(0.5, 0.5, 0.05), []
    for seeds in (2, 20):
        fit = fit_power_law(simulated(law, SIZES, seeds, 0.05, np.random.default_rng(3)))
        low, high = fit.intervals["b"]
        assert low < law.b < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_well_separated_numbers_are_called_identified():
    fit = fit_power_law(simulated(PowerLaw(0.5, 0.8, 0.1), SIZES, 5, 0.02, np.random.default_rng(0)))
    assert fit.b_identified
    assert fit.c_identified
    assert fit.notes == ()


def test_a_rest_that_the_data_do_not_show_is_not_identified():
    fit = fit_power_law(simulated(PowerLaw(0.5, 0.4, 0.0), SIZES[:4], 2, 0.08, np.random.default_rng(0)))
    assert not fit.c_identified
    assert fit.intervals["c"][0] == pytest.approx(0, abs=5e-3)
    assert any(note.startswith("c is not identified: its interval reaches 0; anything up to 0.") for note in fit.notes)


def test_a_curve_that_is_flat_after_the_first_size_leaves_b_open():
    fit = fit_power_law({1: [0.5, 0.51], 2: [0.2, 0.201], 4: [0.199, 0.2], 8: [0.2, 0.201]})
    assert 0.19 < fit.law.c < 0.2, "b at its limit leaves a sixteenth"
    assert fit.intervals["b"][1] == LARGEST_EXPONENT
    assert not fit.b_identified
    assert any("largest value tried" in note for note in fit.notes)


def test_two_sizes_have_a_slope_and_no_rest():
    fit = fit_power_law({2: [0.4, 0.42], 8: [0.2, 0.19]})
    assert fit.law.c == 0
    assert fit.intervals["c"] == (0, 0)
    slope = (np.mean(np.log([0.4, 0.42])) - np.mean(np.log([0.2, 0.19]))) / math.log(4)
    assert fit.law.b == pytest.approx(slope, abs=1e-4)
    assert any(note.startswith("two sizes: c was set to 0") for note in fit.notes)
    assert not fit.c_identified


def test_three_sizes_test_no_form():
    assert (
        "three sizes for three numbers: nothing tests the form of the curve"
        in fit_power_law({1: [0.5, 0.51], 2: [0.4, 0.39], 4: [0.35, 0.33]}).notes
    )


def test_one_size_has_no_fit():
    fit = fit_power_law({4: [0.3, 0.5]})
    assert fit.law is None
    assert fit.band is None
    assert fit.means == pytest.approx([math.sqrt(0.15)])
    assert fit.notes == ("one size: no curve can be fitted",)


def test_nothing_has_no_fit():
    assert fit_power_law({}).notes == ("no finished run",)
    assert fit_power_law({1: [math.nan]}).sizes == ()


def test_one_seed_has_a_fit_without_intervals():
    fit = fit_power_law({n: [0.5 * n**-0.5] for n in (1, 2, 4, 8)})
    assert fit.law.b == pytest.approx(0.5, abs=1e-3)
    assert fit.intervals == {}
    assert fit.band is None
    assert not fit.b_identified
    assert any("no intervals" in note for note in fit.notes)


def test_a_size_with_a_single_run_takes_part():
    fit = fit_power_law({1: [0.5, 0.52], 2: [0.4, 0.39], 4: [0.3, 0.31], 8: [0.25]})
    assert fit.sizes == (1, 2, 4, 8)
    assert fit.intervals["b"][0] < fit.law.b < fit.intervals["b"][1]


def test_what_has_no_score_is_left_out():
    errors = {1: [0.5, math.nan], 2: [0.4, 0.41], 4: [0.33, 0.3]}
    clean = {1: [0.5], 2: [0.4, 0.41], 4: [0.33, 0.3]}
    assert fit_power_law(errors).law == fit_power_law(clean).law


def test_an_error_of_0_counts_as_a_small_one():
    fit = fit_power_law({1: [0.1, 0.1], 2: [0.01, 0.0], 4: [0.0, 0.0]})
    assert all(math.isfinite(value) for value in (fit.law.a, fit.law.b, fit.law.c, *fit.means))


def test_the_curve_is_never_drawn_beyond_the_sizes():
    fit = fit_power_law({2: [0.5, 0.52], 4: [0.4, 0.39], 16: [0.3, 0.31]})
    assert (fit.grid[0], fit.grid[-1]) == pytest.approx((2, 16))
    assert (fit.band[0] <= fit.law.error(fit.grid)).all()
    assert (fit.law.error(fit.grid) <= fit.band[1]).all()


def test_the_same_seed_gives_the_same_intervals():
    errors = {1: [0.5, 0.52], 2: [0.4, 0.39], 4: [0.3, 0.31]}
    assert fit_power_law(errors, seed=3).intervals == fit_power_law(errors, seed=3).intervals
    assert fit_power_law(errors, seed=3).intervals != fit_power_law(errors, seed=4).intervals


@pytest.mark.parametrize("errors", [{1: [-0.1], 2: [0.1]}, {0: [0.1], 2: [0.1]}])
def test_impossible_values_are_refused(errors):
    with pytest.raises(ValueError, match="needs sizes of at least 1 and errors of at least 0"):
        fit_power_law(errors)


def test_an_impossible_level_is_refused():
    with pytest.raises(ValueError, match="level"):
        fit_power_law({1: [0.1], 2: [0.1]}, level=95)
