import numpy as np
import pytest

from voxseg.training.balance import epoch_plan, pack, padding_ratio, straggler_ratio


def sizes(count, seed=0, sigma=1.0):
    return (2e6 * np.exp(sigma * np.random.default_rng(seed).normal(size=count))).astype(int).tolist()


def random(seed=0):
    return np.random.default_rng(seed)


def loads(plan, of):
    return np.array([[sum(of[case] for case in cases) for cases in step] for step in plan], dtype=float)


@pytest.mark.parametrize(("count", "processes", "batch"), [(40, 2, 1), (41, 4, 2), (5, 4, 1), (7, 1, 3), (3, 3, 8)])
def test_each_case_comes_once_and_no_process_is_idle(count, processes, batch):
    plan = epoch_plan(sizes(count), processes, batch, random())
    assert sorted(case for step in plan for cases in step for case in cases) == list(range(count))
    assert all(len(step) == processes and all(step) for step in plan)
    assert len(plan) == max(1, count // (processes * batch))


@pytest.mark.parametrize("sigma", [0.8, 1.0])
def test_processes_hardly_wait_for_each_other(sigma):
    of = sizes(2000, sigma=sigma)
    shuffled = random().permutation(2000)[:1984].reshape(-1, 8, 4)
    before = straggler_ratio(np.array(of)[shuffled].sum(-1).astype(float))
    after = straggler_ratio(loads(epoch_plan(of, 8, 4, random()), of))
    assert before > 1.6
    assert after < 1.05


def test_epochs_differ_in_order_and_in_company():
    of = sizes(100)
    first, second, again = (epoch_plan(of, 2, 2, random(seed)) for seed in (1, 2, 1))
    assert first == again
    bins = [{frozenset(cases) for step in plan for cases in step} for plan in (first, second)]
    assert len(bins[0] & bins[1]) < 0.5 * len(bins[0])


def test_one_case_a_bin():
    assert sorted(pack([5, 1, 3], 3, random())) == [[0], [1], [2]]


def test_loads_are_equal_where_they_can_be():
    of = [8, 7, 6, 5, 4, 3, 2, 1] * 4
    members = pack(of, 6, random())
    assert {sum(of[k] for k in items) for items in members} == {24}


def test_a_giant_has_a_bin_of_its_own():
    members = pack([100, *[1] * 30], 4, random())
    assert [0] in members
    assert sorted(len(items) for items in members) == [1, 10, 10, 10]


def test_fewer_cases_than_processes():
    with pytest.raises(ValueError, match="3 processes share 2 cases"):
        epoch_plan([1, 2], 3, 1, random())


def test_ratios():
    assert straggler_ratio(np.array([[1.0, 3.0], [2.0, 2.0]])) == 5 / 4
    assert padding_ratio(150, [60, 40]) == 1.5
