"""What is printed and written of an evaluation."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from voxseg.data.label_scheme import LabelScheme
from voxseg.evaluation.comparison import compare
from voxseg.evaluation.result import (
    CaseEvaluation,
    Evaluation,
    LesionScore,
    MetricSettings,
    Problem,
    SideErrors,
    StructureScore,
)
from voxseg.evaluation.statistics import summarise
from voxseg.evaluation.structures import structures_of
from voxseg.evaluation.table_files import Provenance, write_cases, write_comparison, write_json, write_summary
from voxseg.evaluation.tables import convention_lines, problem_lines, table_lines

TABLE = [
    {"id": 1, "name": "Left-Anterior-Something-Rather-Long", "side": "left", "partner": 2},
    {"id": 2, "name": "Right-Anterior-Something-Rather-Long", "side": "right", "partner": 1},
    {"id": 3, "name": "Nose"},
]
SIDED = LabelScheme.model_validate({"classes": [1, 2, 3], "merge_sides": False, "table": TABLE})
REGIONS = LabelScheme.model_validate(
    {
        "classes": [1, 2],
        "table": [{"id": 1, "name": "rim"}, {"id": 2, "name": "core"}],
        "regions": [{"name": "all", "ids": [1, 2], "label": 1}, {"name": "inner", "ids": [2], "label": 2}],
    }
)


def score(name: str, dice: float, lesions: LesionScore | None = None) -> StructureScore:
    return StructureScore(name, "found", dice, dice / 2, dice, dice, dice, 123.4, 0.5, 2.0, 2.5, lesions)


def sided(model: str, count: int) -> list[CaseEvaluation]:
    folder = Path("/home/somebody/study") / model
    sides = SideErrors(1000, 700, ("Nose",))
    notes = ("counted as background in the reference: 24",)
    return [
        CaseEvaluation(
            f"c{k}",
            model,
            folder / f"c{k}_seg.nii.gz",
            Path(f"/home/somebody/truth/c{k}/labels.nii.gz"),
            (
                score("Left-Anterior-Something-Rather-Long", 0.8 - 0.01 * k),
                score("Right-Anterior-Something-Rather-Long", 0.7),
                StructureScore("Nose", "missed", 0.0, 0.0, 0.0, nsd=0.0, reference_ml=1.0),
                score("Anterior-Something-Rather-Long", 0.75),
            ),
            sides,
            notes,
        )
        for k in range(count)
    ]


def evaluation(count: int = 6, models: tuple[str, ...] = ("one",)) -> Evaluation:
    cases = tuple(case for model in models for case in sided(model, count))
    problems = (Problem("c9", models[0], "/home/somebody/study/c9_seg.nii.gz: is cut short; copy it again"),)
    return Evaluation(tuple(structures_of(SIDED)), MetricSettings(), models, cases, problems)


def of_regions() -> Evaluation:
    lesions = LesionScore(0.5, 187.0, 1, 1, 0)
    scores = (score("all", 0.9, lesions), score("inner", 0.7, lesions), score("rim", 0.6), score("core", 0.7))
    case = CaseEvaluation("c", "one", Path("p.nii.gz"), Path("r.nii.gz"), scores)
    return Evaluation(tuple(structures_of(REGIONS)), MetricSettings(), ("one",), (case,))


def test_table_fits_and_says_what_it_is() -> None:
    result = evaluation()
    lines = table_lines(result, summarise(result))
    assert lines[0] == "one: 6 cases"
    assert lines[2].split() == ["structure", "n", "mean", "95", "%", "CI", "1", "mm", "mm", "mm", "error", "tivity",
                                "sion", "false"]  # fmt: skip
    assert max(map(len, lines)) <= 100
    left = next(line for line in lines if line.startswith("Left-Anterior"))
    assert left.split()[1:] == ["6", "0.775", "0.762-0.788", "0.775", "123", "0.50", "+25.0", "%", "0.775", "0.775",
                                "0,", "0"]  # fmt: skip
    nose = next(line for line in lines if line.startswith("Nose"))
    assert nose.split()[1:] == ["6", "0.000", "0.000-0.000", "0.000", "-", "-", "-100.0", "%", "0.000", "-", "6,", "0"]
    assert "both sides together" in lines
    assert any(line.startswith("mean of structures") for line in lines)
    assert "left and right mixed up: 4,200 of 6,000 voxels with a side (70 %)" in lines
    assert "  mostly on the wrong side in 6 cases: c0 (Nose), c1 (Nose), c2 (Nose) and 3 others" in lines
    assert "note, all cases: counted as background in the reference: 24" in lines
    wide = table_lines(result, summarise(result), width=140)
    assert any(line.startswith("Left-Anterior-Something-Rather-Long ") for line in wide)


def test_few_cases_are_flagged_and_one_has_no_interval() -> None:
    four, one = evaluation(4), evaluation(1)
    lines = table_lines(four, summarise(four))
    left = next(line for line in lines if line.startswith("Left"))
    assert left.split()[2] == "0.785"
    assert left.split()[3].endswith("*")
    assert "* fewer than 5 cases: such an interval says little of cases that were not seen" in lines
    left = next(line for line in table_lines(one, summarise(one)) if line.startswith("Left"))
    assert left.split()[1:4] == ["1", "0.800", "0.800"]  # Dice, and next to it NSD


def test_regions_lesion_by_lesion() -> None:
    result = of_regions()
    lines = table_lines(result, summarise(result))
    table = lines[next(k for k, line in enumerate(lines) if line.startswith("lesion by lesion")) :]
    assert table[1].split() == ["all", "1", "0.500", "187", "1", "1", "0"]
    assert table[3].split() == ["mean", "of", "regions", "1", "0.500", "187", "2", "2", "0"]
    assert any(line.startswith("mean of regions") and "0.800" in line for line in lines)
    assert any("BraTS" in line for line in convention_lines(result))
    assert not any("BraTS" in line for line in convention_lines(evaluation()))


def test_comparison_tables() -> None:
    result = evaluation(6, ("one", "two"))
    better = tuple(
        replace(case, scores=tuple(replace(s, dice=s.dice + 0.1) for s in case.scores)) if case.model == "two" else case
        for case in result.cases
    )
    result = replace(result, cases=better)
    lines = table_lines(result, summarise(result), compare(result))
    start = lines.index("Dice: two against one, 6 cases")
    assert lines[start + 1].split() == [
        "structure",
        "n",
        "one",
        "two",
        "difference",
        "95",
        "%",
        "CI",
        "p",
        "p",
        "(Holm)",
    ]
    assert lines[start + 2].split()[1:] == ["6", "0.775", "0.875", "+0.100", "[+0.100,", "+0.100]", "0.0312", "0.1250"]
    assert lines[start + 5].split()[:2] == ["mean", "6"]
    assert "with 6 cases p cannot fall below 0.031, nor p (Holm) of 4 tests below 0.12" in lines
    assert max(map(len, lines)) <= 100
    sides = lines[next(k for k, line in enumerate(lines) if line.startswith("left and right mixed up  ")) :]
    assert sides[1].split() == ["one", "6", "6", "4,200", "6,000"]
    assert any("Wilcoxon" in line for line in convention_lines(result))


def test_many_problems_are_cut() -> None:
    problems = tuple(Problem(f"c{k:02d}", "one", "has no prediction") for k in range(30))
    result = replace(evaluation(), problems=problems)
    lines = problem_lines(result)
    assert lines[0] == "30 cases were not evaluated:"
    assert lines[1] == "  c00: has no prediction"
    assert lines[-1] == "  and c12, c13, c14 and 15 others (--verbose shows each)"
    assert len(problem_lines(result, verbose=True)) == 31
    assert problem_lines(replace(result, problems=())) == []
    assert problem_lines(replace(result, cases=()))[0] == "no case could be evaluated:"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files(tmp_path: Path) -> None:
    result = evaluation(6, ("one", "two"))
    comparison = compare(result)
    assert comparison is not None
    write_cases(tmp_path / "cases.csv", result)
    write_summary(tmp_path / "summary.csv", summarise(result))
    write_comparison(tmp_path / "comparison.csv", comparison)
    cases = rows(tmp_path / "cases.csv")
    assert len(cases) == 6 * 2 * 4
    first, nose = cases[0], cases[2]
    assert (first["case"], first["side"], first["dice"], first["hd95_mm"]) == ("c0", "left", "0.8", "123.4")
    assert (first["prediction"], first["reference"]) == ("c0_seg.nii.gz", "c0/labels.nii.gz")
    assert (nose["status"], nose["dice"], nose["hd95_mm"], nose["precision"]) == ("missed", "0", "", "")
    summary = rows(tmp_path / "summary.csv")
    assert len(summary) == 2 * 5 * 10
    mean = next(row for row in summary if row["structure"] == "mean" and row["metric"] == "dice")
    assert float(mean["mean"]) == pytest.approx((0.775 + 0.7 + 0) / 3)
    assert (mean["kind"], mean["missed"], mean["cases"]) == ("mean", "6", "6")
    tests = rows(tmp_path / "comparison.csv")
    assert {(test["metric"], test["structure"]) for test in tests} >= {("dice", "Nose"), ("hd95", "mean")}
    write_cases(tmp_path / "full.csv", result, full_paths=True)
    assert rows(tmp_path / "full.csv")[0]["reference"] == "/home/somebody/truth/c0/labels.nii.gz"


def test_json_holds_everything_and_no_paths_of_the_machine(tmp_path: Path) -> None:
    result = evaluation(3, ("one", "two"))
    provenance = Provenance("the model x", SIDED, resample=True)
    write_json(tmp_path / "e.json", result, summarise(result), compare(result), provenance)
    text = (tmp_path / "e.json").read_text()
    assert "/home" not in text
    assert "NaN" not in text
    content = json.loads(text)
    assert content["settings"] == {"tolerance_mm": 1.0, "lesions": True, "lesion_dilation": 3, "lesion_mm3": 50.0,
                                   "resample": True}  # fmt: skip
    assert content["labels"]["source"] == "the model x"
    assert content["labels"]["classes"] == [1, 2, 3]
    assert content["provenance"]["software"]["numpy"]
    assert content["conventions"][0].startswith("Found: in both.")
    assert len(content["cases"]) == 6
    assert content["cases"][0]["scores"][2] == json.loads(
        json.dumps(
            {
                "structure": "Nose",
                "status": "missed",
                "dice": 0.0,
                "iou": 0.0,
                "sensitivity": 0.0,
                "precision": None,
                "nsd": 0.0,
                "hd95": None,
                "assd": None,
                "reference_ml": 1.0,
                "predicted_ml": 0.0,
                "lesions": None,
                "volume_error": -1.0,
            }
        )
    )
    assert content["cases"][0]["sides"] == {"lateral": 1000, "swapped": 700, "structures": ["Nose"]}
    assert content["problems"] == [
        {"case": "c9", "model": "one", "message": "c9_seg.nii.gz: is cut short; copy it again"}
    ]
    assert content["comparison"]["cases"] == ["c0", "c1", "c2"]
    assert not math.isnan(content["summary"][0]["metrics"]["dice"]["mean"])
