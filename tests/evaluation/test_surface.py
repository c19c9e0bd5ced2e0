from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from voxseg.errors import UserError
from voxseg.evaluation import surface
from voxseg.evaluation.surface import area_hd95, surface_score

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

UNIT = (1.0, 1.0, 1.0)
SPACINGS = [UNIT, (0.7, 1.3, 4.0)]


def blob(seed: int, shape: tuple[int, int, int] = (17, 14, 12)) -> Mask:
    """Smooth random lumps, which also touch the border of the array."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 0.8)


def ball(radius: float, spacing: Spacing, centre: Spacing = (0.0, 0.0, 0.0), reach: float = 14.0) -> Mask:
    axes = [
        np.arange(-math.ceil(reach / s), math.ceil(reach / s) + 1) * s - c for s, c in zip(spacing, centre, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


def surface_points(mask: Mask, spacing: Spacing) -> NDArray[np.float64]:
    """Voxels of the mask with a neighbour outside, one after the other."""
    padded = np.pad(mask, 1)
    points = []
    for place in np.argwhere(padded):
        steps = [step for axis in range(3) for step in (np.eye(3, dtype=int)[axis], -np.eye(3, dtype=int)[axis])]
        if not all(padded[tuple(place + step)] for step in steps):
            points.append(place * np.array(spacing))
    return np.array(points)


def by_brute_force(first: Mask, second: Mask, spacing: Spacing) -> tuple[float, float]:
    distances = cdist(surface_points(first, spacing), surface_points(second, spacing))
    there, back = distances.min(1), distances.min(0)
    return max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hd95_and_average_agree_with_all_pairs_of_surface_voxels(seed: int, spacing: Spacing) -> None:
    first, second = blob(seed), blob(seed + 10)
    score = surface_score(first, second, spacing, 1.0)
    assert (score.hd95, score.assd) == pytest.approx(by_brute_force(first, second, spacing), rel=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_agrees_with_monai_from_end_to_end(spacing: Spacing) -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    first, second = blob(3), blob(4)
    masks = [torch.from_numpy(mask)[None, None].float() for mask in (first, second)]
    both = {"include_background": True, "spacing": spacing}
    for tolerance in (0.5, 1.0, 2.7):
        score = surface_score(first, second, spacing, tolerance)
        nsd = compute_surface_dice(*masks, class_thresholds=[tolerance], use_subvoxels=True, **both)
        assert score.nsd == pytest.approx(float(nsd), rel=1e-5)
        assert 0 < score.nsd < 1
    assert score.hd95 == pytest.approx(float(compute_hausdorff_distance(*masks, percentile=95, **both)), rel=1e-5)
    assert score.assd == pytest.approx(
        float(compute_average_surface_distance(*masks, symmetric=True, **both)), rel=1e-5
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", [5, 6])
def test_areas_agree_with_the_original_of_surface_dice(seed: int, spacing: Spacing) -> None:
    import surface_distance

    first, second = blob(seed), blob(seed + 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = surface_distance.compute_surface_distances(second, first, spacing)
    for tolerance in (0.0, 0.7, 1.0, 1.5, 4.0):
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
        assert surface_score(first, second, spacing, tolerance).nsd == pytest.approx(expected, rel=1e-6)
    expected = surface_distance.compute_robust_hausdorff(distances, 95)
    assert area_hd95(first, second, spacing) == pytest.approx(expected, rel=1e-6)


def test_shifted_cube_in_closed_form() -> None:
    first = np.zeros((20, 14, 14), dtype=bool)
    first[2:12, 2:12, 2:12] = True
    second = np.roll(first, 3, axis=0)
    x, y, z = np.moveaxis(np.argwhere(np.ones((10, 10, 10))), -1, 0)
    sides = np.minimum(np.minimum(y, 9 - y), np.minimum(z, 9 - z))
    on_surface = (sides == 0) | (x == 0) | (x == 9)
    inside = np.minimum(np.minimum(x - 3, 12 - x), sides)  # of the other cube, which begins at 3
    distance = np.where(x < 3, 3 - x, inside)[on_surface].astype(float)
    score = surface_score(first, second, UNIT, 1.0)
    assert score.hd95 == pytest.approx(np.percentile(distance, 95))
    assert score.assd == pytest.approx(distance.mean())
    stretched = surface_score(first, second, (2.0, 100.0, 100.0), 1.0)
    assert stretched.hd95 == pytest.approx(6)


@pytest.mark.parametrize(("axis", "gap"), [(0, 2.0), (1, 3.0), (2, 5.0)])
def test_parallel_plates_are_as_far_apart_as_spacing_says(axis: int, gap: float) -> None:
    first = np.zeros((9, 9, 9), dtype=bool)
    first[(slice(None),) * axis + (2,)] = True
    second = np.roll(first, 4, axis=axis)
    score = surface_score(first, second, (2.0, 3.0, 5.0), 3 * gap)
    assert (score.hd95, score.assd) == pytest.approx((4 * gap, 4 * gap))
    # The plates have two sides each: the inner ones are three voxels from the other plate, the outer ones four.
    assert score.nsd == pytest.approx(0.5)
    assert surface_score(first, second, (2.0, 3.0, 5.0), 4 * gap).nsd == 1
    assert surface_score(first, second, (2.0, 3.0, 5.0), 2.99 * gap).nsd == 0


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.5, 0.8, 1.1)])
def test_balls_of_different_radius(spacing: Spacing) -> None:
    small, large = ball(8.0, spacing), ball(11.0, spacing)
    voxel = max(spacing)
    score = surface_score(small, large, spacing, 3.0)
    assert score.hd95 == pytest.approx(3, abs=0.6 * voxel)
    assert score.assd == pytest.approx(3, abs=0.25 * voxel)
    assert surface_score(small, large, spacing, 3 - 1.5 * voxel).nsd == pytest.approx(0, abs=0.01)
    assert surface_score(small, large, spacing, 3 + 1.5 * voxel).nsd == pytest.approx(1, abs=0.01)


def test_shifted_ball_has_the_average_of_its_shift() -> None:
    spacing = (0.5, 0.5, 0.5)
    first, second = ball(10.0, spacing), ball(10.0, spacing, centre=(1.0, 0.0, 0.0))
    # Points of the one sphere are |cos θ| · 1 mm off the other to first order: 0.5 mm on average over the sphere.
    assert surface_score(first, second, spacing, 1.0).assd == pytest.approx(0.5, abs=0.08)
    assert surface_score(first, second, spacing, 1.0).hd95 == pytest.approx(0.95, abs=0.1)


def test_tolerance_counts_borders_at_exactly_that_distance_for_any_spacing() -> None:
    first = np.zeros((40, 6, 6), dtype=bool)
    first[20:24] = True
    for spacing in (0.1, 0.3, 0.7, 0.9375, 1.2):
        for place in (0, 3, 13):
            moved = np.roll(first, place - 20, axis=0)
            score = surface_score(moved, np.roll(moved, 1, axis=0), (spacing, spacing, spacing), spacing)
            assert score.nsd == 1
    # Spacing from the affine of an oblique scan is only so exact.
    assert surface_score(first, np.roll(first, 1, axis=0), (1.000002,) * 3, 1.0).nsd == 1
    assert surface_score(first, np.roll(first, 1, axis=0), (1.001,) * 3, 1.0).nsd < 1


def test_same_masks() -> None:
    score = surface_score(blob(1), blob(1), (0.7, 1.3, 4.0), 0.0)
    assert (score.nsd, score.hd95, score.assd) == (1, 0, 0)
    voxel = np.ones((1, 1, 1), dtype=bool)
    assert surface_score(voxel, voxel, UNIT, 0.0) == score


@pytest.mark.parametrize("function", [lambda a, b, s: surface_score(a, b, s, 1.0), area_hd95])
def test_border_of_the_array_is_a_border_and_cutting_changes_nothing(function) -> None:
    first, second = np.ones((5, 6, 7), dtype=bool), np.ones((5, 6, 7), dtype=bool)
    first[0] = False
    second[:, :2] = False
    full = function(first, second, (1.0, 2.0, 1.5))
    assert function(np.pad(first, 3), np.pad(second, 3), (1.0, 2.0, 1.5)) == full
    first, second = blob(7), blob(8)
    assert function(np.pad(first, 5), np.pad(second, 5), UNIT) == function(first, second, UNIT)


def test_does_not_depend_on_which_is_which_nor_on_the_order_of_axes_in_memory() -> None:
    first, second = blob(1), blob(2)
    score = surface_score(first, second, (0.7, 1.3, 4.0), 1.0)
    assert surface_score(second, first, (0.7, 1.3, 4.0), 1.0) == score
    turned = [np.ascontiguousarray(mask.transpose(2, 0, 1)) for mask in (first, second)]
    again = surface_score(*turned, (4.0, 0.7, 1.3), 1.0)
    assert (again.nsd, again.hd95, again.assd) == pytest.approx((score.nsd, score.hd95, score.assd))
    fortran = [np.asfortranarray(mask) for mask in (first, second)]
    assert surface_score(*fortran, (0.7, 1.3, 4.0), 1.0) == score


def test_empty_masks_are_refused() -> None:
    for pair in [(blob(0), np.zeros_like(blob(0))), (np.zeros_like(blob(0)), blob(0))]:
        with pytest.raises(ValueError, match="missed or false"):
            surface_score(*pair, UNIT, 1.0)
        with pytest.raises(ValueError, match="missed or false"):
            area_hd95(*pair, UNIT)


def test_says_what_to_install_without_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    surface._monai.cache_clear()
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(UserError, match=r"voxseg\[evaluate\]"):
        surface_score(blob(0), blob(1), UNIT, 1.0)
