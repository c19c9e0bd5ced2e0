"""Training on dense targets: what is learned, what is left behind, and mistakes in the config and the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from field_cases import field_config, write_dataset
from safetensors.torch import load_file

from tiny_training import metrics_without_time, weights
from voxseg.errors import UserError
from voxseg.inference.field_predictor import FieldPredictor
from voxseg.inference.model import load_field_model, load_model
from voxseg.networks import NetworkConfig, build_network
from voxseg.testing import exact_error, grid_rotations
from voxseg.training.config import LossConfig, TrainingConfig, load_config
from voxseg.training.dataset_source import DatasetSource
from voxseg.training.loop import Outcome, train
from voxseg.training.losses import field_loss
from voxseg.training.progress import read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("fields") / "data")


def run(folder: Path, data: Path, resume: bool = False, kind: str = "vector", **changes: Any) -> Outcome:
    config = TrainingConfig.model_validate(field_config(kind, **changes)).model_copy(update={"data": data})
    return train(config, folder, "cpu", resume)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, run(folder, data)


def test_a_tiny_network_learns_the_direction_of_the_gradient_in_any_pose(trained: tuple[Path, Outcome]) -> None:
    folder, outcome = trained
    metrics = read_metrics(folder / "metrics.csv")
    assert metrics["angle"][-1] < 8  # degrees; guessing has 90
    assert metrics["turned angle"][-1] < 9  # 40 degrees about an odd axis, between the grid's rotations
    assert metrics["relative_error"][-1] < 0.5  # zeros have 1
    assert metrics["equivariance_error"][-1] < 0.2
    assert outcome.score.startswith("relative error 0.")
    assert math.isnan(outcome.dice)


def test_the_trained_network_turns_vectors_exactly_with_the_grid(trained: tuple[Path, Outcome]) -> None:
    model = load_field_model(trained[0])
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert max(exact_error(model.network, x, turn, "1x0e", "1x1o") for turn in grid_rotations()[::5]) < 1e-4


def test_the_model_folder_says_what_is_predicted_and_has_no_labels(trained: tuple[Path, Outcome]) -> None:
    folder = trained[0] / "model"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "MODEL_CARD.md", "model.safetensors"}
    contents = yaml.safe_load((folder / "config.yaml").read_text())
    assert contents["targets"]["kind"] == "vector"
    assert contents["targets"]["scale"] == 0.2
    assert contents["network"]["output"] == "1x1e"
    assert set(contents["training"]["validation_errors"]) == {"relative_error", "rmse", "angle"}
    assert not {"labels", "output", "postprocessing"} & set(contents)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "a vector in each voxel" in card
    assert "| angle |" in card
    assert (trained[0] / "progress.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="a vector in each voxel, and no labels"):
        load_model(folder)


def test_a_stopped_run_goes_on_to_the_bit(tmp_path: Path, data: Path) -> None:
    short = {"validation": {"every": 2, "turned_deg": 0}, "checkpoint": {"steps": 2}, "schedule": {"warmup": 1}}
    run(tmp_path / "whole", data, steps=4, **short)
    run(tmp_path / "parts", data, steps=4, **short | {"validation": {"every": 2, "turned_deg": 0, "patience": 1}})
    if weights(tmp_path / "parts")["step"] < 4:
        run(tmp_path / "parts", data, True, steps=4, **short)
    assert metrics_without_time(tmp_path / "whole") == metrics_without_time(tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["scalar", "axis", "tensor"])
def test_other_kinds_take_steps_and_are_scored(tmp_path: Path, kind: str) -> None:
    data = write_dataset(tmp_path / "data", 2, kind, (12, 12, 12))
    changes = {"dataset": field_config(kind)["dataset"] | {"folds": 2}, "windows": {"size": "whole"}}
    loss = {"deep_supervision": [1.0], "huber": 1.0}
    run(tmp_path / "run", data, kind=kind, steps=2, validation={"every": 2}, loss=loss, **changes)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    wanted = {"scalar": set(), "axis": {"angle"}, "tensor": {"angle", "fa_error"}}[kind] | {"relative_error", "rmse"}
    assert {name for name in ("relative_error", "rmse", "angle", "fa_error") if name in metrics} == wanted
    assert all(math.isfinite(metrics[name][-1]) for name in wanted)


def test_the_loss_is_the_mean_over_what_is_known() -> None:
    random = torch.Generator().manual_seed(0)
    field, output = (torch.randn(2, 3, 4, 6, 4, generator=random, dtype=torch.float64) for _ in range(2))
    known = (torch.rand(2, 4, 6, 4, generator=random) > 0.5).long()
    error = (output - field).square().sum(1)[known.bool()]
    config = LossConfig(deep_supervision=[1.0])
    assert float(field_loss([output], field, known, config)) == pytest.approx(float(error.mean()) / 3)
    field[known[:, None].expand_as(field) == 0] = 7e3  # counts for nothing
    assert float(field_loss([output], field, known, config)) == pytest.approx(float(error.mean()) / 3)
    huber = 2 * 0.25 * ((1 + error / 0.25).sqrt() - 1)
    config = LossConfig(deep_supervision=[1.0], huber=0.5)
    assert float(field_loss([output], field, known, config)) == pytest.approx(float(huber.mean()) / 3)
    assert float(field_loss([output], field, torch.zeros_like(known), config)) == 0


def test_a_coarser_output_is_compared_with_the_mean_of_what_is_known() -> None:
    field = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    known = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    known[0, 0] = 1  # 0, 1, 2, 3
    outputs = [field, torch.full((1, 1, 1, 1, 1), 1.5)]
    assert float(field_loss(outputs, field, known, LossConfig(deep_supervision=[1.0, 1.0]))) == pytest.approx(0)


@pytest.mark.parametrize("huber", [None, 0.3])
def test_the_loss_is_the_same_in_every_pose(huber: float | None) -> None:
    from voxseg.testing import rotate_field

    random = torch.Generator().manual_seed(1)
    field, output = (torch.randn(1, 6, 4, 4, 4, generator=random, dtype=torch.float64) for _ in range(2))
    config, known = LossConfig(deep_supervision=[1.0], huber=huber), torch.ones(1, 4, 4, 4, dtype=torch.long)
    turn = grid_rotations()[7]
    turned = [rotate_field(f, turn, "1x0e+1x2e") for f in (output, field)]
    assert torch.allclose(field_loss([output], field, known, config), field_loss(turned[:1], turned[1], known, config))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"classes": [1, 2]}}, "labels and targets exclude each other"),
        ({"augmentation": {"scale": 0.1}}, "augmentation.scale has to be 0 with targets"),
        ({"augmentation": {"transforms": [{"path": "a.b:C"}]}}, "augmentation.transforms cannot be used with targets"),
        ({"targets": {"kind": "arrow"}}, "'arrow' is not allowed"),
        ({"targets": {"kind": "irreps"}}, "kind: irreps and the key irreps go together"),
        ({"network": {"out_channels": 4}}, "out_channels is 4, but output 1x1e has 3"),
        ({"network": {"output": "3x0e"}}, "network.output is 3x0e, but targets makes it 1x1e"),
        ({"loss": {"huber": 0}}, "greater than 0"),
    ],
)
def test_mistakes_in_a_config_are_one_line_each(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(field_config(**changes)))
    with pytest.raises(UserError, match=said) as raised:
        load_config(path)
    assert "\n" not in str(raised.value)


def test_a_config_survives_being_written(tmp_path: Path) -> None:
    config = TrainingConfig.model_validate(field_config("tensor"))
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(path) == config
    assert config.network.output == "1x0e+1x2e"


def test_a_level_without_the_degree_that_is_asked_for_is_told() -> None:
    changes = {"levels": ["8x0e", "8x0e"]}
    config = TrainingConfig.model_validate(field_config(network=field_config()["network"] | changes))
    with pytest.raises(UserError, match=r"network\.levels"):
        build_network(config.network)


def test_networks_of_labels_are_what_they_were() -> None:
    config = NetworkConfig(out_channels=4)
    torch.manual_seed(0)
    network = build_network(config)
    assert str(network.logits[0].field_out) == "4x0e"
    assert network.logits[0].field_in.scalars == network.logits[0].field_in.channels


def test_a_missing_target_and_a_wrong_one_are_told_before_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2, "tensor", (8, 8, 8))
    with pytest.raises(UserError, match=r"has 6 components a voxel .*, a vector has 3"):
        run(tmp_path / "run", data)
    patterns = {"image": "*/image.nii.gz"}
    settings = field_config()["dataset"] | {"patterns": patterns}
    with pytest.raises(UserError, match="has no targets to learn"):
        run(tmp_path / "run", data, dataset=settings)


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    import nibabel as nib

    data = write_dataset(tmp_path / "data", 2, "vector", (8, 8, 8))
    path = data / "case_0" / "target.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[4, 4, 4] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), path)
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), image.affine), data / "case_0" / "mask.nii.gz")
    with pytest.raises(UserError, match=r"target.nii.gz: has values that are not finite .* in 1 of the voxels"):
        run(tmp_path / "run", data, dataset=field_config()["dataset"] | {"fold": "all"})


def test_workers_change_nothing(trained: tuple[Path, Outcome], data: Path) -> None:
    from voxseg.data.cache import CaseCache
    from voxseg.data.datasets.find import find_dataset
    from voxseg.data.prepared_field import field_cases

    changes = {"augmentation": {"probability": 0.9, "rotation_deg": 20}}
    config = TrainingConfig.model_validate(field_config(**changes))
    settings = config.dataset
    assert settings is not None
    found = field_cases(find_dataset(data, "patterns", settings.patterns, labels=False))
    cases = CaseCache(trained[0] / "cache", config.preparation, config.labels, config.targets).build(found.cases)
    here = list(DatasetSource(cases, config, torch.device("cpu")).batches(0, 3))
    config = TrainingConfig.model_validate(field_config(**changes, dataset=field_config()["dataset"] | {"workers": 1}))
    there = list(DatasetSource(cases, config, torch.device("cpu")).batches(0, 3))
    for (one,), (other,) in zip(here, there, strict=True):
        assert one.field is not None
        assert other.field is not None
        assert torch.equal(one.field, other.field)
        assert one.field.shape == (1, 3, 16, 16, 16)
        assert not one.field[:, :, one.target[0] == 0].any()


def test_predictions_in_windows_are_those_of_the_whole(trained: tuple[Path, Outcome], data: Path) -> None:
    from voxseg.data.volume import read_volume

    scan, model = read_volume(data / "case_0" / "image.nii.gz"), load_field_model(trained[0])
    whole = FieldPredictor(model, "cpu").predict(scan)
    parts = FieldPredictor(model, "cpu", window=16).predict(scan)
    assert whole.windows == 1
    assert parts.windows > 1
    assert np.abs(parts.fields - whole.fields).max() < 0.5 * np.abs(whole.fields).max()
