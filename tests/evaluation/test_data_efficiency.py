"""The data-efficiency benchmark: its config, its cases, and a tiny one from end to end."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from voxseg.data.datasets.case import Case
from voxseg.data.datasets.find import find_dataset
from voxseg.errors import UserError
from voxseg.evaluation.data_efficiency import finished_runs, planned_runs, run_benchmark
from voxseg.evaluation.data_efficiency_cases import draw_cases, open_cases
from voxseg.evaluation.data_efficiency_config import DataEfficiencyConfig, load_benchmark, training_config
from voxseg.evaluation.data_efficiency_file import find_benchmark, packaged_benchmarks
from voxseg.evaluation.data_efficiency_run import RunResult, read_result
from voxseg.evaluation.data_efficiency_summary import learning_curves, summarise, write_fits, write_runs
from voxseg.testing import rotation_matrix

TRAINING: dict[str, Any] = {
    "steps": 4,
    "windows": {"size": [16, 16, 16]},
    "dataset": {"workers": 0},
    "augmentation": {"rotation_deg": 0, "scale": 0, "probability": 0.5},
    "network": {"levels": ["2x0e+1x1e", "4x0e+1x1e"], "encoder_convolutions": [1, 1], "decoder_convolutions": [1]},
    "loss": {"deep_supervision": [1.0]},
    "schedule": {"warmup": 1},
}
TINY: dict[str, Any] = {
    "sizes": [1, 2],
    "seeds": [0],
    "arms": [
        {"name": "steerable", "architecture": "steerable_unet"},
        {"name": "plain", "architecture": "plain_unet", "training": {"augmentation": {"rotation_deg": 180}}},
    ],
    "heads": {"images": ["flair"], "spacing": 6.0, "field_mm": [144, 168, 144], "radius_mm": [15, 24]},
    "pool": 3,
    "training": TRAINING,
    "test": {"cases": 1, "poses": [{"axis": [0, 0, 1], "degrees": 90}]},
    "fit": {"score": "whole tumour", "draws": 100},
}
TURNED = "90 about (0, 0, 1)"


def tiny(**changes: Any) -> DataEfficiencyConfig:
    return DataEfficiencyConfig.model_validate({**TINY, **changes})


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a tiny benchmark that has run, and what was told."""
    folder, told = tmp_path_factory.mktemp("benchmarks") / "tiny", []
    progress = run_benchmark(tiny(), folder, "cpu", told.append)
    assert not progress.failures
    assert progress.stopped is None
    assert len(progress.done) == 4
    return folder, told


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# The config


@pytest.mark.parametrize("name", [name for name in packaged_benchmarks() if name != "baselines"])
def test_a_packaged_benchmark_loads(name, tmp_path):
    data = [f"data={json.dumps(str(tmp_path))}"] if "brats" in name else []
    config = load_benchmark(find_benchmark(name, tmp_path), data)
    twins = [training_config(config, arm) for arm in config.arms]
    assert [arm.network.architecture for arm in twins] == ["steerable_unet", "plain_unet", "plain_unet"]
    assert [arm.augmentation.rotation_deg for arm in twins] == [0, 0, 180]
    same = {"name", "network", "augmentation"}
    assert len({str(arm.model_dump(exclude=same)) for arm in twins}) == 1, "nothing else differs"
    augmentations = {str(arm.augmentation.model_copy(update={"rotation_deg": 0})) for arm in twins}
    assert len(augmentations) == 1


def test_the_packaged_file_explains_every_key_and_says_its_default(tmp_path):
    path = find_benchmark(None, tmp_path)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert values.keys() == DataEfficiencyConfig.model_fields.keys()
    for block in ("heads", "test", "fit"):
        assert values[block].keys() == DataEfficiencyConfig.model_fields[block].annotation.model_fields.keys(), block
    assert (
        values["arms"][0].keys() == DataEfficiencyConfig.model_fields["arms"].annotation.__args__[0].model_fields.keys()
    )
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, comment = line.partition("#")
        if comment.rstrip().endswith(("; default", " Default", ". default")) and not line.startswith(" "):
            name = key.partition(":")[0]
            default = DataEfficiencyConfig.model_fields[name].default
            assert values[name] == (list(default) if isinstance(default, tuple) else default), name


