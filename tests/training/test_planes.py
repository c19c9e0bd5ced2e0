from __future__ import annotations

import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.training.planes import cut_planes

SHAPE = (12, 10, 8)
MEMBERS = np.eye(3, dtype=bool)[:, 1:]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A box of structure 1 with most of its area at (5, 4, 2), and a voxel of structure 2."""
    image = np.zeros(SHAPE)
    image[1:11, 1:9, 1:7] = np.arange(10)[:, None, None] + 5
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4:7, 4, 2] = labels[5, 3:6, 2] = labels[5, 4, 1:4] = 1
    return image, labels


def test_planes_go_through_most_of_the_structures_and_leave_empty_space_out() -> None:
    image, labels = scene()
    grid = Geometry(SHAPE, np.diag([1.0, 2.0, 3.0, 1.0]))
    axial, coronal, sagittal = cut_planes(image, labels, 0 * labels, grid, MEMBERS)
    assert [plane.spacing for plane in (axial, coronal, sagittal)] == [(1, 2), (1, 3), (2, 3)]
    assert axial.truth[0].sum() == 5
    assert not axial.truth[1].any()
    assert not axial.prediction.any()
    assert axial.truth.shape == (2, *axial.image.shape)
    assert coronal.truth[0].sum() == 5
    assert sagittal.truth[0].sum() == 5
    assert np.array_equal(axial.image[:, 5], image[: axial.image.shape[0], 5, 2])


def test_masks_of_outputs_give_the_same_planes_as_classes() -> None:
    image, labels = scene()
    grid = Geometry(SHAPE, np.eye(4))
    by_class = cut_planes(image, labels, np.roll(labels, 1, 0), grid, MEMBERS)
    masks = [np.moveaxis(MEMBERS[array], -1, 0) for array in (labels, np.roll(labels, 1, 0))]
    for one, other in zip(by_class, cut_planes(image, *masks, grid), strict=True):
        assert np.array_equal(one.truth, other.truth)
        assert np.array_equal(one.prediction, other.prediction)
        assert np.array_equal(one.image, other.image)


def test_stored_axes_do_not_matter() -> None:
    image, labels = scene()
    plain = cut_planes(image, labels, labels, Geometry(SHAPE, np.eye(4)), MEMBERS)
    affine = np.array([[0, -1.0, 0, 11], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    stored = [np.ascontiguousarray(array.transpose(2, 0, 1)[:, ::-1]) for array in (image, labels)]
    turned = cut_planes(stored[0], stored[1], stored[1], Geometry((8, 12, 10), affine), MEMBERS)
    for one, other in zip(plain, turned, strict=True):
        assert np.array_equal(one.truth, other.truth)
        # The margin of empty space is found on every second voxel, counted from the other end.
        assert one.image.sum() == other.image.sum()


@pytest.mark.parametrize("predicted", [False, True])
def test_without_truth_the_prediction_decides_and_without_both_the_middle(predicted: bool) -> None:
    image, labels = scene()
    empty = np.zeros_like(labels)
    axial = cut_planes(image, empty, labels if predicted else empty, Geometry(SHAPE, np.eye(4)), MEMBERS)[0]
    assert np.array_equal(axial.image[:, 5], image[: axial.image.shape[0], 5, 2 if predicted else 4])
    assert axial.prediction.any() == predicted
