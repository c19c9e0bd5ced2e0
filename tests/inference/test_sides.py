"""The mid-plane, and left and right in the scan's grid."""

from pathlib import Path

import numpy as np
import pytest
import torch

from grids import ORIENTATIONS, make_affine
from voxseg.data.geometry import Geometry
from voxseg.data.labels import LabelTable
from voxseg.data.volume import Volume
from voxseg.inference.model import Model, ModelConfig
from voxseg.inference.predictor import Predictor
from voxseg.inference.restore import Restorer, sweep_axis
from voxseg.inference.sides import fit_mid_plane, side_field
from voxseg.networks import NetworkConfig

SHAPE = (40, 44, 36)
SPACING = 2.0
TABLE = LabelTable.freesurfer().select([16, 2, 41])


def tilted(normal=(0.9, 0.3, -0.2), through=(19.0, 22.0, 17.5)):
    """Signed distance of every voxel to a plane, in mm, and a ball about the middle."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    unit = np.array(normal) / np.linalg.norm(normal)
    distance = ((index - np.array(through)) * SPACING) @ unit
    ball = np.linalg.norm((index - (np.array(SHAPE) - 1) / 2) * SPACING, axis=-1) < 30
    return unit, distance, ball


def said(distance, noise, seed=0):
    """What a network might say: the side, with logits that are wrong here and there."""
    logit = distance / 3 + noise * np.random.default_rng(seed).standard_normal(distance.shape)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_plane_is_found(noise):
    unit, distance, ball = tilted()
    plane = fit_mid_plane(said(distance, noise), ball.astype(np.float32), SPACING)
    assert plane.normal @ unit > np.cos(np.radians(2.0))
    error = np.abs(plane.distance(SHAPE, SPACING) - distance)[ball]
    assert error.max() < 1.5  # mm
    assert plane.agreement > (0.99 if noise == 0 else 0.85)


def test_far_from_the_plane_single_mistakes_do_not_count():
    _, distance, ball = tilted()
    right = said(distance, 0.0)
    wrong = ball & (np.random.default_rng(1).random(SHAPE) < 0.1)
    right[wrong] = 1 - right[wrong]
    field, plane = side_field(right, ball.astype(np.float32), SPACING)
    far = ball & (np.abs(distance) > 10)
    assert np.array_equal(field[far] > 0, distance[far] > 0)
    near = ball & (np.abs(distance) < 5)
    assert np.array_equal(field[near] > 0, right[near] > 0.5)  # the fissure bends: the network knows better
    assert 0.85 < plane.agreement < 0.95


def test_one_half_of_a_brain_stays_on_its_side():
    _, distance, ball = tilted()
    half = ball & (distance > 4)
    field, _ = side_field(said(distance, 0.5), half.astype(np.float32), SPACING)
    assert (field[half] > 0).mean() > 0.99


def test_nothing_with_sides_has_no_plane():
    right, paired = np.full(SHAPE, 0.5, np.float32), np.zeros(SHAPE, np.float32)
    assert fit_mid_plane(right, paired, SPACING) is None
    field, plane = side_field(right, paired, SPACING)
    assert plane is None
    assert not field.any()
    ball = tilted()[2].astype(np.float32)
    assert fit_mid_plane(right, ball, SPACING) is None  # a network that cannot tell


@pytest.mark.parametrize("turn", ["straight", "sheared"])
@pytest.mark.parametrize("layout", [(2, 1, 0), (0, 1, 2)])
def test_sides_in_the_scan_are_those_of_the_interpolated_field(turn, layout):
    _, distance, ball = tilted()
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    grid = Geometry(SHAPE, affine)
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
    field = distance.astype(np.float32)
    swept = (np.moveaxis(a, axis, 0) for a in (field, ball))
    restorer.tell_sides(*swept, np.array([0, 3, 2], np.uint8))

    from scipy.ndimage import map_coordinates

    index = np.stack(np.meshgrid(*(np.arange(n) for n in scan.shape), indexing="ij"))
    places = np.linalg.inv(affine)[:3, :3] @ (fine[:3, :3] @ index.reshape(3, -1) + fine[:3, 3:])
    expected = map_coordinates(field, places, order=1, mode="nearest").reshape(scan.shape)
    inside = structures == 1
    clear = inside & (np.abs(expected) > 1e-3)
    assert inside.sum() > 10_000
    assert np.array_equal(restorer.result[clear] == 3, expected[clear] > 0)
    assert np.array_equal(restorer.result[~inside], structures[~inside])


class TwoHalves(torch.nn.Module):
    """Dark voxels are background, grey ones a paired structure, bright ones the stem; brighter grey is on the right."""

    def forward(self, x):
        stem, paired = -40 * (x - 1.0) ** 2, -40 * (x - 0.5) ** 2
        background = -40 * x**2
        return torch.cat([background, stem, paired, 200 * (x - 0.5)], 1)


def halves_model():
    network = NetworkConfig(out_channels=4, levels=["1x0e"], encoder_convolutions=[1], decoder_convolutions=[])
    config = ModelConfig(
        format=1, name="halves", network=network, preparation={"spacing": 2.0}, output={"side": True},
        postprocessing={"largest_component": False},
    )  # fmt: skip
    return Model(config, TABLE, TwoHalves())


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
@pytest.mark.parametrize("window", [None, 24])
def test_every_orientation_in_one_piece_and_in_windows(orientation, window):
    geometry = Geometry((52, 56, 60), make_affine(orientation, "oblique"))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    world = geometry.to_world(index) - geometry.to_world(np.array(geometry.shape) / 2)
    ball, side = np.linalg.norm(world, axis=-1) < 22, world @ np.array([0.8, 0.6, 0.0])
    stem = ball & (np.abs(side) < 4)
    data = np.where(ball, 50 + 4 * np.sign(side), 0).astype(np.float32)
    data[stem] = 100
    volume = Volume(Path("scan.nii"), data, geometry, None, data.shape)
    found = Predictor(halves_model(), "cpu", window=window).segment(volume)
    assert found.side_agreement > 0.8  # at the rim grey is mixed with black, and darker than it should be
    clear = ball & (np.linalg.norm(world, axis=-1) < 18) & (np.abs(np.abs(side) - 4) > 3)
    expected = np.where(np.abs(side) < 4, 16, np.where(side > 0, 41, 2))
    assert np.array_equal(found.labels[clear], expected[clear])
