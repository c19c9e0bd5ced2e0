"""The steerable network of any group: layers between all irreps, the whole network, and phase."""

import math

import pytest
import torch
from torch import Tensor

from voxseg.baselines.any_group import AnyGroup, GroupConv3d, SelfProduct, _kernels
from voxseg.baselines.generators import Representation, representation_on
from voxseg.baselines.groups import Group, GroupField, group
from voxseg.steerable import solid_harmonics
from voxseg.testing import assert_equivariant, grid_rotations, interpolated_error, rotate_field, rotation_matrix

FIELDS = {
    "SO3": "2x0e+1x1e+1x2e",
    "O3": "2x0e+1x0o+1x1e+1x1o+1x2e",
    "SO2_z": "2x0e+1x1e+1x2e",
    "O2_z": "2x0e+1x0o+1x1e+1x2e",
    "SO2_z_mirror": "2x0e+1x0o+1x1e+1x1o+1x2e",
}


def _components(of: Group, field: str, rotation: Tensor) -> Tensor:
    """What an orthogonal matrix does to the components, from functions of position and not from the generators."""
    one = Representation(torch.zeros(0, 3, 3, dtype=torch.float64), rotation[None])
    blocks = []
    for irrep in GroupField(of, field).irreps:
        degree = irrep.degree
        if of.name in ("SO3", "O3"):
            natural = representation_on(lambda p, degree=degree: solid_harmonics(degree, p), one).finite[0]
            odd = torch.linalg.det(rotation) < 0
            sign = irrep.parity * (-1) ** degree if odd else 1
        else:
            natural = representation_on(lambda p, degree=degree: _frequency(p, degree), one).finite[0]
            mirrored = (torch.linalg.det(rotation) < 0) if of.name == "O2_z" else rotation[2, 2] < 0
            sign = irrep.parity if mirrored else 1
        blocks += [sign * natural] * irrep.multiplicity
    return torch.block_diag(*blocks)


def _frequency(points: Tensor, degree: int) -> Tensor:
    if degree == 0:
        return torch.ones_like(points[:, :1])
    radius, angle = points[:, :2].norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
    return torch.stack([radius**degree * torch.cos(degree * angle), radius**degree * torch.sin(degree * angle)], -1)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_layers_commute_with_the_group_and_with_nothing_more(name: str, stride: int) -> None:
    torch.manual_seed(0)
    of = group(name)
    sigma_z = 1.2 if of.fixes_axis() else None
    layer = GroupConv3d(of, FIELDS[name], FIELDS[name], sigma_z=sigma_z, stride=(stride,) * 3).double()
    x = torch.randn(1, layer.field_in.channels, 6, 6, 6, dtype=torch.float64)
    errors = {True: 0.0, False: math.inf}
    for rotation in grid_rotations(improper=True):
        moved = rotate_field(x, rotation, f"{x.shape[1]}x0e")
        member = of.element(rotation)
        turn = _components(of, FIELDS[name], rotation) if member else torch.eye(x.shape[1], dtype=torch.float64)
        with torch.no_grad():
            y = layer(x)
            expected = torch.einsum("ij,bjxyz->bixyz", turn, rotate_field(y, rotation, f"{y.shape[1]}x0e"))
            found = layer(torch.einsum("ij,bjxyz->bixyz", turn, moved))
        error = ((found - expected).abs().max() / y.abs().max()).item()
        errors[member] = max(errors[member], error) if member else min(errors[member], error)
    assert errors[True] < 1e-10
    assert errors[False] > 1e-2


def test_kernels_of_so3_are_spherical_harmonics_and_those_of_an_axis_many_more() -> None:
    counts = {name: [len(_kernels(name, a, "0e")) for a in ("0e", "1e", "2e")] for name in ("SO3", "SO2_z", "O2_z")}
    assert counts["SO3"] == [2, 1, 1]  # Gaussian and trace; degree 1; degree 2
    assert counts["SO2_z"] == [4, 4, 2]  # 1, z, zz, xx + yy; (x, y) and z (x, y), turned by 90 degrees too; xx - yy
    assert counts["O2_z"] == [4, 2, 1]


