"""The Bland–Altman picture: what is drawn where."""

from pathlib import Path

import numpy as np
import pytest

from voxseg.evaluation.agreement import compare
from voxseg.evaluation.agreement_scans import RepeatedScan, Repeats
from voxseg.evaluation.agreement_volumes import MeasuredStructure
from voxseg.report.bland_altman import MOST, bland_altman_figure, draw_bland_altman


def agreement(structures=3, subjects=5, missing=False):
    """Structure k of subject s has (k + 1)(10 + s) ml, and a random change of some per cent."""
    random = np.random.default_rng(2)
    named = [MeasuredStructure(f"part_$x$_{k}", (k + 1,)) for k in range(structures)]
    people = [tuple(RepeatedScan(f"p{s}", name, Path("x")) for name in ("a", "b")) for s in range(subjects)]
    ml = {
        (scan.subject, scan.session): {
            n.name: (k + 1) * (10 + s) * float(random.uniform(0.97, 1.03)) for k, n in enumerate(named)
        }
        for s, scans in enumerate(people)
        for scan in scans
    }
    if missing:
        ml["p0", "b"]["part_$x$_0"] = 0.0
    return compare(Repeats(tuple(people), ("a", "b")), named, ml)


def test_points_and_lines_are_the_figures():
    found = agreement(missing=True)
    figure = bland_altman_figure(found, "title_$y$")
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 3
    for axes, structure in zip(panels, found.structures, strict=True):
        points = np.asarray(axes.collections[0].get_offsets())
        assert points == pytest.approx(np.array([(p.mean_ml, p.difference_ml) for p in structure.pairs]))
        heights = [line.get_ydata()[0] for line in axes.lines]
        limits = structure.limits
        assert heights == pytest.approx([0, limits.bias.value, limits.lower.value, limits.upper.value])
        assert [text.get_text()[0] for text in axes.texts[1:]] == ["-", "+"]
        low, high = axes.get_ylim()
        assert low < min(limits.lower.value, points[:, 1].min())
        assert high > max(limits.upper.value, points[:, 1].max())
    assert panels[0].get_title(loc="left") == "part_$x$_0  (4 subjects, missing in 1 scan)"
    assert panels[1].get_title(loc="left") == "part_$x$_1  (5 subjects)"


def test_of_many_structures_the_largest_are_drawn():
    found = agreement(structures=MOST + 5, subjects=2)
    figure = bland_altman_figure(found, "many")
    titles = [axes.get_title(loc="left").split()[0] for axes in figure.axes if axes.axison]
    assert titles == [f"part_$x$_{k}" for k in range(5, MOST + 5)]
    assert f"the {MOST} largest structures, 5 smaller ones" in figure.get_suptitle()


def test_one_subject_and_equal_volumes_are_drawn_without_limits(tmp_path):
    found = agreement(subjects=1)
    for structure in found.structures:
        assert structure.limits.subjects == 1
    draw_bland_altman(tmp_path / "one.png", found, "one")
    figure = bland_altman_figure(found, "one")
    assert [len(axes.lines) for axes in figure.axes if axes.axison] == [2, 2, 2]  # zero and bias
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    same = {(scan.subject, scan.session): {"a": 3.0} for scans in agreement().repeats.subjects for scan in scans}
    equal = compare(agreement().repeats, [MeasuredStructure("a", (1,))], same)
    draw_bland_altman(tmp_path / "same.png", equal, "same")
    assert equal.structures[0].icc.subjects == 5
