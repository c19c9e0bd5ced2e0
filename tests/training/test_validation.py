from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiny_training import BandSource, tiny_config
from voxseg.data.datasets.case import Case, ImageFile
from voxseg.networks import NetworkConfig, build_network
from voxseg.training.config import TrainingConfig
from voxseg.training.validation import CaseValidation, WindowValidation, mean_dice, merge, spread

CPU = torch.device("cpu")
SHAPE = (30, 26, 24)
AFFINE = np.array([[-1.0, 0, 0, 15], [0, -1, 0, 9], [0, 0, 1.2, -3], [0, 0, 0, 1]])
TABLE = [{"id": 1, "name": "Core"}, {"id": 2, "name": "Oedema"}, {"id": 4, "name": "Enhancing"}]
REGIONS = [
    {"name": "whole", "ids": [1, 2, 4], "label": 2},
    {"name": "core", "ids": [1, 4], "label": 1},
    {"name": "enhancing", "ids": [4], "label": 4},
]


def config(regions: bool = False, **validation: Any) -> TrainingConfig:
    """Two images in absolute units, so that what the network sees is known."""
    window = {"scale": "window", "low": 0, "high": 100}
    values = {
        "name": "tiny",
        "steps": 1,
        "dataset": {},
        "labels": {"classes": [1, 2, 4], "table": TABLE, "regions": REGIONS if regions else []},
        "preparation": {"spacing": 1.0, "images": {"a": window, "b": window}, "crop": False},
        "postprocessing": {"largest_component": False},
        "network": {},
        "validation": validation,
    }
    return TrainingConfig.model_validate(values)


