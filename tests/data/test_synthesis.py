from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from heads import SHAPE, SPACING, write_toy_heads
from voxseg.data._spatial import Placement, draw_displacement, rotation_matrix, window_index
from voxseg.data.label_maps import LabelMaps
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.normalise import intensity_range
from voxseg.data.synthesis import GeneratorConfig, ScanGenerator

SCHEME = LabelScheme(classes=[2, 3, 4, 10])
PLAIN = {
    "soft_borders": 0,
    "rotation_deg": 0,
    "scale": 0,
    "deformation_mm": 0,
    "growth": 0,
    "mirror": 0,
    "spread": 0,
    "texture": (0, 0),
    "skull_strip": 0,
    "noisy_air": 0,
    "bias": 0,
    "gamma": 0,
    "noise": 0,
    "blur_mm": (0, 0),
    "low_resolution": 0,
    "overhang": 0,
    "outside": 0,
    "cut": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def maps(folder: Path) -> LabelMaps:
    return LabelMaps.read(folder, SCHEME)


@pytest.fixture(scope="module")
def cerebellum(tmp_path_factory: pytest.TempPathFactory) -> LabelMaps:
    """The toy heads with the labels of the cerebellum in the place of cortex and white matter."""
    folder = write_toy_heads(tmp_path_factory.mktemp("cerebellum"))
    table = (folder / "labels.csv").read_text()
    renamed = {3: 8, 42: 47, 2: 7, 41: 46}
    for old, new in renamed.items():
        table = table.replace(f"\n{old},", f"\n{new},")
    (folder / "labels.csv").write_text(table)
    for path in folder.glob("map_*.nii.gz"):
        image = nib.load(path)
        labels = np.asanyarray(image.dataobj).copy()
        for old, new in renamed.items():
            labels[labels == old] = new
        nib.save(nib.Nifti1Image(labels, image.affine), path)
    return LabelMaps.read(folder, SCHEME)


def plain(maps: LabelMaps, **changes: object) -> ScanGenerator:
    """A generator with every variation off but those given."""
    return ScanGenerator(maps, GeneratorConfig(**{**PLAIN, "window": (48, 48, 48), **changes}))


def pairs(generator: ScanGenerator, count: int) -> list[tuple[Tensor, Tensor]]:
    samples = [generator.sample((11, k)) for k in range(count)]
    return [(scan[0, 0], target[0]) for scan, target in samples]


class TestSample:
    def test_shapes_types_and_range(self, maps: LabelMaps) -> None:
        generator = ScanGenerator(maps, GeneratorConfig(window=(24, 17, 30)))
        scan, target = generator.sample(3, batch=4)
        assert scan.shape == (4, 1, 24, 17, 30)
        assert scan.dtype == torch.float32
        assert target.shape == (4, 24, 17, 30)
        assert target.dtype == torch.int64
        assert -0.5 <= scan.min() <= scan.max() <= 2
        assert 0 <= target.min() <= target.max() <= 4

    def test_seed_decides_everything(self, maps: LabelMaps) -> None:
        config = GeneratorConfig(window=(20, 20, 20), contrast="mixed")
        for seed in (0, 7, (1, 2, 3), (2**40, 5)):
            first, second = (ScanGenerator(maps, config).sample(seed, 3) for _ in range(2))
            assert torch.equal(first[0], second[0])
            assert torch.equal(first[1], second[1])
        scan, _ = ScanGenerator(maps, config).sample((1, 2, 3), 3)
        assert not torch.equal(scan[0], scan[1])
        assert not torch.equal(scan, ScanGenerator(maps, config).sample((1, 3, 2), 3)[0])

    def test_global_random_state_is_neither_read_nor_changed(self, maps: LabelMaps) -> None:
        generator = ScanGenerator(maps, GeneratorConfig(window=(20, 20, 20)))
        torch.manual_seed(1)
        state = torch.get_rng_state()
        scan, _ = generator.sample(5)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert torch.equal(generator.sample(5)[0], scan)

    def test_negative_seed_is_refused(self, maps: LabelMaps) -> None:
        with pytest.raises(ValueError, match="non-negative"):
            ScanGenerator(maps, GeneratorConfig()).sample(-1)

    def test_maps_have_to_be_on_the_device(self, maps: LabelMaps) -> None:
        with pytest.raises(ValueError, match="the label maps are on cpu, not on cuda"):
            ScanGenerator(maps, GeneratorConfig(), "cuda")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
    def test_on_a_gpu(self, folder: Path) -> None:
        maps = LabelMaps.read(folder, SCHEME, "cuda")
        generator = ScanGenerator(maps, GeneratorConfig(window=(32, 32, 32)), "cuda")
        for k in range(10):
            scan, target = generator.sample((1, k), 2)
            again, _ = generator.sample((1, k), 2)
            assert scan.is_cuda
            assert target.is_cuda
            assert torch.equal(scan, again)


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"window": (4, 64, 64)}, "at least 8 voxels"),
            ({"blur_mm": (1.0, 0.5)}, "a least and a largest"),
            ({"overhang": 0.7, "outside": 0.7}, "more than 1"),
            ({"skull_strip": 1.5}, "less than or equal to 1"),
            ({"contrast": "t2"}, "'t1', 'sequences', 'any' or 'mixed'"),
            ({"t1_share": 0.7, "sequences_share": 0.6}, "1.3, more than 1"),
            ({"rotations": 3}, "rotations"),
        ],
    )
    def test_wrong_values(self, values: dict, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            GeneratorConfig(**values)


class TestIntensities:
    def test_classes_follow_the_prior(self, maps: LabelMaps) -> None:
        ratios = []
        for scan, target in pairs(plain(maps), 6):
            white, cortex = scan[target == 1].median(), scan[target == 2].median()
            ratios.append(float(cortex / white))
        # Without spread the class means are exactly those of the prior: 96 and 160.
        assert ratios == pytest.approx([96 / 160] * 6, abs=0.01)

    def test_spread_of_the_class_means(self, maps: LabelMaps) -> None:
        values = []
        for scan, target in pairs(plain(maps, spread=1, window=(32, 32, 32), mirror=0.5), 120):
            values.append(float(scan[target == 3].median() / scan[target == 1].median()))
        ratio = torch.tensor(values).log()
        # log(44/160) and the deviations 11/44 and 21/160 of the two means.
        assert float(ratio.median()) == pytest.approx(math.log(44 / 160), abs=0.12)
        assert float(ratio.std()) == pytest.approx(math.hypot(11 / 44, 21 / 160), abs=0.13)

    def test_blur_is_more_often_small(self, maps: LabelMaps, monkeypatch: pytest.MonkeyPatch) -> None:
        widths = []
        monkeypatch.setattr("voxseg.data.synthesis.smooth3", lambda scan, sigma: widths.append(sigma) or scan)
        pairs(plain(maps, blur_mm=(1, 5), window=(8, 8, 8), spacing=2), 300)
        drawn = 2 * torch.tensor(widths)  # mm
        assert 1 <= drawn.min() < 1.1 < 4.8 < drawn.max() <= 5
        assert float(drawn.median()) == pytest.approx(2, abs=0.4)

    def test_any_contrast_has_no_order(self, maps: LabelMaps) -> None:
        brighter = [
            bool(scan[target == 1].median() > scan[target == 2].median())
            for scan, target in pairs(plain(maps, contrast="any", window=(32, 32, 32)), 60)
        ]
        assert 15 < sum(brighter) < 45

    @pytest.mark.parametrize("contrast", ["any", "sequences"])
    def test_both_sides_look_alike_in_any_contrast(self, folder: Path, contrast: str) -> None:
        apart = LabelMaps.read(folder, LabelScheme(classes=[2, 41], merge_sides=False))
        for scan, target in pairs(plain(apart, contrast=contrast), 5):
            assert float(scan[target == 1].median()) == pytest.approx(float(scan[target == 2].median()), abs=1e-3)

    def test_texture_varies_within_a_class(self, maps: LabelMaps) -> None:
        for scan, target in pairs(plain(maps, texture=(0.5, 0.5)), 3):
            inside = scan[target == 1]
            assert 0.01 < float(inside.std() / inside.mean()) < 0.2

    def test_noise_gamma_and_shading_change_the_scan(self, maps: LabelMaps) -> None:
        reference, _ = plain(maps).sample(0)
        for changes in ({"noise": 0.3}, {"gamma": 0.5}, {"bias": 0.5}, {"blur_mm": (2, 2)}):
            assert not torch.allclose(plain(maps, **changes).sample(0)[0], reference, atol=0.02)

    def test_overview_gives_the_range_of_the_whole_scan(self, maps: LabelMaps) -> None:
        window = tuple(n + 20 for n in SHAPE)
        generator = plain(maps, window=window, spread=1, texture=(0.1, 0.6), noise=0.03, bias=0.2, blur_mm=(0.5, 1))
        for scan, _ in pairs(generator, 5):
            low, high = intensity_range(scan)
            assert low == 0
            assert high == pytest.approx(1, abs=0.25)


class TestSoftBorders:
    """The toy heads have thalami (class 4) in their white matter (class 1), which is brighter in T1."""

    @staticmethod
    def both(maps: LabelMaps, count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Scans with sharp and with soft borders, alike otherwise, and their labels."""
        sharp, soft = (
            pairs(plain(maps, window=SHAPE, spacing=SPACING, soft_borders=share), count) for share in (0, 0.8)
        )
        return [(one, other, target) for (one, target), (other, _) in zip(sharp, soft, strict=True)]

    def test_contrast_is_lost_near_the_border_on_either_side(self, maps: LabelMaps) -> None:
        darker, brighter = [], []
        for sharp, soft, target in self.both(maps, 12):
            white, deep = ((target == k) for k in (1, 4))
            change = soft - sharp
            assert change[~white & ~deep].abs().max() < 1e-6
            assert change[white].max() < 1e-6
            assert change[deep].min() > -1e-6
            far = functional.max_pool3d(deep.float()[None, None], 17, 1, 8)[0, 0] == 0
            assert change[white & far].abs().max() < 0.01
            contrast = sharp[white].median() - sharp[deep].median()
            darker.append(float(-change[white].min() / contrast))
            brighter.append(float(change[deep].max() / contrast))
        assert max(darker) > 0.3
        assert max(brighter) > 0.3
        assert min(darker) < 0.15
        assert min(brighter) < 0.15

    def test_without_white_matter_nothing_is_lost(self, cerebellum: LabelMaps) -> None:
        for sharp, soft, _ in self.both(cerebellum, 2):
            assert torch.equal(sharp, soft)

    def test_it_is_never_reversed(self, maps: LabelMaps) -> None:
        for sharp, soft, target in self.both(maps, 12):
            contrast = sharp[target == 1].median() - sharp[target == 4].median()
            across = (target[1:] == 1) & (target[:-1] == 4)
            across &= sharp[1:] - sharp[:-1] > 0.95 * contrast  # no voxel with a share of both, or of a ventricle
            if across.any():
                left = (soft[1:] - soft[:-1])[across] / contrast
                assert left.min() > 0.19
                assert left.max() < 1


class TestLesions:
    def test_they_change_the_scan_within_the_brain_and_no_label(self, maps: LabelMaps) -> None:
        healthy, ill = (pairs(plain(maps, window=SHAPE, spacing=SPACING, lesions=share), 6) for share in (0, 1))
        for (scan, target), (changed, same) in zip(healthy, ill, strict=True):
            assert torch.equal(target, same)
            assert bool(((scan - changed).abs() > 0.02)[target > 0].any())


class TestFolds:
    @staticmethod
    def within(target: Tensor, k: int) -> Tensor:
        """Voxels of class k whose neighbours are of it too, so that there is no partial volume."""
        other = functional.pad((target != k).float()[None, None], [1] * 6, value=1.0)
        return functional.max_pool3d(other, 3, 1)[0, 0] == 0

    def test_cerebellar_cortex_has_stripes_of_white_matter_and_fluid(self, cerebellum: LabelMaps) -> None:
        shares = []
        for scan, target in pairs(plain(cerebellum, window=SHAPE, spacing=SPACING, folds=1), 16):
            white, fluid, cortex = (scan[self.within(target, k)] for k in (1, 3, 2))
            assert white.std() < 1e-4
            assert fluid.std() < 1e-4
            assert fluid.mean() - 1e-4 <= cortex.min() < cortex.max() <= white.mean() + 1e-4
            shares.append(float((cortex.max() - cortex.min()) / (white.mean() - fluid.mean())))
        assert min(shares) < 0.5
        assert max(shares) > 0.7

    def test_without_them_it_is_flat(self, cerebellum: LabelMaps) -> None:
        for scan, target in pairs(plain(cerebellum, window=SHAPE, spacing=SPACING, folds=0), 2):
            assert scan[self.within(target, 2)].std() < 1e-4

    def test_nothing_else_has_them(self, maps: LabelMaps) -> None:
        for scan, target in pairs(plain(maps, window=SHAPE, spacing=SPACING, folds=1), 2):
            assert scan[self.within(target, 2)].std() < 1e-4


class TestEmptySpace:
    def test_windows_in_the_air_happen(self, maps: LabelMaps) -> None:
        generator = ScanGenerator(maps, GeneratorConfig(window=(32, 32, 32)))
        empty = [not bool((target > 0).any()) for _, target in pairs(generator, 150)]
        assert 0.02 < sum(empty) / len(empty) < 0.25

    def test_outside_there_is_nothing(self, maps: LabelMaps) -> None:
        for scan, target in pairs(plain(maps, outside=1), 10):
            assert (scan == 0).all()
            assert (target == 0).all()

    def test_outside_there_is_noise(self, maps: LabelMaps) -> None:
        for scan, target in pairs(plain(maps, outside=1, noisy_air=1, noise=0.06), 10):
            assert (target == 0).all()
            assert 0 <= scan.min() <= scan.max() < 0.7

    def test_overhang(self, maps: LabelMaps) -> None:
        shares = [float((target > 0).float().mean()) for _, target in pairs(plain(maps, overhang=1), 30)]
        assert min(shares) < 0.1
        assert max(shares) > 0.25

    def test_air_within_the_field_of_view(self, maps: LabelMaps) -> None:
        window = tuple(n + 30 for n in SHAPE)
        still, _ = pairs(plain(maps, window=window, noise=0.06), 1)[0]
        noisy, _ = pairs(plain(maps, window=window, noise=0.06, noisy_air=1), 1)[0]
        assert (still[0] == 0).all()
        assert (noisy[0] > 0).float().mean() > 0.9

    def test_stripped_background_is_exactly_zero(self, maps: LabelMaps) -> None:
        window = tuple(n + 20 for n in SHAPE)
        kept = []
        for scan, target in pairs(plain(maps, window=window, skull_strip=1, noise=0.06, noisy_air=1), 12):
            assert (scan[0] == 0).all()
            assert (scan[:, :, 0] == 0).all()
            brain = target > 0
            assert (scan[brain] > 0.02).float().mean() > 0.8
            kept.append(float((scan[~brain] > 0.02).sum() / brain.sum()))
        # From close to the brain to a margin of other tissue.
        assert min(kept) < 0.2
        assert max(kept) > min(kept) + 0.05

    def test_what_is_stripped_has_no_label(self, maps: LabelMaps) -> None:
        whole = pairs(plain(maps, noise=0.06), 12)
        stripped = pairs(plain(maps, noise=0.06, skull_strip=1), 12)
        lost = []
        for (_, all_labels), (scan, target) in zip(whole, stripped, strict=True):
            kept = scan > 0
            assert torch.equal(target[kept], all_labels[kept])
            assert not target[~kept].any()
            lost.append(float((all_labels[~kept] > 0).sum() / (all_labels > 0).sum()))
        assert min(lost) < 0.01  # a margin is left
        assert 0.005 < max(lost) < 0.3  # cut into the cortex

    def test_scans_are_stripped_after_they_were_measured(self, maps: LabelMaps) -> None:
        window = tuple(n + 20 for n in SHAPE)
        for scan, target in pairs(plain(maps, window=window, skull_strip=1, blur_mm=(4, 4)), 6):
            empty = (scan == 0).float()[None, None]
            near, beside = ((functional.max_pool3d(empty, 2 * n + 1, 1, n) > 0)[0, 0] for n in (1, 2))
            ring = beside & ~near & (target > 0)
            # A blurred edge would have a few per cent two voxels from where it ends.
            assert scan[ring].median() > 0.4 * scan[target > 0].median()

    def test_cut_field_of_view(self, maps: LabelMaps) -> None:
        for scan, target in pairs(plain(maps, cut=1), 10):
            ends = [edge for axis in range(3) for edge in (scan.select(axis, 0), scan.select(axis, -1))]
            labels = [edge for axis in range(3) for edge in (target.select(axis, 0), target.select(axis, -1))]
            empty = [not edge.any() for edge in ends]
            assert any(empty)
            assert all(not label.any() for label, none in zip(labels, empty, strict=True) if none)


class TestGeometry:
    def test_window_without_turning_is_a_crop(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        centre, parts = window_index(head, Placement(torch.eye(3), torch.tensor([30.0, 40.0, 35.0]), None), (9, 7, 5))
        assert torch.equal(head.rows.view(-1)[centre], head.rows[26:35, 37:44, 33:38])
        assert torch.equal(parts, centre.expand(4, -1, -1, -1))

    def test_outside_the_map_is_background(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        for corner in (-500.0, 500.0):
            centre, parts = window_index(head, Placement(torch.eye(3), torch.full((3,), corner), None), (8, 8, 8))
            assert (head.rows.view(-1)[centre] == 0).all()
            assert (head.rows.view(-1)[parts] == 0).all()

    def test_partial_volume_at_half_the_resolution(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        _, parts = window_index(head, Placement(2 * torch.eye(3), torch.tensor([36.5, 42.5, 39.5]), None), (20, 20, 20))
        assert (parts[0] != parts[1]).all()

    def test_volumes_are_those_of_the_map(self, maps: LabelMaps) -> None:
        window = tuple(n + 10 for n in SHAPE)
        expected = [torch.bincount(maps.target[head.rows.long()].view(-1)) for head in maps.heads]
        for _, target in pairs(plain(maps, window=window, spacing=SPACING, rotation_deg=180), 4):
            counts = torch.bincount(target.view(-1))
            error = min(float(((counts - e)[1:] / e[1:]).abs().max()) for e in expected)
            assert error < 0.06

    def test_mirrored_heads_keep_left_on_the_left(self, folder: Path) -> None:
        apart = LabelMaps.read(folder, LabelScheme(classes=[2, 41], merge_sides=False))
        window = tuple(n + 60 for n in SHAPE)
        for mirror in (0, 1):
            for scan, target in pairs(plain(apart, window=window, mirror=mirror), 2):
                left, right = ((target == k).nonzero()[:, 0].float().mean() for k in (1, 2))
                assert left < right
                assert scan.shape == window

    def test_rotations(self) -> None:
        random = torch.Generator().manual_seed(0)
        for _ in range(50):
            R = rotation_matrix(random, 25)
            torch.testing.assert_close(R @ R.T, torch.eye(3), atol=1e-5, rtol=0)
            assert float(torch.linalg.det(R)) == pytest.approx(1, abs=1e-5)
            assert float(torch.trace(R)) >= 1 + 2 * math.cos(math.radians(25)) - 1e-5

    def test_deformation_does_not_fold(self, maps: LabelMaps) -> None:
        head = maps.heads[0]
        random = torch.Generator().manual_seed(0)
        centre = (head.brain_low + head.brain_high) / 2
        worst = 1.0
        for _ in range(30):
            field = draw_displacement(random, head, torch.eye(3), centre, (64, 64, 64), 0.0, 0.5)[0]
            step = 63 / (field.shape[-1] - 1)
            slope = [field[k].diff(dim=k) / step for k in range(3)]
            worst = min(worst, *(float(1 + s.min()) for s in slope))
        assert 0 < worst < 1

    def test_no_deformation_unless_asked(self, maps: LabelMaps) -> None:
        random = torch.Generator().manual_seed(0)
        field = draw_displacement(random, maps.heads[0], torch.eye(3), torch.full((3,), 30.0), (16, 16, 16), 0.0, 0.0)
        assert (field == 0).all()


def test_on_the_shared_maps(shared_data: Path) -> None:
    maps = LabelMaps.read(shared_data / "head_label_maps", LabelScheme.brain())
    generator = ScanGenerator(maps, GeneratorConfig())
    seen = set()
    for scan, target in pairs(generator, 12):
        assert torch.isfinite(scan).all()
        seen |= set(target.unique().tolist())
    assert seen == set(range(17))
