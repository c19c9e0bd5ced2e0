import itertools

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from grids import ORIENTATIONS
from voxseg.data.geometry import Geometry
from voxseg.data.labels import Label, LabelTable
from voxseg.report.qc import DPI, draw_qc
from voxseg.report.three_planes import where

TABLE = LabelTable([Label(2, "Brain", "#00ff00"), Label(17, "Left-Spot", "#ff0000", "left")])
SHAPE = (60, 72, 50)


def head():
    """A brain in RAS axes with a spot in its left, front, upper part."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    classes = np.zeros(SHAPE, dtype=np.uint8)
    classes[(x / 25) ** 2 + (y / 31) ** 2 + (z / 21) ** 2 < 1] = 1
    classes[(x + 12) ** 2 + (y - 12) ** 2 + (z - 8) ** 2 < 25] = 2
    scan = np.where(classes > 0, 100 + 40 * (y > 0), 0).astype(np.float32)
    return scan, classes


def draw(path, scan, classes, affine):
    counts = [int((classes == k).sum()) for k in (1, 2)]
    draw_qc(path, scan, classes, Geometry(scan.shape, affine), TABLE, counts, "a test_$x$")
    return matplotlib.image.imread(path)[..., :3]


def found(picture, colour):
    """Pixels [N, 2] (row, column) of an outline, without the legend."""
    strongest, others = np.argmax(colour), np.delete(np.arange(3), np.argmax(colour))
    saturated = picture[..., strongest] - picture[..., others].max(-1) > 0.4
    rows, columns = np.nonzero(saturated)
    planes = columns < picture.shape[1] - 2.7 * DPI
    return np.stack([rows[planes], columns[planes]], -1)


def panels(points):
    """Points of each of the three planes: black columns lie between them."""
    columns = np.unique(points[:, 1])
    gaps = columns[1:][np.diff(columns) > 40]
    edges = [0, *gaps, columns[-1] + 1]
    assert len(edges) == 4
    return [points[(points[:, 1] >= low) & (points[:, 1] < high)] for low, high in itertools.pairwise(edges)]


def middle(points):
    return (points.min(axis=0) + points.max(axis=0)) / 2


def test_radiological_convention(tmp_path):
    picture = draw(tmp_path / "qc.png", *head(), np.diag([1.0, 1, 1, 1]))
    brains, spots = panels(found(picture, (0, 1, 0))), panels(found(picture, (1, 0, 0)))
    axial, coronal, sagittal = ([middle(b), middle(s)] for b, s in zip(brains, spots, strict=True))
    for brain, spot in (axial, coronal):
        assert spot[1] > brain[1] + 10  # the left is on the right
    assert axial[1][0] < axial[0][0] - 10  # front up
    assert coronal[1][0] < coronal[0][0] - 5  # top up
    assert sagittal[1][1] < sagittal[0][1] - 10  # front to the left
    assert sagittal[1][0] < sagittal[0][0] - 5


@pytest.mark.parametrize("orientation", [*ORIENTATIONS[1::5], "LIA", "LPS"])
def test_the_picture_does_not_depend_on_how_the_scan_is_stored(tmp_path, orientation):
    scan, classes = head()
    reference = draw(tmp_path / "a.png", scan, classes, np.eye(4))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    affine = np.eye(4) @ nib.orientations.inv_ornt_aff(change, SHAPE)
    turned = [nib.orientations.apply_orientation(a, change) for a in (scan, classes)]
    picture = draw(tmp_path / "b.png", *turned, affine)
    # The line below the planes names the orientation of the file.
    planes = slice(0, int(reference.shape[0] * 0.9))
    assert np.array_equal(picture[planes], reference[planes])


def test_thick_slices_look_thick(tmp_path):
    scan, classes = head()
    scan, classes = scan[:, :, ::4], classes[:, :, ::4]
    picture = draw(tmp_path / "qc.png", scan, classes, np.diag([1.0, 1, 4, 1]))
    _, coronal, _ = panels(found(picture, (0, 1, 0)))
    height, width = np.ptp(coronal, axis=0)
    assert height / width == pytest.approx(42 / 50, abs=0.12)


def test_nothing_found_is_drawn_too(tmp_path):
    scan, classes = head()
    picture = draw(tmp_path / "qc.png", scan, np.zeros_like(classes), np.eye(4))
    assert len(found(picture, (0, 1, 0))) == 0
    assert picture.std() > 0.05


def test_constant_and_sheared_and_many_labels(tmp_path):
    table = LabelTable([Label(k, f"Structure {k}", "#8080ff") for k in range(1, 61)])
    classes = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((60, 20, 20), dtype=np.uint8)
    affine = np.eye(4)
    affine[0, 1] = 0.2
    path = tmp_path / "qc.png"
    draw_qc(path, np.ones((60, 20, 20)), classes, Geometry((60, 20, 20), affine), table, [400] * 60, "many")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("place", [(150, 40, 201), (33, 236, 5), (119, 119, 119)])
def test_a_lesion_of_a_few_voxels_is_on_all_three_planes(tmp_path, place):
    """With odd and even places, so that sampling every other voxel would miss it."""
    classes = np.zeros((240, 240, 240), dtype=np.uint8)
    classes[place] = 2
    scan = np.random.default_rng(0).random(classes.shape, dtype=np.float32)
    point, shown = where(classes, (1.0, 1.0, 1.0))
    assert tuple(point) == place
    assert all(s.stop - s.start == 150 for s in shown)  # enough of the organ around it
    assert all(s.start <= p < s.stop for s, p in zip(shown, place, strict=True))
    picture = draw(tmp_path / "qc.png", scan, classes, np.eye(4))
    assert len(panels(found(picture, (1, 0, 0)))) == 3


def test_lesions_on_two_sides_are_each_looked_at_whole():
    classes = np.zeros((200, 220, 180), dtype=np.uint8)
    classes[20:30, 100:110, 90:100] = 1
    classes[150:153, 30:33, 40:43] = 1
    point, shown = where(classes, (1.0, 1.0, 1.0))
    assert classes[tuple(point)] == 1
    assert [(s.start, s.stop) for s in shown] == [(0, 173), (0, 150), (0, 150)]


def test_what_is_enclosed_keeps_its_outline(tmp_path):
    """A core within a rim shares its whole border with it."""
    x, y, z = np.meshgrid(*(np.arange(60) - 29.5 for _ in range(3)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    for core, rim in ((1, 2), (2, 1)):
        classes = np.where(radius < 10, core, np.where(radius < 20, rim, 0)).astype(np.uint8)
        picture = draw(tmp_path / "qc.png", radius.astype(np.float32), classes, np.eye(4))
        colours = {1: (0, 1, 0), 2: (1, 0, 0)}
        inner, outer = (np.ptp(panels(found(picture, colours[k]))[0], axis=0) for k in (core, rim))
        assert (outer > 1.8 * inner).all()
