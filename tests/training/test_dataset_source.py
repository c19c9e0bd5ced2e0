import math
import pickle
import shutil
from itertools import islice

import pytest
import torch

from small_cases import build_cases, training_config
from voxseg.errors import UserError
from voxseg.training.dataset_source import DatasetSource, window_bytes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return build_cases(tmp_path_factory.mktemp("cases"), 5, (1.0, 0.7, 1.3))


def source(cases, rank=0, world=1, **changes):
    return DatasetSource(cases, training_config(**changes), CPU, rank, world)


def assert_same(one, other):
    assert len(one) == len(other)
    for parts, others in zip(one, other, strict=True):
        assert len(parts) == len(others)
        for part, counterpart in zip(parts, others, strict=True):
            assert torch.equal(part.image, counterpart.image)
            assert torch.equal(part.target, counterpart.target)
            assert part.names == counterpart.names


WHOLE = {"windows": {"size": "whole"}}


def test_batches_are_what_the_loop_asks_for(cases):
    ((batch,),) = source(cases).batches(0, 1)
    assert batch.image.shape == (2, 2, 16, 16, 16)
    assert batch.image.dtype == torch.float32
    assert batch.target.shape == (2, 16, 16, 16)
    assert batch.target.dtype == torch.int64
    assert batch.names[1].endswith("(seed 5, step 0, position 1)")
    assert set(batch.target.unique().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("changes", [{}, {"batch": 4, "accumulate": 2}, WHOLE])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(cases, changes, workers):
    expected = list(source(cases, **changes).batches(2, 7))
    assert_same(expected, list(source(cases, **changes, dataset={"workers": workers}).batches(2, 7)))


@pytest.mark.parametrize("changes", [{}, WHOLE])
def test_a_resumed_run_gets_the_same_batches(cases, changes):
    used = source(cases, **changes)
    expected = list(used.batches(0, 8))[5:]
    assert_same(expected, list(source(cases, **changes).batches(5, 8)))
    assert_same(expected, list(used.batches(5, 8)))


def test_two_processes_see_what_one_with_both_batches_does(cases):
    whole = list(source(cases, batch=2).batches(0, 6))
    parts = [list(source(cases, rank, 2, batch=1).batches(0, 6)) for rank in range(2)]
    for (both,), (first,), (second,) in zip(whole, *parts, strict=True):
        assert torch.equal(both.image, torch.cat([first.image, second.image]))
        assert torch.equal(both.target, torch.cat([first.target, second.target]))
        assert both.names == first.names + second.names


def test_accumulation_divides_the_batch(cases):
    (one,) = next(source(cases, batch=4).batches(3, 4))
    parts = next(source(cases, batch=4, accumulate=2).batches(3, 4))
    assert [len(part.names) for part in parts] == [2, 2]
    assert torch.equal(one.image, torch.cat([part.image for part in parts]))


def names(batches):
    return [name.split()[0] for parts in batches for part in parts for name in part.names]


def test_each_case_comes_once_an_epoch_in_another_order(cases):
    seen = names(source(cases, batch=1).batches(0, 20))
    epochs = [seen[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [f"c{k}" for k in range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2
    assert names(source(cases, batch=1, seed=6).batches(0, 20)) != seen


def test_whole_cases_are_shared_out(cases):
    shares = [list(source(cases, rank, 2, batch=1, **WHOLE).batches(0, 4)) for rank in range(2)]
    for epoch in (slice(0, 2), slice(2, 4)):
        seen = [name for share in shares for name in names(share[epoch])]
        assert sorted(seen) == [f"c{k}" for k in range(5)]
    batch = shares[0][0][0]
    assert batch.image.shape[0] == 1
    assert all(n % 8 == 0 for n in batch.image.shape[2:])
    assert batch.target.shape[1:] == batch.image.shape[2:]
    # The seeds of a step differ, over the processes too.
    positions = [name.split("position ")[1] for share in shares for part in share[0] for name in part.names]
    assert sorted(positions) == [f"{k})" for k in range(len(positions))]


def test_the_size_of_a_whole_case_is_what_is_computed_of_it(cases):
    whole = source(cases, batch=1, **WHOLE)
    computed = {part.names[0][:2]: part.image[0, 0].numel() for batch in whole.batches(0, 5) for part in batch}
    assert [computed[f"c{k}"] for k in range(5)] == whole.samples.sizes


def test_too_few_cases(cases):
    with pytest.raises(UserError, match="has 2 cases to train on, 3 processes share them"):
        source(cases[:2], 0, 3, **WHOLE)
    with pytest.raises(UserError, match="has 0 cases"):
        source([])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_prepared_case_that_is_gone(tmp_path, workers):
    gone = build_cases(tmp_path, 1)
    loading = source(gone, dataset={"workers": workers})
    shutil.rmtree(gone[0].folder)
    with pytest.raises(UserError, match=r"c0-\w+: cannot be read any more \(No such file"):
        next(loading.batches(0, 5))


FAILING = {
    "transforms": [{"path": "monai.transforms:SpatialPadd", "arguments": {"keys": ["image"], "spatial_size": 20}}]
}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_transform_that_gives_something_else(cases, workers):
    wrong = source(cases, augmentation=FAILING, dataset={"workers": workers})
    with pytest.raises(UserError, match=r"SpatialPadd: makes \[2, 20, 20, 20\] of 'image' \[2, 16, 16, 16\]"):
        next(wrong.batches(0, 5))


def test_what_workers_get_is_small_and_can_be_pickled(cases):
    samples = source(cases).samples
    again = pickle.loads(pickle.dumps(samples))
    part = next(samples.parts(0, 1))
    assert (again.load(part).image == samples.load(part).image).all()


def test_waiting_is_counted_and_samples_come_without_end(cases):
    loading = source(cases, dataset={"workers": 1})
    assert len(list(islice(loading.batches(0, 10**9), 2))) == 2
    assert loading.waited > 0


def test_window_bytes():
    config = training_config(dataset={"workers": 2})
    voxels = 16**3
    assert window_bytes(config) == 2 * 3 * 2 * voxels * 5 + 2 * voxels * 16
    assert window_bytes(training_config(**WHOLE)) == 0
    assert math.isfinite(window_bytes(config))
