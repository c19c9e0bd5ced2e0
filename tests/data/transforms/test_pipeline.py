import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from small_cases import SCHEME
from voxseg.data.config import AugmentationConfig, WindowConfig
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.transforms import window_transforms
from voxseg.errors import UserError

SHAPE = (60, 52, 56)
STILL = dict.fromkeys(
    ("rotation_deg", "scale", "mirror", "noise", "blur_mm", "brightness", "gamma", "bias", "low_resolution"), 0.0
)


def case():
    """Tissue everywhere but in a corner, with three structures."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, *SHAPE, generator=random) + 4
    image[:, :20, :20, :20] = 0
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[:, 24:40, 20:40, 20:40] = 1
    label[:, 28:36, 26:36, 24:34] = 2
    label[:, 30:33, 30:33, 28:31] = 3
    return {"image": MetaTensor(image.half()), "label": MetaTensor(label)}


def run(transform, seed, data=None):
    transform.set_random_state(seed)
    return transform(data or case())


@pytest.mark.parametrize("size", [(24, 16, 32), "whole"])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_types(size, training):
    everything = AugmentationConfig(probability=1.0, low_resolution=1.0, drop_image=0.5)
    result = run(window_transforms(WindowConfig(size=size), everything, SCHEME, 1.0, training), 0)
    expected = (64, 56, 56) if size == "whole" else size
    assert result["image"].shape == (2, *expected)
    assert result["label"].shape == (1, *expected)
    assert result["image"].dtype == torch.float32
    assert result["label"].dtype == torch.uint8
    assert torch.isfinite(result["image"]).all()
    assert set(result["label"].unique().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("size", [(24, 16, 32), "whole"])
def test_a_sample_is_a_function_of_its_seed(size):
    config = AugmentationConfig(probability=0.6, low_resolution=0.5, drop_image=0.3)
    first, second = (window_transforms(WindowConfig(size=size), config, SCHEME, 1.0) for _ in range(2))
    expected = [run(first, seed) for seed in range(4)]
    for seed in (3, 1, 0, 2):
        again = run(second, seed)
        for key in ("image", "label"):
            assert torch.equal(again[key], expected[seed][key])
    assert not torch.equal(expected[0]["image"], expected[1]["image"])


@pytest.mark.parametrize("key", [k for k in STILL if k != "mirror"] + ["drop_image"])
def test_each_change_changes_something_and_zero_switches_it_off(key):
    value = {"rotation_deg": 20.0, "drop_image": 1.0, "low_resolution": 1.0}.get(key, 0.3)
    windows = WindowConfig(size=(24, 24, 24), foreground=1.0)
    config = AugmentationConfig(**{**STILL, key: value}, probability=1.0)
    still = AugmentationConfig(**STILL, probability=1.0)
    changed = run(window_transforms(windows, config, SCHEME, 1.0), 0)
    unchanged = run(window_transforms(windows, still, SCHEME, 1.0), 0)
    plain = run(window_transforms(windows, config, SCHEME, 1.0, training=False), 0)
    assert torch.equal(unchanged["image"], plain["image"])
    assert not torch.allclose(changed["image"], plain["image"], atol=1e-3)
    same_labels = torch.equal(changed["label"], plain["label"])
    assert same_labels == (key not in ("rotation_deg", "scale"))


def test_nothing_of_the_border_shows_in_turned_windows():
    """A window well inside the volume is filled after any turn and stretch."""
    data = {"image": MetaTensor(torch.ones(1, 120, 120, 120)), "label": MetaTensor(torch.zeros(1, 120, 120, 120))}
    data["label"][0, 60, 60, 60] = 1
    data["label"] = data["label"].to(torch.uint8)
    config = AugmentationConfig(**{**STILL, "rotation_deg": 45.0, "scale": 0.2}, probability=1.0)
    transform = window_transforms(WindowConfig(size=(24, 32, 24), foreground=1.0), config, SCHEME, 1.0)
    for seed in range(20):
        assert (run(transform, seed, data)["image"] > 0.999).all()


def test_images_and_labels_are_turned_alike():
    data = case()
    data["image"] = MetaTensor((data["label"].repeat(2, 1, 1, 1) > 0).half())
    config = AugmentationConfig(**{**STILL, "rotation_deg": 30.0, "scale": 0.2}, probability=1.0)
    transform = window_transforms(WindowConfig(size=(32, 32, 32), foreground=1.0), config, SCHEME, 1.0)
    for seed in range(5):
        result = run(transform, seed, data)
        inside, label = result["image"][0] > 0.5, result["label"][0] > 0
        assert label.sum() > 1000
        assert (inside != label).sum() < 0.02 * label.sum()


def test_empty_space_stays_empty():
    config = AugmentationConfig(**{**STILL, "noise": 1, "gamma": 0.5, "bias": 0.5, "blur_mm": 2}, probability=1.0)
    windows = WindowConfig(size=(40, 40, 40), foreground=0.0)
    changed = run(window_transforms(windows, config, SCHEME, 1.0), 3)["image"]
    plain = run(window_transforms(windows, config, SCHEME, 1.0, training=False), 3)["image"]
    assert (plain == 0).any()
    assert torch.equal(changed == 0, plain == 0)


def test_the_shading_is_about_as_strong_as_asked():
    config = AugmentationConfig(**{**STILL, "bias": 0.3}, probability=1.0)
    data = {"image": MetaTensor(torch.ones(1, 40, 40, 40)), "label": MetaTensor(torch.zeros(1, 40, 40, 40))}
    transform = window_transforms(WindowConfig(size=(24, 24, 24)), config, SCHEME, 1.0)
    largest = []
    for seed in range(40):
        image = run(transform, seed, data)["image"]
        largest.append(float(image[image > 0].log().abs().max()))
    assert 0.15 < np.mean(largest) < 0.4
    assert max(largest) < 1.0


def test_sides_are_swapped_and_mirrors_without_partner_refused():
    sides = LabelScheme(classes=[10, 49, 16], merge_sides=False)
    config = AugmentationConfig(**{**STILL, "mirror": 1.0})
    windows = WindowConfig(size=(24, 24, 24), foreground=1.0)
    mirrored = run(window_transforms(windows, config, sides, 1.0), 0)["label"]
    plain = run(window_transforms(windows, config, sides, 1.0, training=False), 0)["label"]
    assert np.array_equal(mirrored.numpy(), np.array([0, 2, 1, 3])[plain.numpy()[:, ::-1]])
    with pytest.raises(UserError, match="label 10"):
        window_transforms(windows, config, LabelScheme(classes=[10, 16], merge_sides=False), 1.0)


def test_transforms_of_the_user_come_last():
    path = "monai.transforms:ScaleIntensityRanged"
    arguments = {"keys": ["image"], "a_min": 0.0, "a_max": 1.0, "b_min": 0.0, "b_max": 1000.0}
    own = {"path": path, "arguments": arguments}
    config = AugmentationConfig(**STILL, transforms=[own])
    windows = WindowConfig(size=(24, 24, 24))
    changed = run(window_transforms(windows, config, SCHEME, 1.0), 5)["image"]
    plain = run(window_transforms(windows, config, SCHEME, 1.0, training=False), 5)["image"]
    assert torch.allclose(changed.as_tensor(), 1000 * plain.as_tensor(), rtol=1e-4)
