from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from voxseg.data.normalise import (
    CLAMP,
    ZSCORE_LIMIT,
    background,
    foreground_threshold,
    intensity_range,
    normalise,
    rescale_window,
    zscore,
)


def toy_scan(noise: float = 0.0, shape: tuple[int, int, int] = (40, 44, 36), seed: int = 0) -> Tensor:
    """A ball of two tissues (60 and 100) in air, with noise of that deviation everywhere (magnitude)."""
    random = torch.Generator().manual_seed(seed)
    axes = [torch.linspace(-1, 1, n) for n in shape]
    radius = sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()
    scan = 100.0 * (radius < 0.5) + 60.0 * ((radius >= 0.5) & (radius < 0.85))
    scan = scan + 3 * torch.randn(shape, generator=random) * (radius < 0.85)
    if noise:
        scan = torch.hypot(
            scan + noise * torch.randn(shape, generator=random), noise * torch.randn(shape, generator=random)
        )
    return scan.clamp_min(0)


class TestInvariance:
    @pytest.mark.parametrize("noise", [0.0, 8.0])
    def test_all_48_flips_and_permutations_give_the_same_bits(self, noise: float) -> None:
        scan = toy_scan(noise)
        expected = normalise(scan)
        for order in itertools.permutations(range(3)):
            for flips in itertools.product((False, True), repeat=3):
                axes = [k for k in range(3) if flips[k]]
                turned = scan.permute(order).flip(axes)
                assert torch.equal(normalise(turned), expected.permute(order).flip(axes))

    @pytest.mark.parametrize("noise", [0.0, 8.0])
    def test_zero_padding_changes_nothing(self, noise: float) -> None:
        scan = toy_scan(noise)
        padded = torch.nn.functional.pad(scan, (20, 0, 7, 13, 0, 25))
        nx, ny, _ = scan.shape
        result = normalise(padded)
        assert torch.equal(result[:nx, 7 : 7 + ny, 20:], normalise(scan))
        assert intensity_range(padded) == intensity_range(scan)
        assert foreground_threshold(padded) == foreground_threshold(scan)

    def test_padding_is_zero_afterwards(self) -> None:
        padded = torch.nn.functional.pad(toy_scan(8.0), (5,) * 6)
        assert (normalise(padded)[:5] == 0).all()

    @pytest.mark.parametrize("factor", [1e-4, 1.0, 37.0, 1e5])
    def test_unit_of_intensity_does_not_matter(self, factor: float) -> None:
        torch.testing.assert_close(normalise(toy_scan(5.0) * factor), normalise(toy_scan(5.0)), atol=2e-3, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64])
    def test_integer_types(self, dtype: torch.dtype) -> None:
        scan = toy_scan().round().to(dtype)
        result = normalise(scan)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, normalise(scan.float()))


class TestLevels:
    @pytest.mark.parametrize("noise", [0.0, 3.0, 8.0])
    def test_bright_tissue_is_near_one_and_air_near_zero(self, noise: float) -> None:
        result = normalise(toy_scan(noise))
        assert 0.85 < result[20, 22, 18] < 1.2
        assert abs(float(result[0, 0, 0])) < 0.25

    @pytest.mark.parametrize("noise", [0.0, 4.0, 8.0])
    def test_threshold_divides_tissue_from_air(self, noise: float) -> None:
        scan = toy_scan(noise)
        threshold = foreground_threshold(scan)
        tissue = toy_scan(0.0) > 0
        assert ((scan > threshold) == tissue).float().mean() > 0.97

    def test_few_hot_voxels_do_not_matter(self) -> None:
        scan = toy_scan(4.0)
        hot = scan.clone()
        hot.view(-1)[:: scan.numel() // 60] = 1e6
        low, high = intensity_range(scan)
        hot_low, hot_high = intensity_range(hot)
        assert hot_low == low
        assert hot_high == pytest.approx(high, rel=0.05)
        assert float(normalise(hot).max()) == CLAMP[1]

    def test_amount_of_noisy_air_does_not_matter(self) -> None:
        scan = toy_scan(6.0)
        random = torch.Generator().manual_seed(1)
        more = torch.hypot(*(6.0 * torch.randn(2, 80, 90, 70, generator=random)))
        more[10:50, 10:54, 10:46] = scan
        assert intensity_range(more)[1] == pytest.approx(intensity_range(scan)[1], rel=0.03)

    def test_offset_is_removed(self) -> None:
        scan = toy_scan(4.0)
        torch.testing.assert_close(normalise(scan + 1000), normalise(scan), atol=0.05, rtol=0)

    def test_negative_values_are_empty_space(self) -> None:
        scan = toy_scan(4.0)
        torch.testing.assert_close(normalise(scan - 1024), normalise(scan), atol=0.05, rtol=0)


class TestExtremes:
    @pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
    def test_constant(self, value: float) -> None:
        assert (normalise(torch.full((4, 5, 6), value)) == 0).all()
        assert foreground_threshold(torch.full((4, 5, 6), value)) == value

    def test_one_voxel(self) -> None:
        scan = torch.zeros(8, 8, 8)
        scan[4, 4, 4] = 7.0
        assert normalise(scan)[4, 4, 4] == 1.0

    def test_two_values(self) -> None:
        scan = torch.zeros(8, 8, 8)
        scan[2:6] = 200.0
        assert normalise(scan).unique().tolist() == [0.0, 1.0]

    def test_noise_alone_stays_in_range(self) -> None:
        noise = torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0))
        result = normalise(noise)
        assert torch.isfinite(result).all()
        assert result.min() >= CLAMP[0]
        assert result.max() <= CLAMP[1]

    def test_more_voxels_than_torch_quantile_takes(self) -> None:
        scan = torch.zeros(258, 256, 256, dtype=torch.uint8)
        scan[40:] = torch.arange(256, dtype=torch.uint8)
        low, high = intensity_range(scan)
        assert low == 0
        assert 245 <= high <= 252


