"""The surface between the halves of a brain, and left and right in the scan's grid."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, map_coordinates

from grids import make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.label_scheme import LabelScheme
from voxseg.data.sides import SideClasses
from voxseg.data.volume import Volume
from voxseg.inference.model import Model, ModelConfig
from voxseg.inference.predictor import Predictor
from voxseg.inference.restore import Restorer, sweep_axis
from voxseg.inference.sides import _brain_frame, find_mid_surface, header_mid_surface
from voxseg.networks import NetworkConfig
from voxseg.testing import grid_rotations, rotation_matrix

SHAPE = (86, 94, 82)
SPACING = 2.0
SCHEME = LabelScheme.brain()
TABLE = SCHEME.with_sides()
PAIRED = SideClasses.of(TABLE).paired
STRUCTURES = {  # id: mm to the side of the middle, radius in mm; where in the plane is the frame's own
    16: (0, 11), 14: (0, 4), 15: (0, 6), 8: (24, 21), 7: (16, 8), 4: (11, 8), 10: (11, 9),
    11: (14, 7), 12: (26, 8), 13: (20, 5), 17: (26, 7), 18: (23, 6), 26: (9, 5), 28: (10, 6),
}  # fmt: skip


def toy_brain(bend=0.0):
    """Structures [X, Y, Z] and which side each voxel is on, about a fissure of 4 mm that bends by so many mm."""
    x, y, z = (SPACING * (np.arange(n) - (n - 1) / 2) for n in SHAPE)
    x, y, z = x[:, None, None] - bend * (y[:, None] / 60) ** 2, y[:, None], z[None, None]
    classes = np.zeros(SHAPE, np.uint8)
    hemispheres = (np.abs(x) > 2) & ((x / 66) ** 2 + (y / 82) ** 2 + ((z - 16) / 58) ** 2 < 1)
    classes[hemispheres] = 1 + SCHEME.classes.index(3)
    inner = (np.abs(x) > 5) & ((x / 56) ** 2 + (y / 72) ** 2 + ((z - 16) / 48) ** 2 < 1)
    classes[inner] = 1 + SCHEME.classes.index(2)
    for label_id, (beside, radius) in STRUCTURES.items():
        front, top = _brain_frame()[label_id]
        ball = (np.abs(x) - beside) ** 2 + (y - front) ** 2 + (z - top) ** 2 < radius**2
        if beside:
            ball &= np.abs(x) > 2
        classes[ball] = 1 + SCHEME.classes.index(label_id)
    return classes, np.broadcast_to(x, SHAPE) > 0


def agreement(surface, classes, right):
    """Share of the voxels of paired structures on the right side of the surface."""
    paired = PAIRED[classes]
    return ((surface.distance(classes.shape, SPACING) > 0) == right)[paired].mean()


def found(classes):
    return find_mid_surface(classes, PAIRED[classes].astype(np.float32), SCHEME.classes, SPACING)


@pytest.mark.parametrize("rotation", grid_rotations())
def test_sides_are_told_in_all_24_poses(rotation):
    classes, right = toy_brain()
    axes, signs = rotation.abs().argmax(1), rotation.sum(1)

    def turned(volume):
        volume = volume.transpose([int(a) for a in axes])
        return volume[tuple(slice(None, None, int(s)) for s in signs)]

    assert agreement(found(turned(classes)), turned(classes), turned(right)) > 0.999


def test_a_mirror_image_has_its_sides_swapped():
    classes, right = toy_brain()
    assert agreement(found(classes[::-1]), classes[::-1], ~right[::-1]) > 0.999


@pytest.mark.parametrize(("axis", "degrees"), [((1, 2, 3), 60), ((-2, 1, 1), 140), ((0, 1, 0), 35)])
def test_sides_are_told_at_odd_angles(axis, degrees):
    classes, right = toy_brain()
    rotation = rotation_matrix(axis, degrees).numpy()
    middle = (np.array(SHAPE) - 1) / 2
    offset = middle - rotation @ middle
    turned, turned_right = (affine_transform(v, rotation, offset, order=0) for v in (classes, right))
    assert agreement(found(turned), turned, turned_right) > 0.997


def test_the_surface_bends_with_the_fissure():
    classes, right = toy_brain(bend=5.0)
    surface = found(classes)
    flat = replace(surface, bend=surface.bend * [1, 1, 1, 0, 0, 0])
    assert agreement(surface, classes, right) > 0.998
    assert agreement(flat, classes, right) < 0.995


def test_missing_structures_do_not_matter_until_few_are_left():
    classes, right = toy_brain()
    for lost in (8, 7, 15, 16):  # a field of view that ends above the cerebellum
        classes[classes == 1 + SCHEME.classes.index(lost)] = 0
    assert agreement(found(classes), classes, right) > 0.999
    classes[classes > 3] = 0
    assert found(classes) is None
    assert found(np.zeros(SHAPE, np.uint8)) is None


@pytest.mark.parametrize("side", [1, -1])
def test_a_tumour_that_is_called_other_structures_does_not_matter(side):
    classes, right = toy_brain()
    x, y, z = (SPACING * (np.arange(n) - (n - 1) / 2) for n in SHAPE)
    distance = np.sqrt((x[:, None, None] - 36 * side) ** 2 + (y[:, None] - 45) ** 2 + (z - 25) ** 2)
    tumour = (distance < 26) & (classes > 0)
    for label_id, radius in ((8, 26), (7, 20), (17, 16), (26, 10)):
        classes[tumour & (distance < radius)] = 1 + SCHEME.classes.index(label_id)
    assert agreement(found(classes), classes, right) > 0.995


def test_where_nothing_tells_the_header_does():
    classes, right = toy_brain()
    grid = Geometry(SHAPE, np.diag([SPACING, SPACING, SPACING, 1.0]))
    surface = header_mid_surface(grid, PAIRED[classes].astype(np.float32))
    assert agreement(surface, classes, right) > 0.999
    flipped = Geometry(SHAPE, np.diag([-SPACING, -SPACING, SPACING, 1.0]))
    assert agreement(header_mid_surface(flipped, PAIRED[classes].astype(np.float32)), classes, ~right) > 0.999


@pytest.mark.parametrize("turn", ["straight", "sheared"])
@pytest.mark.parametrize("layout", [(2, 1, 0), (0, 1, 2)])
def test_sides_in_the_scan_are_those_of_the_interpolated_distance(turn, layout):
    shape = (40, 44, 36)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    unit = np.array([0.9, 0.3, -0.2]) / np.linalg.norm([0.9, 0.3, -0.2])
    distance = (((index - np.array([19.0, 22.0, 17.5])) * SPACING) @ unit).astype(np.float32)
    ball = np.linalg.norm((index - (np.array(shape) - 1) / 2) * SPACING, axis=-1) < 30
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    grid = Geometry(shape, affine)
    fine = np.diag([-0.9, 1.1, 1.3, 1.0])
    fine[:3, 3] = [75.0, 3.0, 2.0]
    if turn == "sheared":
        fine[0, 1] = 0.2
    scan = Geometry((76, 70, 48), fine)
    axis = sweep_axis(grid, scan, layout[0])
    restorer = Restorer(grid, scan, axis, layout)
    probabilities = torch.from_numpy(np.stack([~ball, ball, np.zeros_like(ball)]).astype(np.float32))
    restorer.feed(probabilities.movedim(axis + 1, 1))
    structures = restorer.result.copy()
    restorer.tell_sides(np.moveaxis(distance, axis, 0), np.moveaxis(ball, axis, 0), np.array([0, 3, 2], np.uint8))

    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan.shape), indexing="ij"))
    places = np.linalg.inv(affine)[:3, :3] @ (fine[:3, :3] @ index.reshape(3, -1) + fine[:3, 3:])
    expected = map_coordinates(distance, places, order=1, mode="nearest").reshape(scan.shape)
    inside = structures == 1
    clear = inside & (np.abs(expected) > 1e-3)
    assert inside.sum() > 10_000
    assert np.array_equal(restorer.result[clear] == 3, expected[clear] > 0)
    assert np.array_equal(restorer.result[~inside], structures[~inside])


class Levels(torch.nn.Module):
    """Each structure has an intensity of its own."""

    def forward(self, x):
        levels = torch.linspace(0, 1, len(SCHEME.classes) + 1).view(1, -1, 1, 1, 1)
        return -4000 * (x - levels) ** 2


def levels_model(sides=True):
    network = NetworkConfig(
        out_channels=len(SCHEME.classes) + 1, levels=["1x0e"], encoder_convolutions=[1], decoder_convolutions=[]
    )
    config = ModelConfig(
        format=1,
        name="levels",
        network=network,
        preparation={"spacing": SPACING, "images": {"image": {"scale": "window", "low": 0.0, "high": 1.0}}},
        postprocessing={"sides": sides},
    )
    return Model(config, TABLE if sides else SCHEME.predicted(), Levels())


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "SPR", "AIL"])
@pytest.mark.parametrize("window", [None, 48])
def test_a_scan_in_any_orientation_in_one_piece_and_in_windows(orientation, window):
    classes, right = toy_brain()
    image = nib.Nifti1Image(classes.astype(np.float32) / 16, np.diag([SPACING, SPACING, SPACING, 1.0]))
    wanted = nib.orientations.axcodes2ornt(orientation)
    order = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    image = image.as_reoriented(order)
    expected = nib.orientations.apply_orientation(np.where(right, SideClasses.of(TABLE).right[classes], classes), order)
    geometry = Geometry(image.shape, image.affine)
    volume = Volume(Path("scan.nii"), image.get_fdata(dtype=np.float32), geometry, None, image.shape)
    result = Predictor(levels_model(), "cpu", window=window).segment(volume)
    assert result.sides == "anatomy"
    inside = result.classes > 0
    assert (result.classes == expected)[inside].mean() > 0.9  # voxels at borders are mixed
    large = {k for k in np.unique(expected) if (expected == k).sum() > 500}
    assert set(np.unique(result.classes)) >= large
    sides = SideClasses.of(TABLE).side
    both = (sides[result.classes] > 0) & (sides[expected.astype(np.uint8)] > 0)
    assert (sides[result.classes] == sides[expected.astype(np.uint8)])[both].mean() > 0.999


def test_a_wrong_header_changes_nothing():
    classes, _ = toy_brain()
    data = classes.astype(np.float32) / 16
    predictor = Predictor(levels_model(), "cpu")
    results = []
    for orientation in ("RAS", "ASR", "LPS"):  # the same handedness
        geometry = Geometry(SHAPE, make_affine(orientation) @ np.diag([SPACING, SPACING, SPACING, 1.0]))
        results.append(predictor.segment(Volume(Path("scan.nii"), data, geometry, None, SHAPE)).classes)
    for other in results[1:]:
        assert (other == results[0]).mean() > 0.9995