def test_the_folder_of_a_benchmark_has_its_own_config(finished, tmp_path):
    folder, _ = finished
    assert find_benchmark(None, folder) == folder / "benchmark.yaml"
    assert find_benchmark(folder, tmp_path) == folder / "benchmark.yaml"
    assert load_benchmark(folder / "benchmark.yaml") == tiny()


def test_an_arm_changes_the_training_block_by_block():
    config = tiny(training={**TRAINING, "optimiser": {"learning_rate": 0.003}})
    steerable, plain = (training_config(config, arm) for arm in config.arms)
    assert (steerable.augmentation.rotation_deg, plain.augmentation.rotation_deg) == (0, 180)
    assert steerable.augmentation.probability == plain.augmentation.probability == 0.5
    assert steerable.optimiser.learning_rate == plain.optimiser.learning_rate == 0.003
    assert steerable.labels.outputs == ["whole tumour", "tumour core", "enhancing tumour"]
    assert list(steerable.preparation.images) == ["flair"]
    assert steerable.preparation.spacing == 6.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [1]}, "size: unknown key; did you mean 'sizes'"),
        ({"sizes": [1, 1]}, "sizes: a number is given twice"),
        ({"sizes": [0]}, "sizes.0: 0 is not allowed"),
        ({"pool": 1}, "pool is 1, but 2 cases are to be trained on"),
        ({"data": "somewhere"}, "needs a training config"),
        ({"arms": [TINY["arms"][0]] * 2}, "two arms have the same name: steerable, steerable"),
        ({"config": "brats2020"}, "config is for a data set, and there is none"),
        ({"arms": []}, "arms"),
        ({"training": {**TRAINING, "step": 5}}, "arm steerable: step: unknown key; did you mean 'steps'"),
        ({"training": {**TRAINING, "seed": 5}}, "training: seed: is set by the benchmark"),
        ({"training": {**TRAINING, "dataset": {"split": "a.json"}}}, "dataset.split: is set by the benchmark"),
        ({"config": "brain", "data": "maps"}, "brain trains on scans generated from label maps"),
        ({"images": ["t2"]}, "images: t2: is not in preparation.images; there are flair"),
        ({"fit": {"score": "tumor"}}, "there is no structure 'tumor'; give mean or one of: whole tumour"),
        ({"test": {"poses": [{"axis": [0, 0, 0], "degrees": 3}]}}, "the axis has no direction"),
        ({"test": {"poses": TINY["test"]["poses"] * 2}}, "a pose is given twice"),
        ({"heads": {"spacing": 60}}, "heads.spacing"),
    ],
)
def test_a_wrong_key_is_named(changes, message, tmp_path):
    with pytest.raises(UserError) as caught:
        load_benchmark(write(tmp_path / "b.yaml", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_benchmark_names_the_packaged_ones(tmp_path):
    with pytest.raises(UserError, match=r"packaged are: baselines, data_efficiency, data_efficiency_brats2020"):
        find_benchmark("efficiency", tmp_path)


# The cases


def made_up(subjects: dict[str, int]) -> list[Case]:
    return [Case(f"{s}-{k}", {}, Path("label"), s) for s, count in subjects.items() for k in range(count)]


def test_training_cases_are_drawn_by_seed_and_size():
    pool = made_up({f"s{k:02d}": 1 for k in range(40)})
    drawn = {(n, seed): draw_cases(pool, n, seed) for n in (4, 8) for seed in range(3)}
    assert all(len(set(names)) == n for (n, _), names in drawn.items())
    assert drawn[4, 0] == draw_cases(pool[::-1], 4, 0), "the order of the files changes nothing"
    assert len({tuple(names) for names in drawn.values()}) == 6
    assert not set(drawn[4, 0]) <= set(drawn[8, 0]), "sizes are independent of each other"


def test_each_subject_comes_once_before_any_comes_twice():
    pool = made_up({"a": 3, "b": 1, "c": 2})
    for seed in range(5):
        assert {name[0] for name in draw_cases(pool, 3, seed)} == {"a", "b", "c"}
        assert [name[0] for name in draw_cases(pool, 5, seed)].count("a") == 2
        assert len(draw_cases(pool, 6, seed)) == 6
    assert len({tuple(draw_cases(pool, 3, seed)) for seed in range(20)}) > 1


def test_test_heads_are_made_anew_in_each_pose(finished):
    folder, _ = finished
    config = tiny()
    training = training_config(config, config.arms[0])
    cases = open_cases(config, training, folder)
    upright, turned = cases.scans(training.preparation, training.labels)
    assert (upright.pose.name, turned.pose.name) == ("upright", TURNED)
    assert upright.truth.shape == turned.truth.shape, "a cube that holds the head in every pose"
    # A quarter turn about z takes what lies at x to y; the voxels of both grids coincide.
    quarter = rotation_matrix((0, 0, 1), 90).numpy().round().astype(int)
    assert quarter.tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    expected = np.rot90(upright.truth, 1, (0, 1))
    overlap = 2 * ((expected > 0) & (turned.truth > 0)).sum() / ((expected > 0).sum() + (turned.truth > 0).sum())
    assert overlap > 0.99
    names = {case.id for case in cases.pool}
    assert names == {"Train_000", "Train_001", "Train_002"}
    assert {case.id for case in cases.test} == {"Test_000"}
    trained = find_dataset(cases.folder)
    assert len(trained.cases) == 4


# Runs


def test_a_benchmark_leaves_what_it_says(finished):
    folder, told = finished
    assert {path.name for path in folder.iterdir()} == {"benchmark.yaml", "environment.json", "data", "cache", "runs"}
    assert [line.split(":")[0] for line in told] == [
        "steerable, 1 case, seed 0",
        "plain, 1 case, seed 0",
        "steerable, 2 cases, seed 0",
        "plain, 2 cases, seed 0",
    ]
    (record,) = json.loads((folder / "environment.json").read_text())
    assert record["device"] == "cpu"
    run = folder / "runs" / "plain" / "cases_0002" / "seed_0"
    assert {path.name for path in run.iterdir()} == {"training", "cases.json", "log.txt", "result.json"}
    assert "step 4/4" in (run / "log.txt").read_text()
    assert not (run / "training" / "checkpoints").exists()
    assert (run / "training" / "model" / "model.safetensors").is_file()
    result = read_result(run)
    assert (result.arm, result.size, result.seed, result.steps, result.pool) == ("plain", 2, 0, 4, 3)
    assert result.dice.keys() == {"upright", TURNED}
    assert result.dice["upright"].keys() == {"Test_000"}
    split = json.loads((run / "cases.json").read_text())
    assert split == [{"train": result.cases, "val": ["Test_000"]}]
    trained = yaml.safe_load((run / "training" / "config.yaml").read_text())
    assert trained["steps"] == 4
    assert trained["dataset"]["split"] == str((run / "cases.json").resolve())


def test_arms_of_a_run_see_the_same_cases_with_the_same_seed(finished):
    folder, _ = finished
    for size in (1, 2):
        runs = [folder / "runs" / arm / f"cases_{size:04d}" / "seed_0" for arm in ("steerable", "plain")]
        assert read_result(runs[0]).cases == read_result(runs[1]).cases
        seeds = {yaml.safe_load((run / "training" / "config.yaml").read_text())["seed"] for run in runs}
        assert len(seeds) == 1
    assert len({run.training_seed for run in planned_runs(tiny(seeds=[0, 1]))}) == 4


def test_finished_runs_are_kept_and_new_ones_are_added(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    before, told = times(folder / "runs"), []
    again = run_benchmark(tiny(), folder, "cpu", told.append)
    assert told == []
    assert len(again.done) == 4
    assert times(folder / "runs") == before
    arms = [*TINY["arms"], {"name": "third", "architecture": "plain_unet"}]
    more = run_benchmark(tiny(sizes=[2, 1], arms=arms), folder, "cpu", told.append)
    assert [line.split(":")[0] for line in told] == ["third, 1 case, seed 0", "third, 2 cases, seed 0"]
    assert len(more.done) == 6
    assert before.items() <= times(folder / "runs").items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {**TRAINING, "steps": 5}}, "training.steps: is 5, but"),
        ({"test": {**TINY["test"], "cases": 2}}, "test.cases: is 2, but"),
        ({"arms": [{"name": "plain"}]}, "arm plain: architecture: is None, but"),
        ({"heads": {**TINY["heads"], "bias": 0.2}}, "heads.bias: is 0.2, but"),
    ],
)
def test_a_benchmark_cannot_go_on_as_another_one(finished, changes, message):
    before = times(finished[0])
    with pytest.raises(UserError) as caught:
        run_benchmark(tiny(**changes), finished[0], "cpu")
    assert message in str(caught.value)
    assert times(finished[0]) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="exists and holds no benchmark"):
        run_benchmark(tiny(), tmp_path, "cpu")


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process"):
        run_benchmark(tiny(), tmp_path / "b", "cpu")
    assert not (tmp_path / "b").exists()


