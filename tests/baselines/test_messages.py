"""Depthwise messages: e3nn's tensor product, on voxels as between points, smooth in the offset, at other spacings."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from e3nn import o3

from voxseg.baselines.base import sampled
from voxseg.baselines.messages import DepthwiseProduct, Graph, Messages, bessel_functions, cutoff
from voxseg.steerable import FieldType, Lattice, solid_harmonics
from voxseg.testing import assert_equivariant, interpolated_error, rotation_matrix

IN, OUT = "1x0e+2x1e+2x0e+1x2e", "2x0e+2x1e+2x2e"


def all_voxels(size: tuple[int, int, int], spacing: tuple[float, float, float], radius: float) -> Graph:
    """Every pair of voxels within the radius, by brute force."""
    index = torch.tensor(list(itertools.product(*map(range, size))), dtype=torch.float64)
    places = index * torch.tensor(spacing, dtype=torch.float64)
    offsets = places[None] - places[:, None]
    target, source = (offsets.norm(dim=-1) < radius).nonzero(as_tuple=True)
    return Graph(source, target, offsets[target, source], len(index))


@pytest.mark.parametrize("group", ["SO3", "O3"])
def test_the_product_is_that_of_e3nn(group: str) -> None:
    torch.manual_seed(0)
    parity = -1 if group == "O3" else 1
    field = "3x0e+2x1o+1x2e" if group == "O3" else "3x0e+2x1e+1x2e"
    kinds = [irrep.name for irrep in FieldType(field).irreps]
    ours = DepthwiseProduct(FieldType(field), 2, kinds, group)  # type: ignore[arg-type]
    harmonics = o3.Irreps.spherical_harmonics(2, p=parity)
    middle = o3.Irreps([])
    instructions = []
    for i, (count, irrep) in enumerate(o3.Irreps(field)):
        for j, (_, harmonic) in enumerate(harmonics):
            for made in irrep * harmonic:
                if str(made) in kinds:
                    instructions.append((i, j, len(middle), "uvu", True))
                    middle = middle + o3.Irreps([(count, made)])
    theirs = o3.TensorProduct(
        field,
        harmonics,
        middle,
        instructions,
        shared_weights=False,
        internal_weights=False,
        irrep_normalization="component",
        path_normalization="element",
    ).double()
    assert theirs.weight_numel == ours.weights
    x = torch.randn(7, ours.field_in.channels, dtype=torch.float64)
    points = torch.randn(7, 3, dtype=torch.float64)
    points = points / points.norm(dim=-1, keepdim=True)
    weights = torch.randn(7, ours.weights, dtype=torch.float64)
    parts = [solid_harmonics(degree, points) for degree in range(3)]
    # e3nn's coefficients are of single precision.
    found = ours.on_edges(x, weights, parts)
    torch.testing.assert_close(found, theirs(x, torch.cat(parts, -1), weights), rtol=1e-5, atol=1e-5)
    matrix = ours.matrix([part[3] for part in parts]) * (weights[3] @ ours.spread.double())[:, None]
    torch.testing.assert_close(matrix @ x[3], found[3], rtol=1e-12, atol=1e-12)


def test_cut_off_and_bessel_functions() -> None:
    u = torch.linspace(0, 1.2, 25, dtype=torch.float64, requires_grad=True)
    f = cutoff(u)
    slope = torch.autograd.grad(f.sum(), u, create_graph=True)[0]
    curvature = torch.autograd.grad(slope.sum(), u)[0]
    assert f[0] == 1
    torch.testing.assert_close(f.detach(), (1 - 28 * u**6 + 48 * u**7 - 21 * u**8).detach() * (u.detach() < 1))
    assert (f[1:].diff() <= 0).all()
    beyond = u.detach() >= 1 - 1e-12
    for values in (f, slope, curvature):
        assert values[beyond].abs().max() < 1e-9
    # Orthonormal in the ball with the weight r^2: sqrt(2 / c) sin(n pi r / c) / r, c = 1.
    r = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    basis = bessel_functions(r, 4)
    gram = torch.einsum("rn,rm,r->nm", basis, basis, r.square()) / 2000
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.isfinite(bessel_functions(torch.zeros(1), 4)).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("intensities", [0, 1])
def test_messages_turn(stride: int, intensities: int) -> None:
    torch.manual_seed(0)
    messages = Messages(IN, OUT, 1.5 if intensities else 2.5, intensities=intensities).double()

    def run(x: torch.Tensor) -> torch.Tensor:
        there = x[:, :1] if intensities else None
        here = None
        if there is not None:
            here = sampled(there, (stride,) * 3)
        return messages(x, None, (stride,) * 3, here, there)

    size = (4, 5, 4) if intensities else (6, 7, 8)
    assert_equivariant(run, IN, OUT, size=size, dtype=torch.float64, bound=None)


def test_other_turns_get_better_on_finer_grids() -> None:
    torch.manual_seed(0)
    field = "1x0e+1x1e"
    messages = Messages(field, field, 2.5, bessel=2).double()
    rotation, errors = rotation_matrix((1, 2, 3), 33), []
    for spacing in (1.0, 0.6):
        grid, size = (spacing,) * 3, (round(12 / spacing),) * 3
        run = partial(messages, spacing=grid)
        errors.append(
            interpolated_error(run, rotation, field, field, size, grid, dtype=torch.float64, blob_width=1.8 / spacing)
        )
    assert errors[0] < 0.15
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.9, 1.0)])
@pytest.mark.parametrize("intensities", [0, 2])
def test_on_voxels_as_between_points(spacing: tuple[float, float, float], intensities: int) -> None:
    """Where all voxels are points the two forms agree, also at the border, where neighbours are missing in both."""
    torch.manual_seed(0)
    messages = Messages(IN, OUT, 2.5, intensities=intensities).double()
    size = (6, 5, 4)
    x, image = (torch.randn(1, n, *size, dtype=torch.float64) for n in (14, max(intensities, 1)))
    graph = all_voxels(size, spacing, 2.5)
    volume = spacing[0] * spacing[1] * spacing[2]
    ends = image[0].flatten(1).T if intensities else None
    sparse = messages.on_points(x[0].flatten(1).T, graph, ends, volume)
    dense = messages(x, spacing, (1, 1, 1), *((image, image) if intensities else (None, None)))
    torch.testing.assert_close(dense[0].flatten(1).T, sparse, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("size", [(6, 6, 6), (7, 6, 5)])
def test_without_weights_for_intensities_the_data_do_not_matter(stride: tuple[int, int, int], size) -> None:
    torch.manual_seed(0)
    messages = Messages(IN, OUT, 2.5, intensities=2).double()
    x, there = (torch.randn(2, n, *size, dtype=torch.float64) for n in (14, 2))
    here = sampled(there, stride)
    independent = messages(x, None, stride)
    assert (messages(x, None, stride, here, there) - independent).abs().max() > 0.1
    with torch.no_grad():
        messages.radial.ends.zero_()
    torch.testing.assert_close(messages(x, None, stride, here, there), independent, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("intensities", [0, 1])
def test_gradients(intensities: int) -> None:
    torch.manual_seed(0)
    messages = Messages("1x0e+1x1e", "1x0e+1x1e", 1.9, bessel=2, width=3, intensities=intensities).double()
    x = torch.randn(1, 4, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    image = torch.randn(1, 1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in messages.named_parameters()]

    def run(x: torch.Tensor, image: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        values = dict(zip(names, weights, strict=True))
        ends = (image, image) if intensities else (None, None)
        return torch.func.functional_call(messages, values, (x, None, (1, 1, 1), *ends))

    weights = [weight.detach().requires_grad_() for weight in messages.parameters()]
    assert torch.autograd.gradcheck(run, (x, image, *weights), fast_mode=True)


def test_unit_size_at_the_start_and_integrals_on_other_grids() -> None:
    torch.manual_seed(0)
    messages = Messages("8x0e+4x1e+2x2e", "8x0e+4x1e+2x2e", 2.5).double()
    with torch.no_grad():
        inside = messages(torch.randn(1, 30, 14, 14, 14, dtype=torch.float64))[..., 3:-3, 3:-3, 3:-3]
        for part in (inside[:, :8], inside[:, 8:20], inside[:, 20:]):
            assert 0.5 < part.std() < 2.0
        smooth = Messages("4x0e", "4x0e", 2.5, bessel=2).double()
        # What a constant field becomes is an integral over the kernel, nearly the same on every grid.
        sums = [
            smooth.kernel(Lattice(spacing)).sum((2, 3, 4))
            for spacing in ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.7, 0.8, 0.9))
        ]
    assert (sums[0] - sums[1]).norm() < 0.05 * sums[1].norm()
    assert (sums[2] - sums[1]).norm() < 0.05 * sums[1].norm()


def test_longer_voxels_are_interpolated_so_that_degree_2_does_not_answer_to_constants() -> None:
    torch.manual_seed(0)
    messages = Messages("2x0e", "1x0e+2x2e", 2.5).double()
    with torch.no_grad():
        for spacing in ((1.0, 1.0, 2.0), (1.5, 1.0, 2.0), (1.5, 1.5, 1.5)):
            kernel = messages.kernel(Lattice(spacing))
            assert kernel[1:].sum((2, 3, 4)).norm() < 0.02 * kernel[1:].abs().sum((2, 3, 4)).norm(), spacing


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no path leads from '2x0e' with harmonics up to 1 to 2e"):
        Messages("2x0e", "1x0e+1x2e", 2.5, degree=1)
    with pytest.raises(ValueError, match="radius has to reach beyond the next voxel"):
        Messages("2x0e", "1x0e", 1.0)
