"""Lesions that are painted into generated scans."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from voxseg.data._disease import BRIGHTEST, RADIUS_MM, Lesion, draw_lesions, paint_lesions

SHAPE, SPACING, BRIGHT = (44, 48, 40), 1.5, 100.0
ROUND = Lesion(
    place=((22 * 48 + 24) * 40 + 20) / (44 * 48 * 40),  # the middle
    radius_mm=15.0,
    shape=torch.eye(3),
    edge_mm=0.2,
    strength=1.0,
    outer=1.5,
    inner=0.2,
    core=0.0,
    in_white=False,
)


def painted(lesion: Lesion, brain: torch.Tensor, white: torch.Tensor | None = None, seed: int = 0) -> torch.Tensor:
    """A flat scan of 60 with the lesion."""
    scan, noise = torch.full(SHAPE, 60.0), torch.Generator().manual_seed(seed)
    paint_lesions(scan, (lesion,), brain, brain if white is None else white, BRIGHT, SPACING, noise)
    return scan


def test_as_many_as_asked_for_within_their_ranges() -> None:
    random = torch.Generator().manual_seed(0)
    drawn = [draw_lesions(random, 0.4) for _ in range(2000)]
    assert sum(map(bool, drawn)) / len(drawn) == pytest.approx(0.4, abs=0.04)
    assert {len(lesions) for lesions in drawn} == {0, 1, 2, 3}
    lesions = [lesion for some in drawn for lesion in some]
    radii = torch.tensor([lesion.radius_mm for lesion in lesions])
    assert RADIUS_MM[0] <= radii.min() < 3 < 35 < radii.max() <= RADIUS_MM[1]
    assert float(radii.mean()) == pytest.approx(sum(RADIUS_MM) / 2, abs=1)
    assert all(0 <= value <= BRIGHTEST for lesion in lesions for value in (lesion.outer, lesion.inner))
    assert 0.2 < sum(lesion.core == 0 for lesion in lesions) / len(lesions) < 0.5
    # A stretched lesion has the volume of the sphere.
    assert all(float(lesion.shape.det()) == pytest.approx(1, abs=1e-4) for lesion in lesions)
    assert not any(draw_lesions(random, 0.0) for _ in range(100))


def test_it_has_its_size_and_its_intensity() -> None:
    sphere, brain = 4 / 3 * math.pi * ROUND.radius_mm**3, torch.ones(SHAPE, dtype=torch.bool)
    volumes = []
    for seed in range(16):
        scan = painted(ROUND, brain, seed=seed)
        assert float(scan.max()) == pytest.approx(1.5 * BRIGHT, abs=0.01)
        assert float(scan.min()) == 60
        where = (scan > 105).nonzero().float() * SPACING
        volumes.append(len(where) * SPACING**3 / sphere)
        # Its outline is bent: no ball.
        assert (where - where.mean(0)).norm(dim=1).max() > 1.1 * (len(where) * SPACING**3 / 4.19) ** (1 / 3)
    assert sum(volumes) / len(volumes) == pytest.approx(1, abs=0.3)
    assert 0.3 < min(volumes) < max(volumes) < 2.5


def test_a_core_has_an_intensity_of_its_own() -> None:
    scan = painted(replace(ROUND, core=0.5), torch.ones(SHAPE, dtype=torch.bool))
    dark, bright = (scan < 21).sum(), (scan > 149).sum()
    assert 0.05 < float(dark) / float(bright + dark) < 0.25


def test_strength_and_edge_leave_some_of_the_tissue() -> None:
    brain = torch.ones(SHAPE, dtype=torch.bool)
    half = painted(replace(ROUND, strength=0.5), brain)
    assert float(half.max()) == pytest.approx(60 + 0.5 * 90, abs=0.01)
    edges = [painted(replace(ROUND, edge_mm=edge), brain) for edge in (0.2, 4)]
    between = [int(((scan > 65) & (scan < 145)).sum()) for scan in edges]
    assert between[1] > 5 * between[0]


def test_it_stays_in_the_brain_or_in_white_matter() -> None:
    brain, white = torch.zeros(SHAPE, dtype=torch.bool), torch.zeros(SHAPE, dtype=torch.bool)
    brain[8:-8, 8:-8, 8:-8] = True
    white[8:24, 8:-8, 8:-8] = True
    everywhere, spared = painted(ROUND, brain, white), painted(replace(ROUND, in_white=True), brain, white)
    assert bool((everywhere[~brain] == 60).all())
    assert bool((everywhere[brain & ~white] > 100).any())
    assert bool((spared[~white] == 60).all())
    assert bool((spared[white] > 100).any())


def test_without_brain_nothing_is_painted() -> None:
    assert bool((painted(ROUND, torch.zeros(SHAPE, dtype=torch.bool)) == 60).all())
