"""PhiSNet on voxels: matrices that turn from both sides, and layers against sums written out."""

import itertools

import pytest
import torch

from voxseg.baselines.phisnet import Interaction, PhiSNet, SelfMixing, _message_basis, bernstein
from voxseg.steerable import contract, expand, solid_harmonics, wigner_3j
from voxseg.testing import assert_equivariant, grid_rotations, interpolated_error, rotate_field, rotation_matrix


def network(output="1x0e+1x2e", channels_out=6, **arguments):
    torch.manual_seed(0)
    settings = {"channels": 3, "modules": 2, "radius": 1.5, "radial": 3} | arguments
    net = PhiSNet(in_channels=1, out_channels=channels_out, output=output, **settings)
    with torch.no_grad():  # residuals are the identity in the beginning, which proves nothing
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def volume(size=6, dtype=torch.float64):
    return torch.randn(1, 1, size, size + 1, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def turn_voxels(matrices, rotation):
    """The voxels of a matrix field `[1, X, Y, Z, 3, 3]` moved, the matrices left as they are."""
    channels = matrices.flatten(4).movedim(-1, 1)
    return rotate_field(channels, rotation, "9x0e").movedim(1, -1).unflatten(-1, (3, 3))


@pytest.mark.parametrize(("output", "count"), [("1x0e+1x2e", 6), ("1x0e+1x1e+1x2e", 9)])
def test_matrices_of_a_turned_volume_are_turned_from_both_sides(output, count):
    net, x = network(output, count).double(), volume()
    with torch.no_grad():
        upright = net.matrices(x)
        assert upright.shape == (1, 6, 7, 6, 3, 3)
        assert float((upright - upright.mT).abs().max() > 1e-3) == (count == 9)
        for rotation in grid_rotations():
            found = net.matrices(rotate_field(x, rotation, "1x0e"))
            expected = rotation @ turn_voxels(upright, rotation) @ rotation.T
            assert float((found - expected).abs().max()) < 1e-10 * float(expected.abs().max())


def test_eigenvalues_stay_and_axes_turn_between_the_rotations_of_the_grid():
    net = network()
    error = interpolated_error(net, rotation_matrix((1, 2, 3), 40), "1x0e", "1x0e+1x2e", (16, 16, 16))
    assert error < 0.25


def test_what_the_network_expands_is_what_contraction_gives_back():
    net, x = network().double(), volume()
    with torch.no_grad():
        fields = net(x).movedim(1, -1)
        found = contract(net.matrices(x), 1, 1)
    assert torch.allclose(found[..., [0, 4, 5, 6, 7, 8]], fields, atol=1e-12)
    assert found[..., 1:4].abs().max() < 1e-12
    assert torch.allclose(expand(found, 1, 1), net.matrices(x), atol=1e-12)


@pytest.mark.parametrize(("degree", "field"), [(1, "2x(0,1)"), (2, "2x(0,1,2)")])
def test_layers_are_equivariant(degree, field):
    del field
    torch.manual_seed(1)
    types = "+".join(f"1x{k}e" for k in range(degree + 1))
    both = "+".join([types, types])
    for layer in (SelfMixing(2, degree), Interaction(2, degree, 2.0, 4)):

        def run(x, layer=layer):
            return layer(x.unflatten(1, (2, (degree + 1) ** 2))).flatten(1, 2)

        assert_equivariant(run, both, both, bound=None)


def test_kernels_are_those_of_the_formula():
    """Each product of a radial function, a harmonic and a coupling, written out neighbour by neighbour, is spanned."""
    basis = _message_basis(1, 1.5, 3)
    rows = basis.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-9)
    steps = [torch.tensor([i, j, k], dtype=torch.float64) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    explicit = []
    for l1, out in itertools.product((0, 1), repeat=2):
        for l2 in range(abs(l1 - out), l1 + out + 1):
            for n in range(3):
                kernel = torch.zeros_like(basis[0])
                for step in steps:
                    if 0 < float(step.norm()) <= 1.5:
                        harmonics = solid_harmonics(l2, step / step.norm())
                        block = torch.einsum("ijk,j->ki", wigner_3j(l1, l2, out), harmonics)
                        i, j, k = (1 + step).long().tolist()
                        block = block * float(bernstein(step.norm()[None], 3, 2.5)[0, n])
                        kernel[out**2 : (out + 1) ** 2, l1**2 : (l1 + 1) ** 2, i, j, k] = block
                explicit.append(kernel.flatten())
    formula = torch.stack(explicit)
    assert torch.allclose(formula @ rows.T @ rows, formula, atol=1e-6)
    assert torch.linalg.matrix_rank(formula, rtol=1e-3) == len(rows)  # two distances: three functions are two


def test_messages_come_from_the_neighbour_that_the_kernel_names():
    torch.manual_seed(2)
    layer = Interaction(1, 0, 1.0, 1).double()
    x = torch.zeros(1, 1, 1, 5, 5, 5, dtype=torch.float64)
    x[..., 2, 2, 2] = 1
    message = (layer(x) - x).detach()
    near = torch.zeros(5, 5, 5, dtype=torch.bool)
    near[[1, 3, 2, 2, 2, 2], [2, 2, 1, 3, 2, 2], [2, 2, 2, 2, 1, 3]] = True
    assert torch.allclose(message[0, 0, 0][near], message[0, 0, 0, 1, 2, 2])
    assert not message[0, 0, 0][~near].any()
    assert message.any()


def test_radial_functions_vanish_smoothly_at_the_cut_off_and_sum_to_it():
    distance = torch.linspace(0, 4, 41, dtype=torch.float64)
    values = bernstein(distance, 6, 3.0)
    assert not values[distance >= 3].any()
    assert float(values[29].max()) < 1e-6
    x = distance[:30]
    assert torch.allclose(values[:30].sum(1), torch.exp(-(x**2) / ((3 - x) * (3 + x))))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"degree": 3}, "degree is 3"),
        ({"channels": 0}, "at least 1"),
        ({"output": "1x2e", "out_channels": 4}, "has 5 channels"),
        ({"output": "1x2e", "out_channels": 5, "degree": 1}, "needs degree 2"),
    ],
)
def test_arguments_that_do_not_fit_are_told(arguments, said):
    with pytest.raises(ValueError, match=said):
        PhiSNet(**{"in_channels": 1, "out_channels": 2, **arguments})
    with pytest.raises(ValueError, match="no field of 3x3 matrices"):
        network("2x0e", 2).matrices(volume(dtype=torch.float32))
