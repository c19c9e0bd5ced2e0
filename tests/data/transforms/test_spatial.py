import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from voxseg.data.labels import Label, LabelTable
from voxseg.data.prepared_case import sample_points
from voxseg.data.transforms import RandMirrord, RandWindowd
from voxseg.errors import UserError

SHAPE = (40, 30, 36)


def case(meta=True, dtype=torch.float16):
    """An image that tells where each voxel lies, and two structures of very different sizes."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij")).to(dtype) + 1
    label = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    label[0, 4:30, 5:20, 8:30] = 1
    label[0, 35, 25, 3] = 2
    if not meta:
        return {"image": index, "label": label}
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], dtype=torch.float64)
    return {"image": MetaTensor(index, affine=affine), "label": MetaTensor(label, affine=affine)}


def windows(transform, data, count):
    for seed in range(count):
        transform.set_random_state(seed)
        yield transform(data)


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("size", [(16, 12, 20), (48, 12, 40)])
def test_a_window_is_that_part_of_the_volume_and_zero_beyond(meta, size):
    transform = RandWindowd(("image", "label"), size, 2, margin=(2, 0, 1))
    data = case(meta)
    over = 0
    for window in windows(transform, data, 40):
        start = np.array(transform.start) - (2, 0, 1)
        full = tuple(n + 2 * m for n, m in zip(size, (2, 0, 1), strict=True))
        assert window["image"].shape == (3, *full)
        assert window["image"].dtype == torch.float32
        assert window["label"].dtype == torch.uint8
        index = np.stack(np.meshgrid(*(np.arange(n) for n in full), indexing="ij")) + start[:, None, None, None]
        inside = ((index >= 0) & (index < np.array(SHAPE)[:, None, None, None])).all(0)
        assert np.array_equal(window["image"].numpy(), (index + 1) * inside)
        picked = np.asarray(data["label"][0])[tuple(index.clip(0, np.array(SHAPE)[:, None, None, None] - 1))]
        assert np.array_equal(window["label"][0].numpy(), picked * inside)
        if meta:
            point = window["image"].affine.numpy() @ np.array([1, 2, 3, 1])
            expected = data["image"].affine.numpy() @ np.append(start + np.array([1, 2, 3]), 1)
            assert np.allclose(point, expected)
        over += not inside.all()
    assert over > 3


def test_structures_of_every_size_are_seen_equally_often():
    transform = RandWindowd(("image", "label"), (12, 12, 12), 3, foreground=1.0)
    data = case() | {"points": sample_points(np.asarray(case()["label"][0]), 3)}
    small = sum(bool((window["label"] == 2).any()) for window in windows(transform, data, 200))
    assert 80 < small < 120
    for window in windows(transform, data, 50):
        assert (window["label"] > 0).any()
        assert "points" not in window
    anywhere = RandWindowd(("image", "label"), (12, 12, 12), 3, foreground=0.0)
    assert sum(bool((window["label"] == 2).any()) for window in windows(anywhere, data, 200)) < 20


def test_points_are_found_where_none_are_given():
    transform = RandWindowd(("image", "label"), (12, 12, 12), 2, foreground=1.0)
    data = case()
    points = sample_points(np.asarray(data["label"][0]), 2)
    for with_points, without in zip(
        windows(transform, data | {"points": points}, 5), windows(transform, data, 5), strict=True
    ):
        assert torch.equal(with_points["image"], without["image"])


def test_a_case_without_structures():
    data = case()
    data["label"] = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    (window,) = windows(RandWindowd(("image", "label"), (12, 12, 12), 2, foreground=1.0), data, 1)
    assert window["label"].shape == (1, 12, 12, 12)


SIDES = [
    Label(10, "Left-A", "#000000", "left", 49),
    Label(16, "Stem", "#000000"),
    Label(49, "Right-A", "#000000", "right", 10),
]


def test_a_mirror_image_swaps_sides():
    transform = RandMirrord(("image", "label"), LabelTable(SIDES), prob=1.0)
    data = case()
    data["label"][0, 10:20] = 3
    (result,) = windows(transform, data, 1)
    assert torch.equal(result["image"].as_tensor(), data["image"].as_tensor().flip(1))
    expected = np.array([0, 3, 2, 1])[data["label"].numpy()[:, ::-1]]
    assert np.array_equal(result["label"].numpy(), expected)
    assert torch.equal(result["image"].affine, data["image"].affine)
    (twice,) = windows(transform, result, 1)
    for key in ("image", "label"):
        assert torch.equal(twice[key], data[key])


def test_image_and_label_are_mirrored_together_as_often_as_asked():
    transform = RandMirrord(("image", "label"), LabelTable(SIDES), prob=0.5)
    data = case()
    mirrored = [
        (bool((w["image"] != data["image"]).any()), bool((w["label"] != data["label"]).any()))
        for w in windows(transform, data, 60)
    ]
    assert all(image == label for image, label in mirrored)
    assert 15 < sum(image for image, _ in mirrored) < 45


@pytest.mark.parametrize("labels", [SIDES[:2], [Label(10, "Left-A", "#000000", "left")]])
def test_a_side_without_its_other_side_is_refused(labels):
    with pytest.raises(UserError, match=r"label 10 \(Left-A\): has a side.*augmentation\.mirror: 0"):
        RandMirrord(("image", "label"), LabelTable(labels))
