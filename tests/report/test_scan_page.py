import re
from dataclasses import replace

import numpy as np
import pytest

from voxseg.data.geometry import Geometry
from voxseg.report.scan_page import ScanReport, warnings_of, write_scan_page

REPORT = ScanReport(
    name='a <b>"scan"</b> & more',
    files={"t1": "<t1>.nii.gz"},
    model="tiny",
    description="of <nothing>",
    weights="ab" * 32,
    machine="cpu, 2 threads",
    seconds={"reading": 0.25, "network": 2.0},
    windows=8,
)


def write(path, head, report=REPORT, classes=None):
    classes = head.classes if classes is None else classes
    counts = [int((classes == k).sum()) for k in range(1, len(head.table) + 1)]
    write_scan_page(path, {"t1": head.scan}, classes, head.geometry, head.table, counts, b"\x89PNG", report)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory, head):
    return write(tmp_path_factory.mktemp("page") / "page.html", head)


def body(text):
    """Without the scripts and the style."""
    return re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)


def test_names_are_escaped(text):
    assert "a &lt;b&gt;&quot;scan&quot;&lt;/b&gt; &amp; more" in text
    assert "&lt;t1&gt;.nii.gz" in text
    assert "of &lt;nothing&gt;" in text
    assert "<b>" not in body(text)


def test_every_structure_is_listed_with_its_volume(text, head):
    ml = head.geometry.voxel_volume / 1000
    left, right = (head.counts[k] * ml for k in (1, 3))
    assert f"{left:.2f}" in text
    assert f"{100 * (left - right) / ((left + right) / 2):.1f} %" in text
    for name in ("Cerebral-White-Matter", "Hippocampus", "Brain-Stem"):
        assert f"{name}</label>" in text


def test_what_is_said_of_the_run(text):
    shown = body(text)
    assert "ab" * 32 in shown
    assert "cpu, 2 threads, in 8 windows" in shown
    assert "reading 0.2 s, network 2.0 s; together 2.2 s" in shown
    assert "44 × 52 × 40 voxels of 3.5 × 3.5 × 3.5 mm" in shown
    assert "LPS, right-handed" in shown
    assert "not a medical device" in shown


def test_nothing_is_fetched(text):
    assert not re.search(r"(?:src|href|action|poster|data)\s*=\s*[\"']?\s*(?:https?:)?//", body(text))
    assert not re.search(r"url\(|@import", text[: text.index("</style>")])
    assert "<link" not in body(text).replace('<link rel="icon" href="data:,">', "")


def test_quality_only_where_there_is_one(tmp_path, head, text):
    assert 'class="quality"' not in text
    assert '<p class="quality">fair &lt;0.8</p>' in write(
        tmp_path / "a.html", head, replace(REPORT, quality="fair <0.8")
    )


def test_warnings_only_where_there_are_some(tmp_path, head, text):
    assert 'id="warnings"' not in text
    page = write(tmp_path / "a.html", head, classes=np.zeros_like(head.classes))
    assert "Nothing was found in this scan." in page
    assert page.count("not found") >= 3


def test_warnings(head):
    geometry, table, counts = head.geometry, head.table, head.counts
    assert warnings_of(head.classes, geometry, table, counts) == []
    assert warnings_of(head.classes, geometry, table, [0, *counts[1:]]) == ["Not found: Left-Cerebral-White-Matter."]
    cut = head.classes[:, :, 12:]
    (text,) = warnings_of(cut, Geometry(cut.shape, geometry.affine), table, counts)
    assert text.endswith("cut off: Left-Cerebral-White-Matter, Right-Cerebral-White-Matter, Brain-Stem.")
    thick = geometry.affine @ np.diag([1.0, 1, 2.5, 1])
    (text,) = warnings_of(head.classes, Geometry(geometry.shape, thick), table, counts)
    assert "2.5 times as long" in text
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    (text,) = warnings_of(head.classes, Geometry(geometry.shape, turned @ geometry.affine), table, counts)
    assert "oblique by 17°" in text
