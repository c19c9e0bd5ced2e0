"""Fields of finite groups: layers of every kind of representation, and networks exact to rounding."""

import pytest
import torch

from voxseg.baselines.finite_groups import finite_group
from voxseg.baselines.homogeneous import FiniteActivation, FiniteConv3d, FiniteField, FiniteNorm, Homogeneous, blur_down
from voxseg.testing import assert_equivariant, grid_rotations, rotate_field

MIXED = {
    "O": "1xregular+2xtrivial+1xvector+1xquotient:C4+1xirrep:2+1xirrep:4",
    "Oh": "1xquotient:C4v+2xtrivial+1xvector+1xdeterminant+1xirrep:9",
    "mirror": "2xregular+1xtrivial+1xdeterminant+1xvector",
    "C4": "1xregular+1xirrep:2",
}


@pytest.mark.parametrize("name", MIXED)
def test_layers_between_fields_of_all_kinds(name: str) -> None:
    torch.manual_seed(0)
    of, field = finite_group(name), FiniteField.parse(name, MIXED[name])
    convolution, norm, activation = FiniteConv3d(field, field), FiniteNorm(field), FiniteActivation(field)
    layer = torch.nn.Sequential(convolution, norm, activation).double()
    with torch.no_grad():
        for parameter in (*norm.parameters(), *activation.parameters(), *convolution.parameters()):
            parameter.normal_()  # none at its start, where it might not matter
    x = torch.randn(2, field.channels, 5, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
        for h in range(len(of)):
            rotation, turn = of.elements[h], field.matrix(h)
            moved = torch.einsum("ij,bjxyz->bixyz", turn, rotate_field(x, rotation, f"{field.channels}x0e"))
            expected = torch.einsum("ij,bjxyz->bixyz", turn, rotate_field(y, rotation, f"{field.channels}x0e"))
            torch.testing.assert_close(layer(moved), expected, atol=1e-12, rtol=0)


def test_the_norm_keeps_the_invariant_of_a_single_regular_field() -> None:
    """Its mean, which is all that logits are read from."""
    norm = FiniteNorm(FiniteField.parse("O", "1xregular"))
    values = torch.randn(24, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    low, high = norm(torch.stack([values - values.mean() + mean for mean in (-1.0, 2.0)])).mean(1).flatten()
    assert low < -0.5
    assert high > 0.8


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"symmetry": "O"}, 24),
        ({"symmetry": "O", "levels": ("4xtrivial+1xvector", "4xtrivial+1xquotient:C3+1xirrep:2")}, 24),
        ({"symmetry": "Oh", "levels": ("1xquotient:O+2xtrivial", "1xregular")}, 48),
        ({"symmetry": "mirror", "levels": ("4xregular", "6xregular")}, 2),
    ],
)
@pytest.mark.parametrize("size", [(9, 9, 9), (8, 8, 8)])
def test_networks_are_exact_in_float64(arguments: dict, count: int, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = Homogeneous(in_channels=1, out_channels=2, **arguments).double()
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    assert len(network.rotations()) == count
    with torch.no_grad():
        y = network(x)
        for rotation in network.rotations():
            found, expected = network(rotate_field(x, rotation, "1x0e")), rotate_field(y, rotation, "2x0e")
            torch.testing.assert_close(found, expected, atol=1e-12 * float(y.abs().max()), rtol=0)


@pytest.mark.parametrize(("symmetry", "improper"), [("O", False), ("Oh", True)])
def test_networks_turn_with_their_input(symmetry: str, improper: bool) -> None:
    torch.manual_seed(0)
    network = Homogeneous(1, 2, symmetry, ("2xtrivial+1xvector", "1xquotient:C3+1xvector")).double()
    # Free kernels on 3^3 voxels promise the grid's rotations and no others.
    assert_equivariant(network, "1x0e", "2x0e", size=(8, 8, 8), dtype=torch.float64, improper=improper, bound=None)


def test_a_rotation_outside_the_group_changes_the_logits() -> None:
    torch.manual_seed(0)
    network = Homogeneous(in_channels=1, out_channels=2, symmetry="mirror", levels=("2xregular",))
    x = torch.randn(1, 1, 8, 8, 8)
    inside = [r.tolist() for r in network.rotations()]
    with torch.no_grad():
        y = network(x)
        for rotation in grid_rotations(improper=True):
            error = (network(rotate_field(x, rotation, "1x0e")) - rotate_field(y, rotation, "2x0e")).abs().max()
            assert (error < 1e-5) == (rotation.tolist() in inside)


def test_gradients_reach_every_weight_and_white_noise_keeps_its_variance() -> None:
    torch.manual_seed(0)
    field = FiniteField.parse("O", "1xquotient:C4+2xtrivial+1xvector")
    layer = FiniteConv3d(field, field).double()
    x = torch.randn(1, field.channels, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    y = layer(torch.randn(1, field.channels, 16, 16, 16, dtype=torch.float64))[:, :, 1:-1, 1:-1, 1:-1]
    assert 0.6 < y.std() < 1.6
    y.square().mean().backward()
    assert all(p.grad is not None and (p.grad.abs().max() > 0) for p in layer.weights.values())


def test_blur_down_of_constants_and_of_any_size() -> None:
    x = torch.ones(1, 2, 9, 8, 11)
    y = blur_down(x)
    assert y.shape == (1, 2, 5, 4, 6)
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1, 1:-1], torch.ones(1, 2, 3, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"symmetry": "I"}, "no group 'I'"),
        ({"levels": ("4xregulars",)}, "no representation"),
        ({"levels": ("4 regular",)}, "is no field"),
        ({"size": 4}, "odd"),
    ],
)
def test_mistakes_are_told(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Homogeneous(in_channels=1, out_channels=2, **arguments)
