from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from voxseg.data.labels import LabelTable
from voxseg.report.contact_sheet import blend, busiest_plane, contact_sheet, save_figure

TABLE = LabelTable.freesurfer().select([2, 10, 17])
SHAPE = (20, 24, 16)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = np.zeros(SHAPE, dtype=np.int64)
    classes[3:15, 5:20, 4:12] = 1
    classes[6:10, 8:14, 6:9] = 2
    return random.random(SHAPE).astype(np.float32), classes


def test_picture_shows_scans_and_colours(tmp_path: Path) -> None:
    scans, classes = zip(*(pair(k) for k in range(3)), strict=True)
    figure = contact_sheet(scans, classes, TABLE, ["a", "b", "c"])
    assert len(figure.axes) == 3 * 6
    path = tmp_path / "sheet.png"
    save_figure(figure, path)
    picture = imread(path)[..., :3]
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.1
    thalamus = np.array([0, 0x76, 0x0E]) / 255
    assert (np.abs(picture - thalamus).max(-1) < 0.02).sum() > 100
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == TABLE.names


def test_pyplot_is_left_alone() -> None:
    scan, classes = pair(0)
    before = "matplotlib.pyplot" in sys.modules
    contact_sheet([scan], [classes], TABLE, ["a"])
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_nothing_labelled_and_a_flat_scan(tmp_path: Path) -> None:
    figure = contact_sheet([np.zeros(SHAPE, np.float32)], [np.zeros(SHAPE, np.int64)], TABLE, ["empty"])
    save_figure(figure, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_planes_with_the_most_labels() -> None:
    classes = np.zeros(SHAPE, dtype=np.int64)
    classes[2, 5:9, 3] = 1
    assert [busiest_plane(classes, axis) for axis in range(3)] == [2, 5, 3]
    assert [busiest_plane(np.zeros(SHAPE), axis) for axis in range(3)] == [10, 12, 8]


def test_only_labelled_voxels_are_coloured() -> None:
    grey = np.full((8, 8, 3), 0.5)
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[2:6, 2:6] = 1
    palette = np.array([[0, 0, 0], [1.0, 0, 0]])
    result = blend(grey, labels, palette)
    assert (result[labels == 0] == 0.5).all()
    assert (result[2, 2] == [1, 0, 0]).all()
    assert result[3, 3, 0] == pytest.approx(0.5 + 0.6 * 0.5)


def test_mismatches_are_told() -> None:
    scan, classes = pair(0)
    with pytest.raises(ValueError, match="got 1 scans, 2 label maps"):
        contact_sheet([scan], [classes, classes], TABLE, ["a"])
    with pytest.raises(ValueError, match="got 0 scans"):
        contact_sheet([], [], TABLE, [])
    with pytest.raises(ValueError, match="a: the scan has the shape"):
        contact_sheet([scan[:5]], [classes], TABLE, ["a"])
