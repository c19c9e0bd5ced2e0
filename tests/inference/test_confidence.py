"""The Dice to expect, against its definition, the mean over drawn truths, and in the predictor."""

import numpy as np
import torch

from models import write_model
from voxseg.data.geometry import Geometry
from voxseg.data.volume import Volume
from voxseg.inference.confidence import ExpectedDice
from voxseg.inference.model import load_model
from voxseg.inference.predictor import Predictor


def probabilities(classes=4, shape=(12, 10, 9), sharpness=2.0, seed=0):
    torch.manual_seed(seed)
    return (sharpness * torch.randn(classes, *shape)).softmax(0)


def test_is_the_mean_dice_over_truths_drawn_from_the_probabilities():
    p = probabilities(shape=(20, 20, 20))
    expected = ExpectedDice(3)
    expected.feed(p)
    found = p.argmax(0)
    drawn = torch.distributions.Categorical(p.movedim(0, -1)).sample((200,))
    for k, score in enumerate(expected.scores(), start=1):
        overlap = ((drawn == k) & (found == k)).flatten(1).sum(1)
        sizes = (drawn == k).flatten(1).sum(1) + (found == k).sum()
        assert abs(float((2 * overlap / sizes).mean()) - score) < 2e-3


def test_pieces_add_up():
    p = probabilities()
    whole, parts = ExpectedDice(3), ExpectedDice(3)
    whole.feed(p)
    for part in p.split(4, dim=1):
        parts.feed(part)
    np.testing.assert_allclose(whole.scores(), parts.scores(), rtol=1e-6)


def test_certain_unsure_and_absent():
    p = torch.zeros(4, 10, 10, 10)
    p[1, :5] = 1
    p[2, 5:], p[0, 5:] = 0.6, 0.4
    expected = ExpectedDice(3)
    expected.feed(p)
    scores = expected.scores()
    assert scores[0] == 1
    assert abs(scores[1] - 2 * 0.6 / 1.6) < 1e-4  # summed in float32
    assert np.isnan(scores[2])


def test_regions_overlap():
    p = torch.zeros(2, 8, 8, 8)
    p[0], p[1, :4] = 0.9, 0.4  # the second is expected in places but found nowhere
    expected = ExpectedDice(2, regions=True)
    expected.feed(p)
    np.testing.assert_allclose(expected.scores(), [2 * 0.9 / 1.9, 0.0], atol=1e-4)


def test_the_predictor_tells_it_the_same_at_once_and_in_windows(tmp_path):
    torch.manual_seed(0)
    model = load_model(write_model(tmp_path / "tiny"))
    data = np.random.default_rng(0).random((60, 64, 56), dtype=np.float32) + 1
    volume = Volume(tmp_path / "scan.nii", data, Geometry(data.shape, np.diag([3.0, 3.0, 3.0, 1.0])), None, data.shape)
    whole, windows = (Predictor(model, "cpu", window=side).segment(volume) for side in (None, 32))
    assert whole.confidence.shape == (3,)
    assert windows.windows > 1
    np.testing.assert_allclose(windows.confidence, whole.confidence, atol=0.05)
    assert 0 < whole.quality <= 1