@pytest.mark.parametrize("name", [*FIELDS, "U1"])
def test_networks(name: str) -> None:
    torch.manual_seed(0)
    levels = ("3x0e+2x1e+1x2e", "4x0e+2x1e+1x2e") if name != "O3" else ("3x0e+2x1o+1x2e", "4x0e+2x1o+1x2e")
    channels = 2 if name == "U1" else 1
    network = AnyGroup(in_channels=channels, out_channels=3, symmetry=name, levels=levels).double()
    x = torch.randn(1, channels, 8, 9, 8, dtype=torch.float64)
    reference = network(x)
    assert reference.shape == (1, 3, 8, 9, 8)
    x = torch.randn(1, channels, 9, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        reference = network(x)
        for rotation in network.rotations():
            found = network(rotate_field(x, rotation, f"{channels}x0e"))
            torch.testing.assert_close(found, rotate_field(reference, rotation, "3x0e"), atol=1e-9, rtol=0)


def test_a_turn_about_z_between_the_grid_rotations() -> None:
    """By any angle within the bound about z; not within it about x, where the kernels are longer along z."""
    torch.manual_seed(0)
    layer = GroupConv3d(group("O2_z"), "1x0e", "2x0e", sigma=1.0, sigma_z=1.5)
    errors = {}
    for axis in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)):
        errors[axis] = interpolated_error(layer, rotation_matrix(axis, 37.0), "1x0e", "2x0e", (20, 20, 20))
    assert errors[0.0, 0.0, 1.0] < 0.02
    assert errors[1.0, 0.0, 0.0] > 0.1


def test_so3_passes_the_common_test() -> None:
    torch.manual_seed(0)
    network = AnyGroup(in_channels=1, out_channels=2, symmetry="SO3", levels=("4x0e+2x1e+1x2e",), sigma=1.0)
    assert_equivariant(network, "1x0e", "2x0e", size=(18, 18, 18), bound=0.15)


def test_phase_of_a_complex_image() -> None:
    """Logits do not see a phase; a field of charge n turns by n times it."""
    torch.manual_seed(0)
    network = AnyGroup(
        in_channels=4, out_channels=2, symmetry="U1", levels=("4x0e+2x1e+1x2e", "4x0e+2x1e+1x2e")
    ).double()
    x = torch.randn(1, 4, 8, 8, 8, dtype=torch.float64)
    field = GroupField(group("U1"), "4x0e+2x1e+1x2e")
    with torch.no_grad():
        for angle in (0.4, 2.0):
            turned = torch.einsum("ij,bjxyz->bixyz", _phase("2x1e", angle), x)
            torch.testing.assert_close(network(turned), network(x), atol=1e-10, rtol=0)
            first = network.unet.encoder[0]
            features, expected = first(turned), torch.einsum("ij,bjxyz->bixyz", _phase(str(field), angle), first(x))
            torch.testing.assert_close(features, expected, atol=1e-10, rtol=0)
        # The relative phase of two images is seen.
        other = x.clone()
        other[:, :2] = torch.einsum("ij,bjxyz->bixyz", _phase("1x1e", 1.0), x[:, :2])
        assert (network(other) - network(x)).abs().max() > 1e-3


def _phase(field: str, angle: float) -> Tensor:
    blocks = []
    for irrep in GroupField(group("U1"), field).irreps:
        c, s = math.cos(irrep.degree * angle), math.sin(irrep.degree * angle)
        block = torch.tensor([[c, -s], [s, c]], dtype=torch.float64) if irrep.degree else torch.ones(1, 1).double()
        blocks += [block] * irrep.multiplicity
    return torch.block_diag(*blocks)


def test_gradients_and_the_folded_form() -> None:
    torch.manual_seed(0)
    layer = GroupConv3d(group("O2_z"), "1x0e+1x1e", "1x0e+1x1e", sigma_z=1.2).double()
    x = torch.randn(1, 3, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,), atol=1e-6)
    folded = layer.fold()
    torch.testing.assert_close(folded(x), layer(x), atol=1e-12, rtol=0)


def test_products_come_with_their_irreps() -> None:
    product = SelfProduct(group("U1"), "2x1e", "1x0e+1x1e+1x2e")
    assert str(product.field_out) == "2x0e+4x2e"  # |z|^2, and z^2 times a complex number


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"symmetry": "SE3"}, "no group 'SE3'"),
        ({"symmetry": "O2_z", "levels": ("2x0e+1x1o",)}, "no irrep 1o"),
        ({"symmetry": "SO3", "sigma_z": 2.0}, "turns z"),
        ({"symmetry": "U1"}, "real and imaginary"),
    ],
)
def test_mistakes_are_told(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AnyGroup(in_channels=1, out_channels=2, **arguments)