class TestRealScans:
    def test_same_person_other_field_of_view(self, shared_data: Path) -> None:
        image = nib.load(shared_data / "whole_heads" / "t1.nii.gz")
        scan = torch.from_numpy(np.asarray(image.dataobj).astype(np.float32))
        low, high = intensity_range(scan)
        assert low == 0
        upper = intensity_range(scan[:, :, scan.shape[2] // 3 :])
        assert upper[1] == pytest.approx(high, rel=0.1)

    def test_stripped_and_whole_have_similar_levels(self, shared_data: Path) -> None:
        for path in sorted((shared_data / "oasis_manual" / "train").glob("*/t1.nii.gz"))[:3]:
            folder = path.parent
            scan = torch.from_numpy(np.asarray(nib.load(path).dataobj).astype(np.float32))
            labels = torch.from_numpy(np.asarray(nib.load(folder / "labels.nii.gz").dataobj).astype(np.int64))
            white = normalise(scan)[(labels == 2) | (labels == 41)]
            assert 0.75 < white.median() < 1.1


def stripped_scan(empty: float = 0.0) -> np.ndarray:
    """Tissue with negative values in a ball, one value around it."""
    axes = [np.linspace(-1, 1, n) for n in (40, 44, 36)]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    values = np.random.default_rng(0).normal(0.3, 1.7, radius.shape).astype(np.float32)
    return np.where(radius < 0.9, values, np.float32(empty))


class TestZscore:
    @pytest.mark.parametrize("empty", [0.0, -9.25])
    def test_background_of_one_value_becomes_zero_and_the_rest_has_unit_deviation(self, empty):
        scan = stripped_scan(empty)
        result = zscore(scan)
        assert result.dtype == np.float32
        assert (result[scan == np.float32(empty)] == 0).all()
        inside = result[scan != np.float32(empty)].astype(np.float64)
        assert abs(inside.mean()) < 1e-6
        assert abs(inside.std() - 1) < 1e-6

    def test_integers(self):
        """Z-scores mapped to whole numbers, as in BraTS 2020."""
        scan = np.where(stripped_scan() == 0, 0, np.round(stripped_scan() * 100 + 900)).astype(np.int16)
        assert (zscore(scan)[scan == 0] == 0).all()
        assert abs(zscore(scan)[scan != 0].std() - 1) < 1e-6

    def test_air_is_empty_space_where_it_was_not_set_to_one_value(self):
        scan = toy_scan(noise=4.0).numpy()
        result = zscore(scan)
        tissue = scan > 40
        assert abs(result[~tissue].mean()) < 0.5
        assert abs(result[tissue].std() - 1) < 0.05
        assert result[tissue].min() > 1

    def test_many_zeros_among_air_noise_are_no_background(self):
        scan = np.round(toy_scan(noise=0.6).numpy()).astype(np.int16)
        assert (scan == 0).mean() > 0.1
        assert background(np.sort(scan.astype(np.float32), axis=None)) is None

    @pytest.mark.parametrize("noise", [0.0, 8.0])
    def test_flips_turns_and_padding_change_nothing_at_all(self, noise):
        scan = toy_scan(noise=noise).numpy() if noise else stripped_scan(-9.25)
        expected = zscore(scan)
        for axes in itertools.permutations(range(3)):
            for flips in itertools.product((1, -1), repeat=3):
                index = tuple(slice(None, None, f) for f in flips)
                turned = scan.transpose(axes)[index]
                assert np.array_equal(zscore(turned), expected.transpose(axes)[index])
        padded = zscore(np.pad(scan, ((7, 0), (0, 3), (11, 2)), constant_values=scan.min()))
        assert noise or np.array_equal(padded[7:, :-3, 11:-2], expected)

    def test_hot_voxels_are_limited(self):
        scan = stripped_scan()
        scan[20, 20, 20] = 1e9
        assert zscore(scan).max() == ZSCORE_LIMIT
        assert np.isfinite(zscore(scan).astype(np.float16)).all()

    def test_one_tissue_of_one_value(self):
        scan = np.zeros((10, 10, 10))
        scan[3:6] = 7
        assert (zscore(scan) == 0).all()


def test_window_clips():
    result = rescale_window(torch.tensor([-2000.0, -100.0, 50.0, 200.0, 3000.0]), -100, 200)
    assert torch.allclose(result, torch.tensor([0, 0, 0.5, 1, 1]))
