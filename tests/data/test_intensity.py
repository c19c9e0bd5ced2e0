"""The parts of a generated scan's intensities, one by one."""

from __future__ import annotations

import math

import pytest
import torch

from voxseg.data._intensity import (
    Shading,
    draw_prior,
    draw_shading,
    draw_texture,
    low_resolution,
    smooth3,
    smooth_noise,
    stripes,
)


class TestDrawing:
    def test_classes_of_one_scan_vary_together_more_or_less(self) -> None:
        random, prior = torch.Generator().manual_seed(0), torch.tensor([[100.0] * 2, [10.0] * 2, [5.0] * 2, [0.0] * 2])
        drawn = [draw_prior(random, prior, torch.tensor([0, 1, 0]), 1.0)[0] for _ in range(4000)]
        first, second, third = torch.stack(drawn).T
        assert torch.equal(first, third)
        # Each class by itself varies as the prior says; half of the variance is shared on average, in some scans all.
        assert float(first.mean()) == pytest.approx(100, abs=0.6)
        assert float(first.std()) == pytest.approx(10, abs=0.4)
        assert float(torch.corrcoef(torch.stack((first, second)))[0, 1]) == pytest.approx(0.5, abs=0.05)
        # A difference of two independent classes is below 1 with probability 0.06.
        assert float(((first - second).abs() < 1).float().mean()) > 0.08

    def test_tissue_outside_the_brain_may_be_flat_or_varied(self) -> None:
        random, rows = torch.Generator().manual_seed(0), torch.arange(4)
        brain = torch.tensor([False, True, False, False])
        drawn = [
            draw_texture(random, torch.full((4,), 100.0), torch.full((4,), 20.0), rows, brain, (0.1, 0.6), 2)
            for _ in range(300)
        ]
        deviation = torch.stack([tissue.deviation for tissue in drawn])
        assert deviation[:, 0].abs().max() == 0  # air
        assert 2 <= deviation[:, 1].min() < 2.5 < 11.5 < deviation[:, 1].max() <= 12
        for k in (2, 3):
            assert 1 <= deviation[:, k].min() < 1.5 < 19 < deviation[:, k].max() <= 20
        assert abs(float(torch.corrcoef(deviation[:, 2:].T)[0, 1])) < 0.2


class TestIntensityTools:
    @pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 2.2])
    def test_blur_has_the_variance_asked_for(self, sigma: float) -> None:
        volume = torch.zeros(41, 41, 41)
        volume[20, 20, 20] = 1
        result = smooth3(volume, sigma)
        assert float(result.sum()) == pytest.approx(1, abs=1e-5)
        position = torch.arange(41.0) - 20
        for axes in ((1, 2), (0, 2), (0, 1)):
            assert float((result.sum(axes) * position**2).sum()) == pytest.approx(sigma**2, abs=1e-4)

    def test_blur_keeps_constants_up_to_the_border(self) -> None:
        torch.testing.assert_close(smooth3(torch.full((5, 1, 7), 3.0), 1.7), torch.full((5, 1, 7), 3.0))

    @pytest.mark.parametrize("scale", [1, 2, 4, 8])
    def test_noise_has_unit_deviation(self, scale: int) -> None:
        random = torch.Generator().manual_seed(0)
        noise = smooth_noise((60, 50, 40), scale, random)
        assert noise.shape == (60, 50, 40)
        assert float(noise.std()) == pytest.approx(1, abs=0.15)
        neighbours = float((noise[1:] * noise[:-1]).mean() / noise.square().mean())
        assert abs(neighbours) < 0.05 if scale == 1 else neighbours > 0.5

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_thick_slices(self, axis: int) -> None:
        random = torch.Generator().manual_seed(0)
        scan = torch.rand(24, 24, 24, generator=random)
        thick = low_resolution(scan, axis, 3.0)
        assert thick.shape == scan.shape
        variance = [float(thick.diff(dim=k).var() / scan.diff(dim=k).var()) for k in range(3)]
        assert variance.index(min(variance)) == axis
        torch.testing.assert_close(low_resolution(torch.ones(9, 8, 7), axis, 2.5), torch.ones(9, 8, 7))

    def test_shading_is_a_positive_gain_of_the_strength_asked_for(self) -> None:
        random = torch.Generator().manual_seed(0)
        position = 400 * torch.rand(3000, 3, generator=random)
        deviations = []
        for _ in range(40):
            gain = draw_shading(random, 0.4, torch.ones(3)).at(position)
            assert (gain > 0).all()
            deviations.append(float(gain.log().std()))
        assert max(deviations) < 0.6
        assert max(deviations) > 0.2
        assert (Shading(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1)).at(position) == 1).all()

    def test_waves_have_the_length_asked_for(self) -> None:
        wave = stripes(torch.tensor([0.0, 2 * math.pi / 8, 0.0]), torch.zeros(3, 40, 5))
        assert torch.allclose(wave[:, 8:], wave[:, :-8], atol=1e-4)
        assert torch.allclose(wave[:, 4:], -wave[:, :-4], atol=1e-4)
        assert torch.equal(wave[0, :, 0], wave[2, :, 4])