def test_the_same_seeds_give_the_same_runs(finished, tmp_path):
    config = tiny(sizes=[2], arms=TINY["arms"][:1])
    run_benchmark(config, tmp_path / "again", "cpu")
    place = Path("runs") / "steerable" / "cases_0002" / "seed_0"
    first, second = (read_result(folder / place) for folder in (finished[0], tmp_path / "again"))
    assert replace(first, training_seconds=0, test_seconds=0) == replace(second, training_seconds=0, test_seconds=0)
    assert_same_weights(finished[0] / place, tmp_path / "again" / place)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(run / "training" / "model" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


INTERRUPTING = """
import signal
from pathlib import Path


class Interrupt:
    def __init__(self, flag, samples):
        self.flag, self.left = Path(flag), samples

    def __call__(self, data):
        self.left -= 1
        if self.left == 0 and self.flag.exists():
            self.flag.unlink()
            signal.raise_signal(signal.SIGINT)
        return data
"""


@pytest.fixture
def interrupting(tmp_path, monkeypatch) -> tuple[Path, dict[str, Any]]:
    """A file whose presence makes a run stop, as Ctrl-C would, at its third step; and a training that looks at it."""
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    flag = tmp_path / "flag"
    transform = {"path": "interrupting:Interrupt", "arguments": {"flag": str(flag), "samples": 3}}
    yield flag, {**TRAINING, "augmentation": {**TRAINING["augmentation"], "transforms": [transform]}}
    sys.modules.pop("interrupting", None)


@pytest.mark.parametrize("moved", [False, True])
def test_an_interrupted_run_goes_on_to_the_bit(interrupting, tmp_path, moved):
    flag, training = interrupting
    config = tiny(training=training, sizes=[1], arms=TINY["arms"][:1])
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    assert run_benchmark(config, whole, "cpu").stopped is None
    flag.touch()
    stopped = run_benchmark(config, folder, "cpu")
    assert stopped.stopped == signal.SIGINT
    assert stopped.done == []
    place = planned_runs(config)[0].place
    assert (folder / place / "training" / "checkpoints" / "last.pt").is_file()
    if moved:
        folder = folder.rename(tmp_path / "moved")
    going_on = run_benchmark(config, folder, "cpu")
    assert going_on.stopped is None
    assert len(going_on.done) == 1
    assert ("going on at step 3" in (folder / place / "log.txt").read_text()) != moved
    assert_same_weights(whole / place, folder / place)


def test_an_interruption_between_runs_keeps_those_that_are_finished(tmp_path):
    def stop(text: str) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        progress = run_benchmark(tiny(), tmp_path / "b", "cpu", stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert progress.stopped == signal.SIGINT
    assert [result.arm for result in progress.done] == ["steerable"]
    assert sys.stderr.__class__.__name__ != "_Log"


def test_a_trained_run_without_a_result_is_only_tested(tmp_path):
    place = planned_runs(tiny())[0].place
    config = tiny(sizes=[1], arms=TINY["arms"][:1], keep_checkpoints=True)
    folder = tmp_path / "fresh"
    before = run_benchmark(config, folder, "cpu").done[0]
    (folder / place / "result.json").write_text("{")
    weights = (folder / place / "training" / "model" / "model.safetensors").stat().st_mtime_ns
    after = run_benchmark(config, folder, "cpu").done[0]
    assert after.dice == before.dice
    assert after.steps == 4
    assert (folder / place / "training" / "model" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    arms = [{"name": "half", "training": {"precision": "float16"}}, TINY["arms"][0]]
    told: list[str] = []
    progress = run_benchmark(tiny(arms=arms, sizes=[1]), tmp_path / "b", "cpu", told.append)
    assert [(run.arm.name, "float16 is for CUDA" in text) for run, text in progress.failures] == [("half", True)]
    assert [result.arm for result in progress.done] == ["steerable"]
    assert told[0].startswith("half, 1 case, seed 0: precision: float16 is for CUDA")


def test_a_data_set_is_divided_by_subject_and_turned_by_interpolation(finished, tmp_path):
    data = finished[0] / "data" / "heads"
    training = training_config(tiny(), tiny().arms[0])
    path = tmp_path / "heads.yaml"
    values = training.model_dump(mode="json", exclude={"data"})
    path.write_text(yaml.safe_dump(values))
    config = tiny(data=str(data), config=str(path), training={}, sizes=[1], arms=[{"name": "steerable"}])
    (result,) = run_benchmark(config, tmp_path / "b", "cpu").done
    assert not (tmp_path / "b" / "data").exists()
    assert len(result.dice["upright"]) == 1
    assert not set(result.cases) & set(result.dice["upright"])
    cases = open_cases(config, training_config(config, config.arms[0]), tmp_path / "b")
    assert {case.id for case in cases.pool} | {case.id for case in cases.test} == {
        "Train_000", "Train_001", "Train_002", "Test_000",
    }  # fmt: skip
    assert [pose.degrees for pose in cases.poses] == [2.0, 90.0]
    upright, turned = cases.scans(training.preparation, training.labels)
    volumes = [(scan.truth > 0).sum() for scan in (upright, turned)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    assert upright.images[0].data.shape == upright.truth.shape


def test_too_few_cases_are_told(finished, tmp_path):
    path = tmp_path / "heads.yaml"
    training = training_config(tiny(), tiny().arms[0])
    path.write_text(yaml.safe_dump(training.model_dump(mode="json", exclude={"data"})))
    config = tiny(data=str(finished[0] / "data" / "heads"), config=str(path), training={}, sizes=[4])
    with pytest.raises(UserError, match="has 4 cases: 1 to test on leave 3, not 4, to train on"):
        run_benchmark(config, tmp_path / "b", "cpu")


# What is written about them


def result(arm: str, size: int, seed: int, upright: float, turned: float, steps: int = 4) -> RunResult:
    dice = {"upright": {"t": [upright, math.nan, 0.0]}, TURNED: {"t": [turned, 0.5, math.nan]}}
    return RunResult(arm, size, seed, steps, 10.0, 2.0, 1234, ["c"], ["whole tumour", "core", "rim"], dice, 40)


def made_up_results() -> list[RunResult]:
    random = np.random.default_rng(0)
    rows = []
    for arm, a in (("steerable", 0.3), ("plain", 0.5)):
        for n in (1, 2, 4, 8):
            for seed in (0, 1):
                error = a * n**-0.5 * math.exp(0.02 * random.standard_normal())
                rows.append(result(arm, n, seed, 1 - error, 1 - min(1, 1.5 * error)))
    return rows


def test_curves_are_those_of_the_score_asked_for():
    config = tiny(sizes=[1, 2, 4, 8], seeds=[0, 1], pool=9)
    curves = learning_curves(config, made_up_results())
    assert [(curve.arm, curve.panel) for curve in curves] == [
        ("steerable", "upright"), ("plain", "upright"), ("steerable", "turned"), ("plain", "turned"),
    ]  # fmt: skip
    assert curves[0].fit.law.a + curves[0].fit.law.c == pytest.approx(0.3, rel=0.1)
    assert curves[1].fit.law.a + curves[1].fit.law.c == pytest.approx(0.5, rel=0.1)
    assert curves[2].errors[1][0] == pytest.approx(1.5 * curves[0].errors[1][0])
    mean = learning_curves(config.model_copy(update={"fit": config.fit.model_copy(update={"score": "mean"})}), [
        result("plain", 1, 0, 0.6, 0.4),
    ])  # fmt: skip
    assert mean[0].errors == {1: [pytest.approx(1 - 0.3)]}, "structures without a score are left out"
    assert mean[1].errors == {1: [pytest.approx(1 - 0.45)]}


def test_the_files_have_a_row_for_each_run_and_pose(tmp_path):
    config = tiny(sizes=[1, 2, 4, 8], seeds=[0, 1], pool=9)
    rows = made_up_results()
    write_runs(tmp_path / "runs.csv", config, rows)
    with open(tmp_path / "runs.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 32
    first = table[0]
    assert (first["arm"], first["cases"], first["seed"], first["pose"]) == ("steerable", "1", "0", "upright")
    assert float(first["dice whole tumour"]) == pytest.approx(rows[0].dice["upright"]["t"][0], abs=1e-6)
    assert first["dice core"] == ""
    assert float(first["error"]) == pytest.approx(1 - float(first["dice whole tumour"]), abs=2e-6)
    assert (first["steps"], first["training_seconds"], first["parameters"]) == ("4", "10.0", "1234")
    write_fits(tmp_path / "fits.json", config, learning_curves(config, rows))
    fits = json.loads((tmp_path / "fits.json").read_text(), parse_constant=pytest.fail)
    assert len(fits["fits"]) == 4
    assert fits["fits"][0]["intervals"]["b"][0] < 0.5 < fits["fits"][0]["intervals"]["b"][1]
    assert fits["poses"] == {"upright": 0.0, "turned": [TURNED]}


def test_the_table_tells_scores_laws_and_what_is_open():
    config = tiny(sizes=[1, 2, 4, 8], seeds=[0, 1, 2], pool=9)
    rows = made_up_results()
    lines = summarise(config, rows, learning_curves(config, rows))
    assert lines[0] == "Dice, whole tumour, upright (as they are); mean over seeds, lowest and highest"
    assert lines[1].split() == ["cases", "1", "2", "4", "8"]
    assert lines[2].startswith("steerable  ")
    assert lines[2].split()[1] in ("0.699", "0.700", "0.701", "0.702", "0.703", "0.704")
    text = "\n".join(lines)
    assert "c is not identified: its interval reaches 0" in text
    one_seed = [result for result in rows if result.seed == 0]
    told = "\n".join(summarise(config, one_seed, learning_curves(config, one_seed)))
    assert told.count("one run a size") == 1, "what holds for all curves is told once"
    assert "steerable  1,234 weights, 4 steps a run, 12 s a run with testing" in text
    assert lines[-1] == "16 of 24 runs are finished: the curves are those of these"
    assert "differ" not in text


def test_the_table_tells_what_makes_curves_hard_to_compare():
    config = tiny(sizes=[1, 32], seeds=[0, 1], pool=40)
    rows = [
        result(arm, n, seed, 0.5, 0.4, 4 + (arm == "plain"))
        for arm in ("steerable", "plain")
        for n in (1, 32)
        for seed in (0, 1)
    ]
    text = "\n".join(summarise(config, rows, learning_curves(config, rows)))
    assert "the numbers of steps differ" in text
    assert "with 32 of 40 cases the seeds share most of theirs" in text


def test_what_is_not_planned_any_more_is_not_told_of(finished):
    config = tiny(sizes=[2], arms=TINY["arms"][:1])
    assert [(result.arm, result.size) for result in finished_runs(config, finished[0])] == [("steerable", 2)]
