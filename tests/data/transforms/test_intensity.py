import pytest
import torch
from monai.transforms import Compose, RandGaussianNoise, RandScaleIntensity

from voxseg.data.transforms import EachImaged, RandDropImaged, RandThickSlices


def images(channels=3):
    volume = torch.randn(channels, 20, 18, 16, generator=torch.Generator().manual_seed(0)) + 3
    volume[:, :5] = 0
    return volume


def test_each_image_has_changes_of_its_own_and_empty_space_stays_empty():
    inner = Compose([RandScaleIntensity(0.5, prob=1.0), RandGaussianNoise(1.0, std=0.01)])
    transform = EachImaged(("image",), inner)
    transform.set_random_state(1)
    data = {"image": images(), "other": 5}
    result = transform(data)
    assert (result["image"][:, :5] == 0).all()
    factors = (result["image"] / data["image"])[:, 5:].flatten(1).median(1).values
    assert len({round(float(f), 3) for f in factors}) == 3
    assert result["other"] == 5
    assert torch.equal(data["image"], images())  # the original stays


def test_the_seed_reaches_the_inner_transform():
    transform = EachImaged(("image",), Compose([RandGaussianNoise(0.5, std=1.0)]))
    results = []
    for seed in (1, 2, 1):
        transform.set_random_state(seed)
        results.append([transform({"image": images()})["image"] for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))


def test_thick_slices_blur_one_axis():
    transform = RandThickSlices(1.0, (3.0, 3.0))
    checker = torch.zeros(1, 24, 24, 24)
    checker[:, ::2] = 1
    blurred = []
    for seed in range(12):
        transform.set_random_state(seed)
        result = transform(checker)
        assert result.shape == checker.shape
        blurred.append(float(result[0, 3:-3].std(0).mean()) < 0.3)
    assert 0 < sum(blurred) < 12  # along the first axis sometimes, and then the pattern is gone


@pytest.mark.parametrize("channels", [1, 3])
def test_one_of_several_images_is_dropped(channels):
    transform = RandDropImaged(("image",), 1.0)
    seen = set()
    for seed in range(20):
        transform.set_random_state(seed)
        result = transform({"image": images(channels)})["image"]
        dropped = [k for k in range(channels) if (result[k] == 0).all()]
        assert len(dropped) == (channels > 1)
        assert all(torch.equal(result[k], images(channels)[k]) for k in range(channels) if k not in dropped)
        seen |= set(dropped)
    assert len(seen) == (3 if channels > 1 else 0)
