"""Published examples, computations by hand, and what must not matter."""

import math

import numpy as np
import pytest

from voxseg.evaluation.agreement_statistics import (
    bland_altman,
    intraclass_correlation,
    mean_estimate,
    repeatability,
    symmetric_percent,
    yearly_percent,
)

# Shrout and Fleiss 1979, table 2: six targets, four judges.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])

# Bland and Altman 1986, table 1: peak flow (l/min) of 17 people, Wright meter twice and mini meter.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
WRIGHT_AGAIN = [490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def interval(estimate):
    return (estimate.low, estimate.high)


def random_table(n=12, k=3, seed=0):
    random = np.random.default_rng(seed)
    return 10 + random.normal(0, 2, (n, 1)) + random.normal(0, 0.5, (n, k))


def test_intraclass_correlations_as_published():
    icc = intraclass_correlation(JUDGES)
    assert (icc.subjects, icc.repeats) == (6, 4)
    assert icc.agreement.value == pytest.approx(0.29, abs=0.005)
    assert icc.consistency.value == pytest.approx(0.71, abs=0.005)
    # As SPSS and R's psych print them for these data.
    assert interval(icc.agreement) == pytest.approx((0.019, 0.761), abs=5e-4)
    assert interval(icc.consistency) == pytest.approx((0.342, 0.946), abs=5e-4)


def test_intraclass_correlations_by_their_definition():
    """From variance components of the two-way analysis, by sums over cells."""
    table = random_table() + np.array([0.0, 0.7, -0.4])
    n, k = table.shape
    mean = table.mean()
    total = sum((x - mean) ** 2 for x in table.ravel())
    rows = sum(k * (row.mean() - mean) ** 2 for row in table)
    columns = sum(n * (column.mean() - mean) ** 2 for column in table.T)
    error = (total - rows - columns) / ((n - 1) * (k - 1))
    subject = (rows / (n - 1) - error) / k
    shift = (columns / (k - 1) - error) / n
    icc = intraclass_correlation(table)
    assert icc.agreement.value == pytest.approx(subject / (subject + shift + error))
    assert icc.consistency.value == pytest.approx(subject / (subject + error))
    for estimate in (icc.agreement, icc.consistency):
        assert estimate.low < estimate.value < estimate.high < 1


def test_a_shift_lowers_agreement_and_not_consistency():
    table = random_table(k=2)
    before, after = intraclass_correlation(table), intraclass_correlation(table + np.array([0, 3]))
    assert after.consistency.value == pytest.approx(before.consistency.value)
    assert interval(after.consistency) == pytest.approx(interval(before.consistency))
    assert after.agreement.value < before.agreement.value - 0.1


@pytest.mark.parametrize("change", [lambda t: 3 * t, lambda t: t + 100, lambda t: t[::-1], lambda t: t[:, ::-1]])
def test_unit_origin_and_order_do_not_matter(change):
    before, after = intraclass_correlation(JUDGES), intraclass_correlation(change(JUDGES))
    for a, b in ((before.agreement, after.agreement), (before.consistency, after.consistency)):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def test_intervals_hold_the_truth_as_often_as_they_say():
    """True ICC of 0.8, 400 studies of 15 subjects with three scans: 95 % within ± 3 %."""
    random = np.random.default_rng(1)
    held = np.zeros(2)
    for _ in range(400):
        table = random.normal(0, 2, (15, 1)) + random.normal(0, 1, (15, 3))
        icc = intraclass_correlation(table)
        held += [e.low <= 0.8 <= e.high for e in (icc.agreement, icc.consistency)]
    assert np.all(np.abs(held / 400 - 0.95) < 0.03)


def test_equal_scans_agree_entirely():
    same = np.repeat(random_table(k=1), 2, axis=1) * 1e3
    icc = intraclass_correlation(same)
    for estimate in (icc.agreement, icc.consistency):
        assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    shifted = intraclass_correlation(np.round(same) + np.array([0, 1024]))
    assert shifted.consistency.value == 1
    assert 0 < shifted.agreement.value < 1


@pytest.mark.parametrize("table", [[[1, 2]], [[1], [2], [3]], [[5, 5], [5, 5]], [[5, 6], [5, 6]]])
def test_what_has_no_intraclass_correlation(table):
    icc = intraclass_correlation(table)
    assert math.isnan(icc.agreement.value)
    assert math.isnan(icc.consistency.low)


def test_bland_altman_as_published():
    found = bland_altman([[a - b] for a, b in zip(WRIGHT, MINI, strict=True)])
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    assert found.deviation == pytest.approx(38.8, abs=0.05)
    assert interval(found.bias) == pytest.approx((-22.0, 17.8), abs=0.1)
    assert found.lower.value == pytest.approx(-2.1 - 1.96 * 38.8, abs=0.1)
    assert found.upper.value == pytest.approx(-2.1 + 1.96 * 38.8, abs=0.1)


def test_bland_altman_by_hand():
    """Differences 1, 2, 3, 6: mean 3, s² = 14/3, t(3) = 3.18245."""
    found = bland_altman([[1.0], [2.0], [3.0], [6.0]])
    s = math.sqrt(14 / 3)
    assert found.bias.value == 3
    assert found.deviation == pytest.approx(s)
    assert interval(found.bias) == pytest.approx((3 - 3.182446 * s / 2, 3 + 3.182446 * s / 2))
    half = 3.182446 * s * math.sqrt(1 / 4 + 1.96**2 / 6)
    assert found.upper.value == pytest.approx(3 + 1.96 * s)
    assert interval(found.upper) == pytest.approx((3 + 1.96 * s - half, 3 + 1.96 * s + half))
    assert interval(found.lower) == pytest.approx((3 - 1.96 * s - half, 3 - 1.96 * s + half))


def test_differences_of_one_subject_do_not_count_as_independent():
    few, many = bland_altman([[1.0], [2.0], [4.0]]), bland_altman([[1.0] * 9, [2.0] * 9, [4.0] * 9])
    assert many.subjects == few.subjects == 3
    assert many.bias.value == few.bias.value
    width, wide = (f.bias.high - f.bias.low for f in (many, few))
    assert 0.7 * wide < width < wide  # not a third of it


def test_repeatability_by_hand():
    """Two subjects: squares about their means 2 and 8, with one and one degrees of freedom."""
    found = repeatability([[10.0, 12.0], [20.0, 24.0], [99.0]])
    assert found.deviation == pytest.approx(math.sqrt((2 + 8) / 2))
    assert found.coefficient.value == pytest.approx(1.96 * math.sqrt(2) * math.sqrt(5))
    assert found.variation == pytest.approx(100 * math.sqrt((2 / 11**2 + 8 / 22**2) / 2))
    # chi squared with 2 degrees of freedom is an exponential distribution of mean 2
    ends = [found.coefficient.value * math.sqrt(2 / (-2 * math.log(p))) for p in (0.025, 0.975)]
    assert interval(found.coefficient) == pytest.approx(tuple(ends))


def test_repeatability_of_peak_flow():
    """For pairs the within-subject variance is half the mean square of the differences."""
    squares = np.square(np.subtract(WRIGHT, WRIGHT_AGAIN))
    found = repeatability(list(zip(WRIGHT, WRIGHT_AGAIN, strict=True)))
    assert found.deviation == pytest.approx(math.sqrt(squares.mean() / 2)) == pytest.approx(15.3, abs=0.05)


def test_one_subject():
    assert bland_altman([[2.5]]).bias.value == 2.5
    assert math.isnan(bland_altman([[2.5]]).bias.low)
    assert math.isnan(bland_altman([[2.5]]).upper.value)
    assert math.isnan(bland_altman([]).bias.value)
    assert math.isnan(repeatability([[1.0, 2.0]]).deviation)
    assert repeatability([[1.0, 2.0, 3.0]]).deviation == 1


def test_symmetric_percent():
    assert symmetric_percent(90, 110) == 20
    assert symmetric_percent(110, 90) == -20
    assert symmetric_percent(0, 1) == 200
    assert math.isnan(symmetric_percent(0, 0))


def test_change_a_year():
    assert yearly_percent([60, 62], [100, 96]) == pytest.approx(-2)
    times = np.array([0.3, 1.0, 2.5, 4.0])
    assert yearly_percent(times, 50 - 0.5 * times) == pytest.approx(-100 * 0.5 / (50 - 0.15))
    noisy = 50 - 0.5 * times + np.array([0.1, -0.2, 0.2, -0.1])
    slope, start = np.polyfit(times, noisy, 1)
    assert yearly_percent(times[::-1], noisy[::-1]) == pytest.approx(100 * slope / (start + 0.3 * slope))
    assert math.isnan(yearly_percent([1, 1], [2, 3]))
    assert math.isnan(yearly_percent([1], [2]))


def test_mean_with_its_interval():
    found = mean_estimate([1.0, math.nan, 3.0])
    assert found.value == 2
    assert interval(found) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert math.isnan(mean_estimate([]).value)
    assert math.isnan(mean_estimate([1.0]).low)