def balls(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Nested balls: 2 around 1 around 4."""
    middle = (np.array(shape) - 1) / 2 - np.array([2, 1, 0])
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    radius = np.linalg.norm((points - middle) * [1, 1, 1.2], axis=-1)
    return np.select([radius < 4, radius < 7, radius < 10], [4, 1, 2], 0).astype(np.uint8)


def write_case(folder: Path, name: str, labels: np.ndarray) -> Case:
    """Image a tells the whole tumour (60), image b the core (50) and the enhancing part (90)."""
    folder.mkdir(exist_ok=True)
    images = {"a": np.where(labels > 0, 60, 5), "b": np.select([labels == 4, labels == 1], [90, 50], 5)}
    for key, data in images.items():
        nib.save(nib.Nifti1Image(data.astype(np.int16), AFFINE), folder / f"{name}_{key}.nii.gz")
    # The label file stores its first axis the other way round: the same voxels in the same places.
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = labels.shape[0] - 1
    nib.save(nib.Nifti1Image(labels[::-1].copy(), AFFINE @ flip), folder / f"{name}_seg.nii.gz")
    files = {key: ImageFile(folder / f"{name}_{key}.nii.gz") for key in images}
    return Case(name, files, folder / f"{name}_seg.nii.gz", name)


class Intensities(nn.Module):
    """Knows the structures by their intensities: right in every pose."""

    def __init__(self, regions: bool) -> None:
        super().__init__()
        self.regions = regions
        self.weight = nn.Parameter(torch.zeros(1))
        self.training_seen: list[bool] = []

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor:
        self.training_seen.append(self.training or torch.is_grad_enabled())
        a, b = x[:, :1], x[:, 1:]
        whole, core, enhancing = a - 0.3, b - 0.3, b - 0.7
        if self.regions:
            return 50 * torch.cat([whole, core, enhancing], 1)
        zero = torch.zeros_like(a)
        outside = torch.where(whole < 0, 1.0, zero)
        best = [outside, (core > 0) * (enhancing < 0) * 1.0, (whole > 0) * (core < 0) * 1.0, (enhancing > 0) * 1.0]
        return 20 * torch.cat([one.to(x.dtype) for one in best], 1)


class Upright(Intensities):
    """The same, but only where the scan is as it was: it looks at where a voxel lies in the grid."""

    def __init__(self, regions: bool, truth: np.ndarray) -> None:
        super().__init__(regions)
        self.truth = truth

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor:
        result = super().forward(x)
        keep = torch.zeros_like(x[:, :1])
        keep[:, :, ::2] = 1
        return result if x.shape[2] == self.truth.shape[0] else result * keep - 10 * (1 - keep)


@pytest.mark.parametrize("regions", [False, True])
def test_a_network_that_knows_is_right_upright_and_nearly_so_turned(tmp_path: Path, regions: bool) -> None:
    cases = [write_case(tmp_path, name, balls()) for name in ("p1", "p2", "p3")]
    network = Intensities(regions).train()
    settings = config(regions)
    result = CaseValidation(cases, settings, 0, 1).run(network, CPU)
    assert [case.name for case in result.cases] == ["p1", "p2", "p3"]
    assert len(result.dice) == 3
    assert min(result.dice) > 0.9  # thicker slices than the network's grid
    assert result.turned is not None
    assert min(result.turned) > 0.8
    assert mean_dice(result.dice) - mean_dice(result.turned) < 0.1
    # The classes are hard steps, which no interpolation turns well.
    assert result.equivariance_error < (0.1 if regions else 0.5)
    assert network.training  # as it came in
    assert not any(network.training_seen)

    truth = balls()
    expected = (
        [np.isin(truth, ids).sum() for ids in ([1, 2, 4], [1, 4], [4])]
        if regions
        else [(truth == index).sum() for index in (1, 2, 4)]
    )
    assert result.cases[0].counts[:, 1].tolist() == expected
    turned = result.cases[0].turned
    assert turned is not None
    assert np.abs(turned[:, 1] / np.array(expected) - 1).max() < 0.05

    first, second = result.views
    assert [plane.view.name for plane in first.upright] == ["axial", "coronal", "sagittal"]
    assert len(second.turned) == 3
    for plane in first.upright + first.turned:
        assert plane.truth.shape == plane.prediction.shape == (3, *plane.image.shape)
        assert plane.truth.any(axis=(1, 2)).all()


def test_cases_are_divided_over_processes_with_the_same_result(tmp_path: Path) -> None:
    cases = [write_case(tmp_path, f"p{k}", np.roll(balls(), k, 1)) for k in range(5)]
    settings = config(True, cases=3)
    whole = CaseValidation(cases, settings).run(Intensities(True), CPU)
    assert [case.name for case in whole.cases] == ["p0", "p2", "p4"]
    parts = [CaseValidation(cases, settings, rank, 2).run(Intensities(True), CPU) for rank in (1, 0)]
    merged = merge(parts)
    assert [case.name for case in merged.cases] == ["p0", "p2", "p4"]
    assert merged.dice == whole.dice
    assert merged.turned == whole.turned
    assert merged.equivariance_error == whole.equivariance_error
    assert [view.name for view in merged.views] == ["p0", "p2"]


def test_leaning_on_the_grid_shows_in_the_turned_pose(tmp_path: Path) -> None:
    case = write_case(tmp_path, "p1", balls())
    result = CaseValidation([case], config(True)).run(Upright(True, balls()), CPU)
    assert result.turned is not None
    assert min(result.dice) > 0.9
    assert max(result.turned) < 0.75


def test_no_turned_pose(tmp_path: Path) -> None:
    case = write_case(tmp_path, "p1", balls())
    result = CaseValidation([case], config(turned_deg=0)).run(Intensities(False), CPU)
    assert result.turned is None
    assert np.isnan(result.equivariance_error)
    assert result.views[0].turned == []


def test_training_goes_on_after_a_validation(tmp_path: Path) -> None:
    """Nothing that layers keep was made in a mode that forbids gradients."""
    case = write_case(tmp_path, "p1", balls())
    network = build_network(
        NetworkConfig(
            in_channels=2,
            out_channels=4,
            levels=("2x0e+1x1e", "3x0e+1x1e"),
            encoder_convolutions=(1, 1),
            decoder_convolutions=(1,),
            spacing=1.0,
        )
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    CaseValidation([case], config()).run(network, CPU)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network(torch.rand(1, 2, 12, 12, 12)).square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (10, 1, [5]), (10, 2, [2, 7]), (9, 3, [1, 4, 7])],
)
def test_spread(count: int, wanted: int | None, expected: list[int]) -> None:
    assert spread(count, wanted) == expected


class Bands(nn.Module):
    """Knows the bands of `BandSource` by their intensity."""

    def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor:
        return -(x - torch.arange(4).view(1, 4, 1, 1, 1) / 3).abs()


def test_windows_are_pooled_and_divided_over_processes() -> None:
    settings = tiny_config(validation={"windows": 3})
    source: Any = BandSource()
    whole = WindowValidation(source, settings).run(Bands(), CPU)
    assert len(whole.cases) == 1
    assert whole.dice == pytest.approx([1.0] * 3, abs=0.05)
    assert whole.turned is not None
    # Interpolated between bands of 0 and 2/3 there are values of 1/3: a pointwise network is not right everywhere.
    assert mean_dice(whole.turned) > 0.6
    merged = merge([WindowValidation(source, settings, rank, 2).run(Bands(), CPU) for rank in (0, 1)])
    assert merged.dice == whole.dice
    assert merged.turned == whole.turned
    assert source.seeds[:3] == [(0, k, 2**32 - 1) for k in range(3)]


def test_only_what_is_known_of_turned_windows_counts() -> None:
    settings = tiny_config(validation={"windows": 1})
    result = WindowValidation(BandSource(), settings).run(Bands(), CPU)  # type: ignore[arg-type]
    (case,) = result.cases
    assert case.turned is not None
    # The bands reach the border, where nothing is counted: fewer voxels than upright.
    assert (case.turned[:, 1] < case.counts[:, 1]).all()
    assert case.turned[:, 1].sum() > 0.25 * case.counts[:, 1].sum()


def test_regions_of_windows() -> None:
    regions = [{"name": "all", "ids": [10, 11, 12], "label": 10}, {"name": "last", "ids": [12], "label": 12}]
    settings = tiny_config(labels={"classes": [10, 11, 12], "regions": regions}, validation={"windows": 2})

    class Thresholds(nn.Module):
        def forward(self, x: Tensor, deep_supervision: bool = False) -> Tensor:
            return torch.cat([x - 1 / 6, x - 5 / 6], 1)

    result = WindowValidation(BandSource(), settings).run(Thresholds(), CPU)  # type: ignore[arg-type]
    assert result.dice == pytest.approx([1.0, 1.0], abs=0.03)
