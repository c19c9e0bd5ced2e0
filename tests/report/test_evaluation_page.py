import json
import re

import nibabel as nib
import numpy as np
import pytest

from voxseg.evaluation.statistics import summarise
from voxseg.report.dot_plot import DotRow, dot_plot
from voxseg.report.evaluation_page import _differences, write_evaluation_page

NAMES = ["b <1>", 'a "2"', "c & 3", "d"]
SHIFTS = [3.0, 9.0, 6.0, 4.5]  # mm: the second is the worst, the third the lower of the two medians, the first the best


@pytest.fixture(scope="module")
def one(tmp_path_factory, evaluated):
    folder = tmp_path_factory.mktemp("one")
    made = evaluated(folder, SHIFTS, names=NAMES)
    path = folder / "report.html"
    write_evaluation_page(path, made.evaluation, made.scans, made.scheme)
    return made, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def two(tmp_path_factory, evaluated):
    folder = tmp_path_factory.mktemp("two")
    made = evaluated(folder, [3.0, 6.0], models=("first", "<other>"))
    path = folder / "report.html"
    write_evaluation_page(path, made.evaluation, {}, made.scheme)
    return made, path.read_text(encoding="utf-8")


def part(text, anchor):
    """The text of a section, without tags."""
    inner = re.search(rf'<section[^>]* id="{anchor}">(.*?)</section>', text, flags=re.DOTALL)
    assert inner, anchor
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", inner[1].replace("\u202f", "")))


def scenes(text):
    found = re.findall(r'<script type="application/json" id="scene-\d+">(.*?)</script>', text, flags=re.DOTALL)
    return [json.loads(scene) for scene in found]


def test_the_summary_has_the_figures_of_the_statistics(one):
    made, text = one
    shown = part(text, "summary")
    for row in summarise(made.evaluation):
        dice = row.metrics["dice"]
        assert f"{dice.mean:.3f} [{dice.low:.3f}, {dice.high:.3f}]" in shown
        assert row.kind == "mean" or row.structure in shown
    assert "both sides together" in shown


def test_few_cases_are_warned_of(one):
    assert "4 cases: figures and intervals of so few" in part(one[1], "warnings")


def test_every_case_has_a_row_and_a_dot(one):
    _, text = one
    for escaped in ("b &lt;1&gt;", "a &quot;2&quot;", "c &amp; 3"):
        assert escaped in part(text, "cases")
        assert text.count(f"<title>{escaped}: ") == 6  # five labels and the mean
    assert "<1>" not in text
    assert "all cases: a note" in part(text, "cases")


def test_the_worst_and_the_median_case_are_drawn_and_the_best_is_in_the_viewer_too(one):
    made, text = one
    means = {case.case: np.mean([score.dice for score in case.scores[:5]]) for case in made.evaluation.cases}
    headings = re.findall(r"<h3>(.*?)</h3>", text)
    assert headings == [
        f"Worst case: a &quot;2&quot;, mean Dice {means[NAMES[1]]:.3f}",
        f"Median case: c &amp; 3, mean Dice {means[NAMES[2]]:.3f}",
    ]
    assert text.count('<img src="data:image/png;base64,') == 2
    assert [scene["name"][:5] for scene in scenes(text)] == ["worst", "media", "best:"]
    for scene in scenes(text):
        assert [m["name"] for m in scene["maps"]] == ["prediction", "reference", "differences"]
        assert len(scene["images"]) == 1


def test_sides_problems_and_conventions(one):
    _, text = one
    assert "b &lt;1&gt; (Hippocampus)" in part(text, "sides")
    assert "126 4000 3.150 %" in part(text, "sides")
    problems = part(text, "problems")
    assert "lost.nii.gz: is cut short; copy it again" in problems
    assert "somebody" not in text  # nothing of the machine's folders
    assert "Missed: only in the reference" in part(text, "conventions")
    assert "Tolerance of the surface Dice: 1 mm." in part(text, "conventions")
    assert 'id="comparison"' not in text


def test_several_models_are_compared(two):
    made, text = two
    assert "Dice: &lt;other&gt; against first, 2 cases" in part(text, "comparison")
    assert "<other>" not in text
    assert len(re.findall(r"<h3>Worst case of", text)) == 2
    for row in summarise(made.evaluation):
        if row.kind == "mean":
            assert f"{row.metrics['dice'].mean:.3f}" in part(text, "comparison")
    maps = [m["name"] for m in scenes(text)[0]["maps"]]
    assert maps == [
        "prediction of first", "reference", "differences of first", "prediction of <other>", "differences of <other>"
    ]  # fmt: skip


def test_without_scans_labels_lie_on_black(two):
    assert all(scene["images"] == [] for scene in scenes(two[1]))


def test_a_scan_on_another_grid_is_not_drawn(tmp_path, evaluated):
    made = evaluated(tmp_path, [3.0])
    image = nib.load(made.scans["case-0"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), tmp_path / "other.nii.gz")
    path = tmp_path / "report.html"
    write_evaluation_page(path, made.evaluation, {"case-0": tmp_path / "other.nii.gz"}, made.scheme)
    text = path.read_text(encoding="utf-8")
    assert "The scan (other.nii.gz) is on another grid" in part(text, "pictures")
    assert scenes(text)[0]["images"] == []
    assert "Only case: case-0" in part(text, "pictures")


def test_a_file_that_is_gone_does_not_cost_the_page(tmp_path, evaluated):
    made = evaluated(tmp_path, [3.0, 6.0])
    (tmp_path / "1_prediction0.nii.gz").unlink()
    path = tmp_path / "report.html"
    write_evaluation_page(path, made.evaluation, made.scans, made.scheme)
    text = path.read_text(encoding="utf-8")
    assert "case-1 cannot be drawn: 1_prediction0.nii.gz: does not exist" in part(text, "pictures")
    assert len(scenes(text)) == 1


def test_differences():
    reference, prediction = np.array([0, 1, 1, 2, 0], np.uint8), np.array([0, 1, 0, 1, 2], np.uint8)
    assert _differences(reference, prediction).tolist() == [0, 0, 1, 3, 2]


def test_dots_lie_where_their_values_are():
    row = DotRow("x", {"m": {"a": 0.55, "b": 1.0, "c": float("nan")}}, {"m": (0.775, 0.6, 0.9)})
    svg = dot_plot([row], ["m"], "t")
    (a, b) = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg))
    ticks = {
        float(t): float(x) for x, t in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">([\d.]+)<', svg)
    }
    assert sorted(ticks) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert a == pytest.approx((ticks[0.5] + ticks[0.6]) / 2, abs=0.2)
    assert b == pytest.approx(ticks[1.0], abs=0.2)
    assert svg.count("<title>") == 2
