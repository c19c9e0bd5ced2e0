"""Many cases: what fails is told and the rest is scored; figures against an independent computation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from small_cases import SCHEME, balls
from voxseg.evaluation.labelling import labels_given
from voxseg.evaluation.pairs import Pair, find_references, pair_up
from voxseg.evaluation.result import MetricSettings, Problem
from voxseg.evaluation.run import evaluate

pytest.importorskip("monai")

AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def pairs(folder: Path, count: int = 3, model: str = "m") -> list[Pair]:
    """Predictions that are the references, shifted by a voxel."""
    result = []
    for k in range(count):
        ids, _ = balls(seed=k)
        reference = save(folder / "truth" / f"c{k}.nii.gz", ids)
        prediction = save(folder / model / f"c{k}_seg.nii.gz", np.roll(ids, 1, axis=0))
        result.append(Pair(f"c{k}", prediction, reference, model))
    return result


def test_scores_against_counting(tmp_path: Path) -> None:
    result = evaluate(pairs(tmp_path), SCHEME)
    assert [case.case for case in result.cases] == ["c0", "c1", "c2"]
    assert [structure.name for structure in result.structures] == ["part-2", "part-1", "part-4"]
    assert not result.problems
    for k, case in enumerate(result.cases):
        truth, _ = balls(seed=k)
        prediction = np.roll(truth, 1, axis=0)
        for structure, score in zip((2, 1, 4), case.scores, strict=True):
            a, b = prediction == structure, truth == structure
            assert score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)
            assert score.reference_ml == pytest.approx(b.sum() * 4.5 / 1000)
            assert score.hd95 == pytest.approx(1.5)


def test_broken_cases_do_not_stop_the_others(tmp_path: Path) -> None:
    given = pairs(tmp_path, 4)
    data = given[1].prediction.read_bytes()
    given[1].prediction.write_bytes(data[: len(data) // 2])
    given[2].prediction.unlink()
    told: list[str] = []
    errors: list[BaseException] = []
    before = [Problem("c9", "m", "has no prediction")]
    result = evaluate(given, SCHEME, None, told.append, problems=before, on_error=errors.append)
    assert [case.case for case in result.cases] == ["c0", "c3"]
    assert [problem.case for problem in result.problems] == ["c1", "c2", "c9"]
    assert result.problems[0].message.endswith("c1_seg.nii.gz: is cut short or damaged; copy or export the scan again")
    assert result.problems[1].message.endswith("c2_seg.nii.gz: does not exist; check the path")
    assert told == ["c0", "c1", "c2", "c3"]
    assert len(errors) == 2


def test_resampled_predictions(tmp_path: Path) -> None:
    truth, _ = balls()
    reference = save(tmp_path / "r.nii.gz", truth)
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] = (AFFINE @ [-0.25, -0.25, -0.25, 1])[:3]
    prediction = save(tmp_path / "p.nii.gz", truth.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    pair = Pair("c", prediction, reference, "m")
    refused = evaluate([pair], SCHEME)
    assert not refused.cases
    assert "give --resample" in refused.problems[0].message
    result = evaluate([pair], SCHEME, resample=True)
    assert [score.dice for score in result.cases[0].scores] == [1.0, 1.0, 1.0]
    assert result.cases[0].notes[0].startswith("the prediction was resampled from 60 x 68 x 56 voxels of 0.75 x 0.75")


def test_several_models_and_processes_give_the_same(tmp_path: Path) -> None:
    given = [*pairs(tmp_path, 2, "b"), *pairs(tmp_path, 2, "a")]
    one, two = evaluate(given, SCHEME), evaluate(given, SCHEME, jobs=2)
    assert one.models == ("b", "a")
    assert [(case.model, case.case) for case in one.cases] == [("b", "c0"), ("b", "c1"), ("a", "c0"), ("a", "c1")]
    assert repr(one) == repr(two)  # NaN is not equal to itself


def test_structures_that_nobody_has(tmp_path: Path) -> None:
    truth = np.where(balls()[0] == 4, 0, balls()[0]).astype(np.uint8)
    path = save(tmp_path / "r.nii.gz", truth)
    pair = Pair("c", path, path, "m")
    assert len(evaluate([pair], SCHEME).structures) == 3
    result = evaluate([pair], SCHEME, only_present=True)
    assert [structure.name for structure in result.structures] == ["part-2", "part-1"]
    assert [score.structure for score in result.cases[0].scores] == ["part-2", "part-1"]


def test_a_bug_in_one_case_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxseg.evaluation import run

    calls = []
    real = run.evaluate_case

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("division by zero")
        return real(*arguments)

    monkeypatch.setattr(run, "evaluate_case", sometimes)
    result = evaluate(pairs(tmp_path, 2), SCHEME)
    assert [case.case for case in result.cases] == ["c1"]
    assert "ZeroDivisionError: division by zero; this is a bug in voxseg" in result.problems[0].message


def test_manual_labels_of_real_scans(shared_data: Path, tmp_path: Path) -> None:
    """References against themselves are perfect; an eroded copy is scored as numpy and scipy do by hand."""
    folder = shared_data / "oasis_manual" / "validation"
    name = sorted(path.name for path in folder.iterdir())[0]
    image = nib.load(folder / name / "labels.nii.gz").slicer[20:100, 50:150, 30:110]  # half of a brain, for speed
    truth = np.asarray(image.dataobj).astype(np.int16)
    eroded = truth * ndimage.binary_erosion(truth > 0, iterations=2)
    save(tmp_path / "same" / f"{name}_seg.nii.gz", truth, image.affine)
    save(tmp_path / "less" / f"{name}_seg.nii.gz", eroded, image.affine)
    nib.save(image, save(tmp_path / "truth" / name / "labels.nii.gz", truth))
    assert [pair.case for pair in pair_up(tmp_path / "same", find_references(folder), partial=True).pairs] == [name]
    references = find_references(tmp_path / "truth")
    given = [p for m in ("same", "less") for p in pair_up(tmp_path / m, references, m, partial=True).pairs]
    scheme = labels_given("brain").scheme
    result = evaluate(given, scheme, MetricSettings(tolerance_mm=1.0))
    assert not result.problems
    same, less = result.cases
    assert same.case == name
    for score in same.scores:
        assert (score.dice, score.nsd, score.hd95, score.volume_error) == (1.0, 1.0, 0.0, 0.0)
    # Which ids belong to a structure, from FreeSurfer's table: the other side, and what the scheme merges into it.
    ids = {"Cerebral-Cortex": [3, 42], "Thalamus": [10, 49], "Lateral-Ventricle": [4, 43, 5, 44, 31, 63]}
    ids |= {"Brain-Stem": [16], "Cerebellum-Cortex": [8, 47], "Hippocampus": [17, 53]}
    scores = {score.structure: score for score in less.scores}
    assert scores["Cerebral-Cortex"].dice < 0.9
    for structure, members in ids.items():
        a, b = np.isin(eroded, members), np.isin(truth, members)
        score = scores[structure]
        assert score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
        assert score.iou == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
        assert score.sensitivity == pytest.approx((a & b).sum() / b.sum(), abs=1e-6)
        assert score.volume_error == pytest.approx(a.sum() / b.sum() - 1, abs=1e-6)
        assert score.hd95 == pytest.approx(_hd95(a, b, image.header.get_zooms()), abs=0.05)


def _hd95(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    """The larger of the two directed 95th percentiles, by the definition."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95))
