"""The whole test of robustness, with networks whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from grids import make_affine
from models import write_model
from voxseg.data.datasets.read import read_labels
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.labels import Label, LabelTable
from voxseg.data.volume import Volume, read_volume
from voxseg.errors import UserError
from voxseg.evaluation.robustness import (
    UPRIGHT,
    ConditionScore,
    Robustness,
    Skipped,
    dice_scores,
    mean_over_structures,
    measure_stability,
    model_scheme,
    run_conditions,
    structures_of_model,
)
from voxseg.evaluation.robustness_plan import plan_conditions
from voxseg.evaluation.robustness_tables import COLUMNS, append_rows, start_csv, summarise, text_lines
from voxseg.evaluation.robustness_tests import GROUPS, TESTS, RobustnessSettings, choose_tests
from voxseg.evaluation.structures import structures_of
from voxseg.evaluation.subject import Subject
from voxseg.inference.locate import locate_model
from voxseg.inference.model import Model, ModelConfig, load_model
from voxseg.inference.predictor import Predictor

SHAPE = (32, 36, 28)
AFFINE = make_affine("LAS")
TABLE = LabelTable(
    [
        Label(1, "Left-Lobe", "#ff0000", "left", 2),
        Label(2, "Right-Lobe", "#00ff00", "right", 1),
        Label(3, "Core", "#0000ff"),
    ]
)
SCHEME = LabelScheme.model_validate(
    {
        "classes": [1, 2, 3],
        "merge_sides": False,
        "table": [
            {"id": 1, "name": "Left-Lobe", "side": "left", "partner": 2},
            {"id": 2, "name": "Right-Lobe", "side": "right", "partner": 1},
            {"id": 3, "name": "Core"},
        ],
    }
)
STRUCTURES = tuple(structures_of(SCHEME))


class Thresholds(nn.Module):
    """Tells tissues apart by their intensity, each voxel for itself."""

    def forward(self, x: Tensor) -> Tensor:
        distance = torch.stack([(x[:, 0] - level).abs() for level in (0.0, 0.3, 0.5, 0.8)], 1)
        return -20 * distance


class Sided(nn.Module):
    """Finds the lobes by intensity, and their sides by the place in the image: x grows to the right."""

    def forward(self, x: Tensor) -> Tensor:
        logits = Thresholds()(x)
        both = torch.maximum(logits[:, 1], logits[:, 2])
        right = torch.arange(x.shape[2])[:, None, None] >= x.shape[2] / 2
        logits[:, 1] = torch.where(right, both - 5, both)
        logits[:, 2] = torch.where(right, both, both - 5)
        return logits


def predictor(network: nn.Module, spacing: float = 1.0) -> Predictor:
    contents = {
        "format": 1,
        "name": "toy",
        "network": {"out_channels": 4},
        "preparation": {
            "spacing": spacing,
            "crop": False,
            "images": {"image": {"scale": "window", "low": 0.0, "high": 100.0}},
        },
        "postprocessing": {"largest_component": False},
    }
    return Predictor(Model(ModelConfig.model_validate(contents), TABLE, network.eval()), "cpu")


def phantom(sided: bool = False, noise: float = 0.0, spacing: float = 1.0) -> tuple[Subject, np.ndarray]:
    """Two lobes and a core in air; with `sided` both lobes are alike, otherwise they differ in intensity."""
    affine = AFFINE @ np.diag([spacing, spacing, spacing, 1.0])
    volume = Volume(Path("scan.nii"), np.zeros(SHAPE, np.float32), Geometry(SHAPE, affine), None, SHAPE)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    world = volume.geometry.to_world(index) - volume.geometry.to_world((np.array(SHAPE) - 1) / 2)
    x, y, z = np.moveaxis(world / spacing, -1, 0)
    classes = np.zeros(SHAPE, dtype=np.uint8)
    # Different along every axis, so that no turn leaves it as it is; symmetric about the mid-plane.
    lobes = (np.abs(np.abs(x) - 7) < 5) & (np.abs(y - 2) < 9) & (np.abs(z + 1) < 7)
    classes[lobes] = np.where(x > 0, 2, 1)[lobes]
    classes[(np.abs(x) < 3) & (np.abs(y + 8) < 4) & (np.abs(z - 4) < 5)] = 3
    data = np.array([0.0, 30.0, 30.0 if sided else 50.0, 80.0], np.float32)[classes]
    data += noise * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    return Subject("phantom", (replace(volume, data=data),)), classes


def scores(network: nn.Module, tests: str, labelled: bool = True, quick: bool = False, **look) -> dict:  # type: ignore[type-arg]
    subject, classes = phantom(**look)
    settings = RobustnessSettings(choose_tests(tests.split(",")), quick=quick)
    conditions = plan_conditions(subject.geometry, settings)
    ours = predictor(network, look.get("spacing", 1.0))
    found = list(run_conditions(ours, STRUCTURES, subject, classes if labelled else None, conditions, "toy"))
    assert len(found) == len(conditions) + 1
    assert not [f for f in found if isinstance(f, Skipped)]
    return {f.condition: f for f in found}


def mean(score: ConditionScore) -> float:
    return mean_over_structures(score.dice, STRUCTURES)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_pointwise_network_gives_the_same_bits_in_every_exact_pose_and_file(labelled: bool) -> None:
    found = scores(Thresholds(), "rotations,orientations,headers", labelled=labelled, noise=4.0)
    by_test = {test: [s for s in found.values() if s.test == test] for test in ("rotations", "orientations", "headers")}
    assert [len(by_test[test]) for test in by_test] == [23, 47, 23]
    upright = found[UPRIGHT]
    assert upright.against == ("labels" if labelled else "upright prediction")
    assert (mean(upright) == 1.0) == (not labelled)
    for score in found.values():
        assert score.changed_voxels == 0
        assert score.dice == upright.dice == score.baseline
        assert score.compared_with == UPRIGHT


def test_a_network_that_leans_on_the_grid_loses_in_other_poses_but_not_in_other_files() -> None:
    found = scores(Sided(), "rotations,orientations,headers,handedness", sided=True)
    assert mean(found[UPRIGHT]) == 1.0
    for score in found.values():
        if score.test == "orientations":
            assert score.changed_voxels == 0
            assert mean(score) == 1.0
    # Turned upside down the sides change places, and a header that claims so does the same to it.
    turned = found["grid rotation by 180° about y"]
    assert turned.dice[:2] == (0.0, 0.0)
    assert turned.dice[2] == 1.0
    assert turned.changed_voxels == int((phantom()[1] == 1).sum() + (phantom()[1] == 2).sum())
    assert found["stored as LAS, header says RAI"].dice == turned.dice
    assert found["grid rotation by 180° about x"].dice[:3] == (1.0, 1.0, 1.0)
    # A header of the wrong hand cannot be seen through: what it says is left is told as left.
    assert found["stored as LAS, header says RAS, mirrored"].dice[:2] == (0.0, 0.0)
    # The two lobes together are found whatever their sides.
    assert [s.kind for s in STRUCTURES] == ["label"] * 3 + ["both sides"]
    assert turned.dice[3] == 1.0


def test_a_mirrored_patient_has_mirrored_labels_with_sides_swapped() -> None:
    """The sides are told by the place: right in a mirrored patient, if the labels are swapped with it."""
    found = scores(Sided(), "mirror", sided=True)
    assert mean(found["mirrored left to right"]) == 1.0
    # By intensity the left lobe is still called left when it lies on the right: wrong now.
    by_intensity = scores(Thresholds(), "mirror")
    for name in ("mirrored left to right", "mirrored front to back", "mirrored top to bottom"):
        assert by_intensity[name].dice[:3] == (0.0, 0.0, 1.0)
        assert by_intensity[name].changed_voxels is None
    assert by_intensity["mirrored left to right"].baseline[:3] == (1.0, 1.0, 1.0)


def test_angles_are_compared_with_a_turn_by_two_degrees() -> None:
    found = scores(Thresholds(), "angles", quick=True)
    angles = [s for s in found.values() if s.test == "angles"]
    assert {(s.series, s.level) for s in angles} == {(a, v) for a in ("x", "(1, 2, 3)") for v in (2, 60, 120, 180)}
    for score in angles:
        base = f"turned by 2° about {score.series}"
        assert score.compared_with == (UPRIGHT if score.level == 2 else base)
        assert score.baseline == (found[UPRIGHT] if score.level == 2 else found[base]).dice
        # Between tissues interpolation makes intensities of others, at any angle alike.
        assert abs(mean(score) - mean(found["turned by 2° about (1, 2, 3)"])) < 0.12
    lost = scores(Sided(), "angles", sided=True, quick=True)
    turned, base = lost["turned by 180° about (1, 2, 3)"], lost["turned by 2° about (1, 2, 3)"]
    assert mean(turned) < mean(base) - 0.3


def test_a_deformation_brings_its_baseline_along() -> None:
    found = scores(Thresholds(), "deformation", quick=True, spacing=5.0)
    assert list(found)[:2] == [UPRIGHT, "turned by 2° about (1, 2, 3)"]
    deformed = [s for s in found.values() if s.test == "deformation"]
    assert all(s.baseline == found["turned by 2° about (1, 2, 3)"].dice for s in deformed)
    assert all(mean(s) > mean(found["turned by 2° about (1, 2, 3)"]) - 0.15 for s in deformed)


def test_more_noise_costs_more() -> None:
    found = scores(Thresholds(), "noise,inversion")
    noisy = [mean(s) for s in found.values() if s.test == "noise"]
    assert len(noisy) == 5
    assert all(later <= earlier for earlier, later in zip([1.0, *noisy], noisy, strict=False))
    assert noisy[-1] < noisy[1] - 0.1
    assert mean(found["contrast inverted"]) < 0.5


def test_a_cut_scan_is_scored_on_what_is_left() -> None:
    found = scores(Thresholds(), "cropping")
    cut = [s for s in found.values() if s.test == "cropping"]
    assert len(cut) == 18
    # Nothing that is left is harder to find by intensity, whatever was cut off.
    assert all(mean(s) == 1.0 and mean_over_structures(s.baseline, STRUCTURES) == 1.0 for s in cut)
    assert all(s.voxels < np.prod(SHAPE) for s in cut)


def test_thick_slices_are_compared_with_what_the_upright_segmentation_scores_on_them() -> None:
    found = scores(Thresholds(), "slices,resolution")
    thick = [s for s in found.values() if s.test in ("slices", "resolution")]
    assert len(thick) == 12
    for score in thick:
        assert mean_over_structures(score.baseline, STRUCTURES) == 1.0
        assert 0.3 < mean(score) <= 1.0
        assert score.voxels < np.prod(SHAPE)
    assert min(mean(score) for score in thick) < 0.95


def test_slices_no_thicker_than_those_of_the_scan_are_left_out() -> None:
    geometry = Geometry((64, 64, 20), make_affine("RAS") @ np.diag([1.0, 1, 5, 1]))
    names = [c.name for c in plan_conditions(geometry, RobustnessSettings(("slices", "resolution")))]
    assert "axial slices of 5 mm" not in names
    assert "axial slices of 7 mm" in names
    assert "sagittal slices of 3 mm" in names
    assert not any(name.startswith("voxels") for name in names)


def test_plans_have_everything_once() -> None:
    geometry = phantom()[0].geometry
    full = plan_conditions(geometry, RobustnessSettings())
    assert len({c.name for c in full}) == len(full)
    counts = {test: sum(c.test == test for c in full) for test in TESTS}
    assert counts["rotations"] == 23
    assert counts["orientations"] == 47
    assert counts["headers"] == 23
    assert counts["handedness"] == 24
    assert counts["mirror"] == 3
    assert counts["angles"] == 4 * 7
    assert all(count for test, count in counts.items() if test != "stability")
    quick = plan_conditions(geometry, RobustnessSettings(quick=True))
    assert len(quick) < 50
    assert {c.test for c in quick} == {c.test for c in full}
    fine = plan_conditions(geometry, RobustnessSettings(("angles",), angle_step=15))
    assert len(fine) == 4 * 13
    baselines = {c.baseline for c in full} - {None}
    for name in baselines:  # a baseline comes before what is compared with it
        order = [c.name for c in full]
        assert order.index(name) < min(k for k, c in enumerate(full) if c.baseline == name)


def test_what_memory_does_not_hold_is_skipped_and_the_rest_is_done() -> None:
    subject, classes = phantom()
    conditions = plan_conditions(subject.geometry, RobustnessSettings(("angles", "inversion"), quick=True))

    def too_large(subject: Subject, reference: np.ndarray, model: Model) -> None:
        raise UserError("phantom", "would take 900 GB to turn", "give a smaller scan")

    conditions[0] = replace(conditions[0], make=too_large)  # type: ignore[arg-type]
    found = list(run_conditions(predictor(Thresholds()), STRUCTURES, subject, classes, conditions, "toy"))
    assert found[1] == Skipped("toy", "phantom", "turned by 2° about x", "would take 900 GB to turn")
    assert isinstance(found[2], ConditionScore)
    assert all(math.isnan(base) for base in found[2].baseline)
    assert isinstance(found[-1], ConditionScore)
    assert not math.isnan(mean(found[-1]))


def test_the_network_is_put_back() -> None:
    subject, classes = phantom()
    ours = predictor(Thresholds())
    network = ours.network
    list(run_conditions(ours, STRUCTURES, subject, classes, [], "toy"))
    assert ours.network is network


def test_dice_of_unions_and_of_what_is_missing() -> None:
    truth, found = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    truth[0], found[0] = 1, 2  # the wrong side
    truth[1, 0], found[1] = 3, 3
    assert dice_scores(found, truth, STRUCTURES) == (0.0, 0.0, 2 * 4 / (4 + 16), 1.0)
    scored = dice_scores(found * (found == 3), truth * (truth == 3), STRUCTURES)
    assert math.isnan(scored[0])
    assert mean_over_structures(scored, STRUCTURES) == 0.4


def test_names_of_tests() -> None:
    assert choose_tests(["all"]) == tuple(TESTS)
    assert choose_tests(["noise", "poses"]) == (*GROUPS["poses"], "noise")
    with pytest.raises(UserError, match="--tests poise: is no test"):
        choose_tests(["poise"])
    with pytest.raises(UserError, match="names no test"):
        choose_tests([])


def test_schemes_of_models_with_and_without_labels(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bare")
    table = load_model(folder).table
    assert model_scheme(folder, table).predicted().ids == table.ids
    contents = yaml.safe_load((folder / "config.yaml").read_text())
    contents["labels"] = {"classes": [2, 3, 10], "merge": {77: 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(contents))
    assert model_scheme(folder, table).merge == {77: 2}
    contents["labels"] = {"classes": [17]}  # of another model
    (folder / "config.yaml").write_text(yaml.safe_dump(contents))
    assert model_scheme(folder, table).predicted().ids == table.ids


def test_tables_hold_every_condition_and_structure(tmp_path: Path) -> None:
    subject, classes = phantom(sided=True, spacing=4.0)
    settings = RobustnessSettings(choose_tests(["rotations", "angles", "inversion", "stability"]), quick=True)
    result = Robustness(settings, ("toy",), ("phantom",), {"toy": STRUCTURES})
    path = tmp_path / "robustness.csv"
    start_csv(path)
    conditions = plan_conditions(subject.geometry, settings)
    ours = predictor(Sided(), 4.0)
    for found in run_conditions(ours, STRUCTURES, subject, classes, conditions, "toy"):
        assert isinstance(found, ConditionScore)
        result.scores.append(found)
        append_rows(path, found, STRUCTURES)
    result.stability += measure_stability(ours, subject, settings, "toy")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == (len(conditions) + 1) * (len(STRUCTURES) + 1)
    turned = {r["structure"]: r for r in rows if r["condition"] == "grid rotation by 90° about z"}
    assert set(turned) == {"mean", *(s.name for s in STRUCTURES)}
    assert turned["Core"]["dice"] == "1.000000"
    assert float(turned["mean"]["change"]) == pytest.approx(float(turned["mean"]["dice"]) - 1, abs=1e-5)
    assert (turned["mean"]["level"], turned["mean"]["unit"], turned["mean"]["series"]) == ("90", "°", "z")
    summary = json.loads(json.dumps(summarise(result), allow_nan=False))
    tests = summary["models"]["toy"]["tests"]
    assert list(tests) == ["upright", "rotations", "angles", "inversion"]
    worst = min((s for s in result.scores if s.test == "rotations"), key=mean)
    assert tests["rotations"]["worst"]["change"] == pytest.approx(mean(worst) - 1, abs=1e-5)
    assert tests["rotations"]["worst_structure"]["change"] < -0.4
    assert tests["rotations"]["most_voxels_changed"] > 1000
    assert tests["angles"]["runs"] == 6  # without the two turns by 2° that they are compared with
    assert summary["models"]["toy"]["interpolation_costs"] > 0
    stability = summary["models"]["toy"]["stability"]
    assert stability["deformation"]["draws"] == 2
    assert stability["rotation"]["R"] == pytest.approx(
        stability["rotation"]["D"] / stability["rotation"]["G"], rel=1e-4
    )
    text = "\n".join(text_lines(result))
    assert "toy: Dice against labels, mean over structures" in text
    assert "grid rotation by" in text
    assert "-Lobe -0." in text
    assert "relative stability to deformation by 2 mm: R = " in text


@pytest.mark.slow
def test_the_brain_model_keeps_its_score_in_other_poses_and_files(shared_data: Path) -> None:
    case = shared_data / "oasis_manual" / "validation" / "1003"
    model = load_model("brain")
    scheme, structures = structures_of_model(locate_model("brain"), model.table)
    subject = Subject("1003", (read_volume(case / "t1.nii.gz"),))
    labels = scheme.to_classes(read_labels(case / "labels.nii.gz")[0])
    conditions = plan_conditions(subject.geometry, RobustnessSettings(choose_tests(["poses", "files"]), quick=True))
    for found in run_conditions(Predictor(model, "cpu"), structures, subject, labels, conditions, "brain"):
        assert isinstance(found, ConditionScore)
        lost = mean_over_structures(found.baseline, structures) - mean_over_structures(found.dice, structures)
        if found.changed_voxels is not None:
            assert abs(lost) < 1e-4, found.condition
            assert found.changed_voxels <= 100  # of 11 million
        elif found.test == "handedness":
            # A mirror image: structures are found, with their sides swapped.
            for k, structure in enumerate(structures):
                if structure.name.startswith(("Left-", "Right-")):
                    assert found.dice[k] < 0.2, (found.condition, structure.name)
                else:
                    assert found.baseline[k] - found.dice[k] < 0.015, (found.condition, structure.name)
        else:
            assert lost < 0.015, found.condition
