"""What components mean in every system of axes, against plain rotations of vectors and matrices."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from grids import make_affine
from voxseg.data.field_kinds import LOWER, ORDERS, FieldTarget
from voxseg.data.geometry import Geometry
from voxseg.testing import grid_rotations, rotation_matrix

SHAPE = (3, 4, 5)


def random(components):
    return np.random.default_rng(0).normal(size=(*SHAPE, components)).astype(np.float32)


def matrices(values, order=LOWER):
    """`[..., 3, 3]` of six numbers, written out here once more."""
    result = np.zeros((*values.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(order):
        result[..., i, j] = result[..., j, i] = values[..., k]
    return result


def six(tensors):
    return np.stack([tensors[..., i, j] for i, j in LOWER], -1)


@pytest.mark.parametrize("kind", ["scalar", "vector", "tensor"])
def test_what_is_encoded_is_decoded(kind):
    target = FieldTarget(kind=kind, scale=0.01)
    values = random(target.components)
    fields = target.encode(values)
    assert fields.shape == (target.field.channels, *SHAPE)
    assert np.allclose(target.decode(fields), values, atol=1e-6)


def test_any_irreps_are_left_as_they_are():
    target = FieldTarget(kind="irreps", irreps="2x0e+1x3o", scale=2)
    values = random(9)
    assert np.allclose(target.encode(values), np.moveaxis(values, -1, 0) / 2)
    assert np.allclose(target.decode(target.encode(values)), values)
    assert target.components == 9
    assert target.output("SO3") == "2x0e+1x3e"
    assert target.output("O3") == "2x0e+1x3o"


def test_an_axis_has_no_sign_and_keeps_its_length():
    target = FieldTarget(kind="axis")
    values = random(3)
    fields = target.encode(values)
    assert np.allclose(fields, target.encode(-values))
    found = target.decode(fields)
    assert np.allclose(np.abs((found * values).sum(-1)), (values**2).sum(-1), rtol=1e-3)
    assert (np.take_along_axis(found, np.abs(found).argmax(-1)[..., None], -1) > 0).all()
    assert not target.decode(np.zeros_like(fields)).any()


@pytest.mark.parametrize("order", ["upper", "diagonal"])
def test_the_six_numbers_of_a_tensor_in_other_orders(order):
    values = random(6)
    found = FieldTarget(kind="tensor", order=order).decode(FieldTarget(kind="tensor", order=order).encode(values))
    assert np.allclose(matrices(found), matrices(values, ORDERS[order]), atol=1e-6)


@pytest.mark.parametrize(
    "rotation", [*grid_rotations(improper=True), rotation_matrix((1, 2, 3), 40), -rotation_matrix((1, 2, 3), 40)]
)
def test_vectors_and_tensors_turn_with_the_grid_reflections_included(rotation):
    matrix = rotation.numpy()
    vectors, tensors = random(3), random(6)
    target = FieldTarget(kind="vector")
    assert np.allclose(target.decode(target.turned(target.encode(vectors), matrix)), vectors @ matrix.T, atol=1e-5)
    target = FieldTarget(kind="tensor")
    turned = matrix @ matrices(tensors) @ matrix.T
    assert np.allclose(target.decode(target.turned(target.encode(tensors), matrix)), six(turned), atol=1e-5)
    pseudo = FieldTarget(kind="irreps", irreps="1x1e")  # such as the axis of a rotation
    expected = np.linalg.det(matrix) * vectors @ matrix.T
    assert np.allclose(pseudo.decode(pseudo.turned(pseudo.encode(vectors), matrix)), expected, atol=1e-5)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PIR", "SPL"])
def test_axes_of_files(orientation):
    """The same step between two voxels, told in each system, is the same vector of the world."""
    geometry = Geometry(SHAPE, make_affine(orientation, "oblique", "anisotropic"))
    index = np.array([1.0, -1, 2])
    world = geometry.affine[:3, :3] @ index
    along = index * geometry.spacing  # mm along the stored axes
    fsl = along * [-1 if geometry.handedness == "right" else 1, 1, 1]
    told = {"world": world, "lps": world * [-1, -1, 1], "voxel": along, "fsl": fsl}
    for axes, components in told.items():
        target = FieldTarget(kind="vector", axes=axes)
        assert np.allclose(target.file_axes(geometry) @ components, world), axes


def test_a_sheared_grid_has_the_nearest_axes_at_right_angles():
    geometry = Geometry(SHAPE, make_affine(shear=12))
    axes = FieldTarget(kind="vector", axes="voxel").file_axes(geometry)
    assert np.allclose(axes @ axes.T, np.eye(3))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "vektor"}, "vector"),
        ({"kind": "irreps"}, "go together"),
        ({"kind": "vector", "irreps": "1x1o"}, "go together"),
        ({"kind": "irreps", "irreps": "3xvectors"}, "is no irrep"),
        ({"kind": "scalar", "scale": 0}, "greater than 0"),
        ({"kind": "scalar", "axes": "left"}, "lps"),
    ],
)
def test_mistakes_are_named(keys, said):
    with pytest.raises(ValidationError, match=said):
        FieldTarget.model_validate(keys)


def test_directions_of_tensors_are_their_main_axes():
    target = FieldTarget(kind="tensor")
    tensor = np.zeros((1, 1, 1, 6), dtype=np.float32)
    tensor[..., 2] = 3  # yy
    rows = torch.from_numpy(target.encode(tensor).reshape(6, 1).T.copy())
    assert torch.allclose(target.directions(rows), torch.tensor([[0.0, 3.0, 0.0]]), atol=1e-6)
