from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from voxseg.data.labels import Label, LabelTable
from voxseg.report.case_sheet import case_sheet
from voxseg.report.contact_sheet import save_figure

TABLE = LabelTable([Label(1, "First", "#ff0000"), Label(2, "Second", "#0000ff")])


def row(title: str = "001"):
    """A case whose first label is seen in one plane of each direction only."""
    classes = np.zeros((12, 14, 10), dtype=np.uint8)
    classes[3, 4, 5] = 1
    images = {"flair": np.full(classes.shape, 700.0), "t1": np.full(classes.shape, 0.02)}
    return title, images, classes


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_images_then_labels_in_the_planes_that_show_them() -> None:
    shown = pictures(case_sheet([row(), row("002")], TABLE))
    assert len(shown) == 2 * (2 + 3)
    assert [picture.shape for picture in shown[:5]] == [
        (14, 12, 3), (14, 12, 3), (10, 14, 3), (10, 12, 3), (14, 12, 3)
    ]  # fmt: skip
    for picture, (height, width) in zip(shown[2:5], ((5, 4), (5, 3), (4, 3)), strict=True):
        assert picture[height, width].tolist() == [1, 0, 0]
        assert (picture == 1).all(axis=-1).sum() == picture[..., 0].size - 1  # all else white, as it has one value


def test_every_unit_is_shown_alike() -> None:
    first, second, *_ = pictures(case_sheet([row()], TABLE))
    assert np.array_equal(first, second)


def test_no_more_columns_than_asked_for() -> None:
    assert len(pictures(case_sheet([row()], TABLE, columns=4))) == 4


def test_file(tmp_path: Path) -> None:
    save_figure(case_sheet([row()], TABLE), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no cases"):
        case_sheet([], TABLE)
