"""Tetris shapes: their volumes, and what networks of SO(3) and O(3) can tell apart of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from voxseg.baselines.classifier import FieldClassifier, PooledNorm
from voxseg.baselines.e3nn_gates import E3nnLayers
from voxseg.baselines.se3cnn import SE3Layers
from voxseg.baselines.tetris import CHIRAL, SHAPES, tetris
from voxseg.networks.unet import LayerFactory
from voxseg.steerable import FieldType
from voxseg.testing import assert_equivariant, grid_rotations, rotate_field, rotation_matrix

SO3 = ["4x0e+6x1e+4x2e"] * 3
O3 = ["4x0e+6x1o+4x2e", "4x0e+3x0o+6x1o+3x1e+3x2e+3x2o", "4x0e+3x0o+6x1o+3x1e+3x2e"]
STRIDES = [1, 2, 1]


def with_pseudoscalar(outputs: Tensor) -> Tensor:
    """Logits of seven scalars and a pseudoscalar: its sign tells the mirror images apart."""
    sign = outputs[:, 7:]
    return torch.cat([sign * outputs[:, :1], -sign * outputs[:, :1], outputs[:, 1:7]], 1)


def trained(network: FieldClassifier, steps: int, rate: float, logits: Callable[[Tensor], Tensor]) -> FieldClassifier:
    """Train on every shape in one pose."""
    volumes, classes = 4 * tetris().float(), torch.arange(len(SHAPES))
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = F.cross_entropy(logits(network(volumes)), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.norm.momentum = 1.0  # the running means are those of the final weights
    with torch.no_grad():
        network(volumes)
    return network.eval()


def right_in_all_poses(network: FieldClassifier, logits: Callable[[Tensor], Tensor]) -> list[int]:
    """Shapes told right in each of the 24 poses of the grid."""
    volumes, classes = 4 * tetris().float(), torch.arange(len(SHAPES))
    with torch.no_grad():
        return [
            int((logits(network(rotate_field(volumes, rotation, "1x0e"))).argmax(1) == classes).sum())
            for rotation in grid_rotations()
        ]


def test_shapes_turn_and_two_are_mirror_images() -> None:
    upright = tetris()
    assert upright.shape == (8, 1, 12, 12, 12)
    for rotation in grid_rotations():
        torch.testing.assert_close(tetris(rotation), rotate_field(upright, rotation, "1x0e"), rtol=0, atol=1e-12)
    first, second = (upright[number] for number in CHIRAL)
    torch.testing.assert_close(first.flip(1), second, rtol=0, atol=1e-12)
    turned = [rotate_field(first[None], rotation, "1x0e")[0] for rotation in grid_rotations()]
    assert all((volume - second).abs().max() > 0.1 for volume in turned), "no rotation brings one to the other"
    torch.testing.assert_close(
        upright.sum((1, 2, 3, 4)), torch.full((8,), 32.0, dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_a_turn_between_those_of_the_grid_keeps_mass_and_centre() -> None:
    turned = tetris(rotation_matrix((1, 2, 3), 37), size=14)
    axis = torch.arange(14, dtype=torch.float64) - 6.5
    torch.testing.assert_close(turned.sum((1, 2, 3, 4)), torch.full((8,), 32.0, dtype=torch.float64), rtol=1e-3, atol=0)
    assert torch.einsum("bcxyz,x->b", turned, axis).abs().max() < 1e-2


def test_a_shift_is_along_the_axes_of_the_grid_in_any_pose() -> None:
    rotation = rotation_matrix((1, 2, 3), 37)
    shift = torch.zeros(len(SHAPES), 3)
    shift[3] = torch.tensor([1.0, -2.0, 0.0])
    still, moved = tetris(rotation, size=20), tetris(rotation, size=20, shift=shift)
    torch.testing.assert_close(moved[3], still[3].roll((1, -2), (1, 2)), rtol=0, atol=1e-6)
    assert moved[:3].equal(still[:3])
    assert moved[4:].equal(still[4:])


def test_pooled_norm_commutes_with_reflections_and_keeps_running_means() -> None:
    torch.manual_seed(0)
    field = FieldType("2x0e+2x0o+1x1o")
    norm = PooledNorm(field, momentum=1.0)
    x = torch.randn(6, field.channels, 1, 1, 1) * 3 + 1
    y = norm(x)
    torch.testing.assert_close(y[:, :2].mean(0).flatten(), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(y[:, 2:4].square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(norm.eval()(x), y)
    assert_equivariant(norm, field, field, size=(1, 1, 1), improper=True)


@pytest.mark.parametrize(
    "layers",
    [
        E3nnLayers(group="O3", norm="none"),
        SE3Layers(group="O3", norm=False),
        SE3Layers(group="O3", norm=False, size=7, sigma=1.0, kernels="solid_harmonics"),
    ],
)
def test_even_outputs_of_o3_cannot_tell_mirror_images_apart(layers: LayerFactory) -> None:
    torch.manual_seed(0)
    even = ["4x0e+3x1o+2x2e"] * 3
    network = FieldClassifier(layers, 1, even, STRIDES, "8x0e").double().eval()
    with torch.no_grad():
        logits = network(4 * tetris())
    first, second = CHIRAL
    torch.testing.assert_close(logits[first], logits[second], rtol=0, atol=1e-9 * logits.abs().max().item())
    assert (logits[2:, None] - logits[None, 2:]).abs().amax(-1)[~torch.eye(6, dtype=torch.bool)].min() > 1e-6


def test_a_pseudoscalar_of_o3_changes_its_sign_between_mirror_images() -> None:
    torch.manual_seed(0)
    layers = E3nnLayers(group="O3", norm="none")
    network = FieldClassifier(layers, 1, O3, STRIDES, "1x0e+1x0o").double().eval()
    with torch.no_grad():
        outputs = network(40 * tetris())[:, 1]
    assert outputs[0].abs() > 1e-6
    torch.testing.assert_close(outputs[0], -outputs[1], rtol=1e-6, atol=0)
    others = outputs[[2, 3, 4, 6, 7]]  # with a mirror of their own
    assert others.abs().max() < 1e-9 * outputs[0].abs() + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "levels", "out", "steps", "rate", "logits", "right"),
    [
        (E3nnLayers(norm="none"), SO3, "8x0e", 80, 0.05, torch.clone, 8),
        (SE3Layers(), SO3, "8x0e", 80, 0.03, torch.clone, 8),
        (E3nnLayers(group="O3", norm="none"), O3, "7x0e+1x0o", 60, 0.02, with_pseudoscalar, 8),
        (E3nnLayers(group="O3", norm="none"), O3, "8x0e", 80, 0.05, torch.clone, 7),
    ],
    ids=["e3nn-SO3", "se3cnn-SO3", "e3nn-O3-pseudoscalar", "e3nn-O3-even"],
)
def test_trained_on_one_pose_right_in_all(layers, levels, out, steps, rate, logits, right) -> None:
    torch.manual_seed(0)
    network = trained(FieldClassifier(layers, 1, levels, STRIDES, out), steps, rate, logits)
    assert right_in_all_poses(network, logits) == [right] * 24
