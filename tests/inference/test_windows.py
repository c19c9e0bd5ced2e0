import itertools
import weakref

import pytest
import torch

from voxseg.inference.windows import gaussian_weights, in_planes, in_windows, window_count, window_starts


@pytest.mark.parametrize("length", range(5, 70))
@pytest.mark.parametrize("window", [8, 16])
@pytest.mark.parametrize("overlap", [2, 4, 32])
def test_windows_cover_the_axis_alike_from_both_ends(length, window, overlap):
    window = min(window, length)
    starts = window_starts(length, window, overlap)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] + window == length
    assert [length - window - start for start in reversed(starts)] == starts
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert max(steps, default=0) <= max(1, window - min(overlap, (window + 1) // 2)) + 1


def test_local_functions_do_not_notice_windows():
    image = torch.randn(1, 1, 30, 41, 17)
    done = []
    result = in_windows(lambda x: torch.cat([x, 2 * x], 1), image, (16, 16, 32), 2, progress=done.append)
    assert torch.allclose(result, torch.cat([image, 2 * image], 1), atol=1e-5)
    assert len(done) == window_count(image.shape[2:], (16, 16, 32)) > 1
    assert done[-1] == 1


def test_windows_turn_with_the_volume():
    image = torch.randn(1, 1, 31, 44, 20)

    def smooth(x):
        return torch.nn.functional.avg_pool3d(x, 5, stride=1, padding=2)

    turned = in_windows(smooth, image.transpose(2, 3).flip(2), (16, 16, 16), 1)
    assert torch.allclose(turned, in_windows(smooth, image, (16, 16, 16), 1).transpose(2, 3).flip(2), atol=1e-5)


def test_equals_monai_where_it_has_the_same_windows():
    inferers = pytest.importorskip("monai.inferers")
    image = torch.randn(1, 1, 32, 24, 40)
    network = torch.nn.Conv3d(1, 3, 5, padding=2)
    theirs = inferers.SlidingWindowInferer((16, 16, 16), overlap=0.5, mode="gaussian")
    with torch.no_grad():
        expected = theirs(image, network)
        result = in_windows(network, image, (16, 16, 16), 3)
    assert torch.allclose(result, expected, atol=1e-4)


def test_weights():
    weights = gaussian_weights((9, 16, 5))
    assert weights.shape == (9, 16, 5)
    assert weights.max() <= 1
    assert weights.min() >= 1e-3
    assert torch.equal(weights, weights.flip(0, 1, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("window", [(16, 16, 16), (24, 16, 40), (50, 50, 50)])
def test_planes_are_those_of_the_whole(axis, window):
    torch.manual_seed(0)
    image = torch.randn(1, 2, 37, 29, 50)
    image[..., 20:] = 0  # windows of empty space
    network = torch.nn.Conv3d(2, 3, 5, padding=2)
    calls, done = [], []

    def predict(x):
        calls.append(tuple(x.shape[2:]))
        return network(x)

    with torch.no_grad():
        expected = in_windows(network, image, window, 3)
        pieces = [p.clone() for p in in_planes(predict, image, window, 3, axis, progress=done.append)]
    result = torch.cat(pieces, 1).movedim(1, axis + 1)
    if axis == 0:
        assert torch.equal(result, expected[0])
    assert torch.allclose(result, expected[0], atol=1e-6)
    assert set(calls) == {tuple(min(n, w) for n, w in zip(image.shape[2:], window, strict=True))}
    count = window_count(image.shape[2:], window)
    assert len(done) == count
    assert done[-1] == 1
    assert len(calls) == count or window != (50, 50, 50)
    assert len(calls) < count or window != (16, 16, 16)  # empty space is asked about once


def test_results_are_let_go_of():
    """Of all that a network has given, only what stands for empty space is still held when the next window is due."""
    image = torch.randn(1, 1, 40, 24, 24)
    image[:, :, :16] = 0
    given = []

    def predict(part):
        held = sum(reference() is not None for reference in given)
        result = part + 1
        given.append(weakref.ref(result))
        counts.append(held)
        return result

    counts = []
    for _ in in_planes(predict, image, (16, 16, 16), 1):
        pass
    assert max(counts) == 1  # the empty one
    counts.clear(), given.clear()
    in_windows(predict, image, (16, 16, 16), 1)
    assert max(counts) == 0
