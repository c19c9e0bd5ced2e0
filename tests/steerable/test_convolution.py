"""The steerable convolution against its dense form, autograd and e3nn, and its equivariance."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from e3nn import o3

from voxseg.steerable import (
    FieldNorm,
    FieldType,
    Gate,
    KernelBasis,
    Lattice,
    ShellBasis,
    SolidHarmonicBasis,
    SteerableConv3d,
    upsample,
    ways,
)
from voxseg.steerable.bases import tap_positions
from voxseg.steerable.convolution import Group
from voxseg.steerable.linear import channel_bias
from voxseg.steerable.separable import AxisTaps, separable_convolution
from voxseg.testing import assert_equivariant, exact_error, grid_rotations, interpolated_error, rotation_matrix

FIELD = "3x0e+2x1e+1x2e"
O3_FIELD = "2x0e+1x0o+1x1e+1x1o+1x2e+1x2o"
SIZES = [(12, 12, 12), (13, 13, 13), (11, 12, 14)]
STRIDES = [(1, 1, 1), (2, 2, 2)]


def make(basis: str = "solid_harmonic", stride: tuple[int, int, int] = (1, 1, 1), **options: object) -> SteerableConv3d:
    torch.manual_seed(0)
    sigma = 1.1 if max(stride) > 1 else 0.8
    kernels: KernelBasis = SolidHarmonicBasis(sigma, 1.0) if basis == "solid_harmonic" else ShellBasis(5.0, 1.0)
    field = O3_FIELD if options.get("group") == "O3" else FIELD
    layer = SteerableConv3d(field, field, kernels, stride=stride, **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("basis", ["solid_harmonic", "shells"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SIZES)
def test_equivariant(basis: str, stride: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    layer = make(basis, stride)
    assert_equivariant(layer, FIELD, FIELD, size=size, bound=None)
    assert_equivariant(layer.double(), FIELD, FIELD, size=size, bound=None, dtype=torch.float64)


@pytest.mark.parametrize(
    ("basis", "stride", "bound"),
    [("solid_harmonic", 1, 0.01), ("solid_harmonic", 2, 0.04), ("shells", 1, 0.12), ("shells", 2, 0.12)],
)
def test_equivariant_between_grid_rotations(basis: str, stride: int, bound: float) -> None:
    assert_equivariant(
        make(basis, (stride,) * 3), FIELD, FIELD, size=(24, 24, 24), bound=bound, angles=(15, 30, 45, 77)
    )


def test_degree_two_alone_is_equivariant_between_grid_rotations() -> None:
    torch.manual_seed(0)
    layer = SteerableConv3d("4x0e", "4x2e", SolidHarmonicBasis(0.8, 1.0))
    for angle in (30.0, 45.0):
        error = interpolated_error(layer, rotation_matrix((1, -2, 1), angle), "4x0e", "4x2e", blob_width=1.5)
        assert error < 0.1, angle


@pytest.mark.parametrize("basis", ["solid_harmonic", "shells"])
@pytest.mark.parametrize("stride", STRIDES)
def test_o3_commutes_with_reflections(basis: str, stride: tuple[int, int, int]) -> None:
    layer = make(basis, stride, group="O3").double()
    assert_equivariant(layer, O3_FIELD, O3_FIELD, bound=None, dtype=torch.float64, improper=True)


def test_so3_does_not_commute_with_reflections() -> None:
    layer = make().double()
    reflection = next(r for r in grid_rotations(improper=True) if torch.linalg.det(r) < 0)
    x = torch.randn(1, layer.field_in.channels, 9, 9, 9, dtype=torch.float64)
    assert exact_error(layer, x, reflection, FIELD, FIELD) > 0.1


def test_a_longer_reach_turns_more_exactly() -> None:
    errors = []
    for reach, taps in ((2.5, 7), (4.0, 9)):
        torch.manual_seed(0)
        layer = SteerableConv3d("4x0e", "4x2e", SolidHarmonicBasis(1.0, 1.0, reach)).double()
        assert layer.dense_kernel().shape[2:] == (taps,) * 3
        rotation = rotation_matrix((1, -2, 1), 45)
        errors.append(interpolated_error(layer, rotation, "4x0e", "4x2e", dtype=torch.float64, blob_width=2.0))
    assert errors[1] < 0.5 * errors[0], errors


def test_anisotropic_grid() -> None:
    torch.manual_seed(0)
    spacing = (1.0, 1.0, 2.0)
    layer = SteerableConv3d(FIELD, FIELD, SolidHarmonicBasis(1.6, 1.0), spacing)
    assert_equivariant(layer, FIELD, FIELD, size=(24, 24, 14), spacing=spacing, bound=0.03)
    down = SteerableConv3d(FIELD, FIELD, SolidHarmonicBasis(1.6, 1.0), spacing, stride=(2, 2, 1))
    assert_equivariant(down, FIELD, FIELD, size=(13, 13, 8), spacing=spacing, bound=None)


def test_the_same_weights_are_the_same_operator_on_another_grid() -> None:
    """A smooth field convolved at 1 mm and at 1 x 1 x 2 mm agrees where the grids share their centre planes."""
    from voxseg.testing import blobs

    layers = []
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0)):
        torch.manual_seed(0)
        layers.append(SteerableConv3d(FIELD, FIELD, SolidHarmonicBasis(1.8, 1.0), spacing).double())
    layers[1].load_state_dict(layers[0].state_dict())
    eye = torch.eye(3, dtype=torch.float64)
    fine = layers[0](blobs(FIELD, eye, (25, 25, 25), width=5))
    # Every second plane of 25, the first and the last included, is the grid of 13 planes of 2 mm.
    points = blobs(FIELD, eye, (25, 25, 25), width=5)[..., ::2]
    coarse = layers[1](points)
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    difference = (coarse[inner][..., 3:-3] - fine[..., ::2][inner][..., 3:-3]).norm()
    assert difference / coarse[inner][..., 3:-3].norm() < 0.02


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("size", [(10, 10, 10), (9, 10, 11)])
def test_separable_equals_dense_with_gradients(stride: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    layer, dense = make(stride=stride).double(), make(stride=stride, dense=True).double()
    dense.load_state_dict(layer.state_dict())
    x = torch.randn(2, layer.field_in.channels, *size, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), dense(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, [x, *dense.parameters()], cotangent), strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("field_in", "field_out", "sorted_channels"),
    [
        ("3x0e+2x1e+1x2e+3x0e+2x1e+1x2e", "6x0e", True),
        ("3x1e", "5x0e", True),
        ("5x0e", "1x0e+2x1e", False),
        ("2x0e+3x2e", "4x0e", True),
    ],
)
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
def test_sorted_channels_equal_dense_with_gradients(
    field_in: str, field_out: str, sorted_channels: bool, stride: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where moments need some of the channels alone; in slabs of four planes, which do not divide the volume."""
    monkeypatch.setattr(ways, "SLAB_ELEMENTS", 1)
    basis = SolidHarmonicBasis(1.1 if max(stride) > 1 else 0.8, 1.0)
    layer = SteerableConv3d(field_in, field_out, basis, stride=stride).double()
    dense = SteerableConv3d(field_in, field_out, basis, stride=stride, dense=True).double()
    dense.load_state_dict(layer.state_dict())
    assert layer.spans is not None
    assert layer.spans.trivial != sorted_channels
    x = torch.randn(2, layer.field_in.channels, 11, 9, 10, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), dense(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
    references = torch.autograd.grad(expected, [x, *dense.parameters()], cotangent)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)
    (alone,) = torch.autograd.grad(layer(x), [x], cotangent)  # of the input without the weights, and the other way
    torch.testing.assert_close(alone, references[0], rtol=1e-10, atol=1e-10)
    weights = torch.autograd.grad(layer(x.detach()), list(layer.parameters()), cotangent)
    for gradient, reference in zip(weights, references[1:], strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def test_sorted_channels_in_bfloat16_stay_close() -> None:
    layer = SteerableConv3d("6x0e+3x1e+1x2e", "20x0e", SolidHarmonicBasis(0.8, 1.0))
    x = torch.randn(1, layer.field_in.channels, 9, 10, 11, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    expected = layer(x)
    cotangent = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(y, x, cotangent.bfloat16())
    (accurate,) = torch.autograd.grad(expected, x, cotangent)
    assert (y.float() - expected).norm() / expected.norm() < 0.02
    assert (gradient - accurate).norm() / accurate.norm() < 0.03


@pytest.mark.parametrize("basis", ["solid_harmonic", "shells"])
@pytest.mark.parametrize("field_out", [FIELD, "6x0e"])
@pytest.mark.parametrize(
    ("size", "coarser"), [((11, 8, 10), (6, 4, 5)), ((12, 9, 7), (6, 9, 4)), ((9, 8, 8), (9, 4, 8))]
)
def test_coarse_channels_equal_those_upsampled_first(
    basis: str,
    field_out: str,
    size: tuple[int, int, int],
    coarser: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "SLAB_ELEMENTS", 1)
    kernels: KernelBasis = SolidHarmonicBasis(0.8, 1.0) if basis == "solid_harmonic" else ShellBasis(5.0, 1.0)
    layer = SteerableConv3d(f"{FIELD}+{FIELD}", field_out, kernels).double()
    channels = layer.field_in.channels // 2
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, channels, *coarser, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x, coarse=coarse), layer(torch.cat([x, upsample(coarse, size)], 1))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.fold()(x, coarse), expected, rtol=0, atol=1e-12)
    inputs, cotangent = [x, coarse, *layer.parameters()], torch.randn_like(y)
    gradients, references = (torch.autograd.grad(z, inputs, cotangent) for z in (y, expected))
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("centred", [True, False])
def test_gradcheck(stride: int, centred: bool) -> None:
    if stride == 1 and not centred:
        pytest.skip("taps between voxels occur with stride 2 alone")
    kernels = SolidHarmonicBasis(0.8, 1.0).taps(1.0, centred)
    axis = AxisTaps(kernels, stride)
    size = 5 if centred else 6
    x = torch.randn(2, 2, size, size, size, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(10, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: separable_convolution(*inputs, (axis, axis, axis)), (x, mix, bias), fast_mode=True
    )


def test_slabs_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for stride in STRIDES:
        layer = make(stride=stride).double().fold()
        x = torch.randn(2, make().field_in.channels, 23, 9, 10, dtype=torch.float64)
        whole = layer(x)
        monkeypatch.setattr(ways, "SLAB_ELEMENTS", 1)
        torch.testing.assert_close(layer(x), whole, rtol=0, atol=1e-13)
        monkeypatch.undo()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 24), (4, 36), (40, 8)])
@pytest.mark.parametrize(("threads", "thin", "shares"), [(1, False, 1), (2, False, 2), (64, False, 4), (64, True, 1)])
def test_no_volume_of_a_slab_is_large(
    monkeypatch: pytest.MonkeyPatch,
    channels_in: int,
    channels_out: int,
    stride: int,
    threads: int,
    thin: bool,
    shares: int,
) -> None:
    """Neither what goes in nor the ten responses nor what comes out; a slab has a few planes at least."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    axis = AxisTaps(SolidHarmonicBasis(0.8, 1.0).taps(1.0, stride == 1), stride)
    way = ways.way_of(torch.zeros(10, channels_in, channels_out), (axis, axis, axis), None)
    slabs = way.slabs((64, 64, 64, channels_in), 64 // stride, thin)
    assert [plane for part in slabs for plane in range(64 // stride)[part]] == list(range(64 // stride))
    responses = 10 * channels_in if isinstance(way, ways.MixAfter) else 0
    plane = max(64 * 64 * channels_in * stride, (64 // stride) ** 2 * max(channels_out, responses))
    assert max(part.stop - part.start for part in slabs) <= max(shares * ways.SLAB_ELEMENTS // plane, 4)


@pytest.mark.parametrize("basis", ["solid_harmonic", "shells"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SIZES)
def test_folded_equals_layer(basis: str, stride: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    layer = make(basis, stride)
    folded = layer.fold()
    assert not list(folded.parameters())
    x = torch.randn(1, layer.field_in.channels, *size)
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-5, atol=1e-5)


def test_kernel_equals_e3nn_tensor_product() -> None:
    """The dense kernel against e3nn's `FullyConnectedTensorProduct` of the input with the harmonics of each offset."""
    layer = SteerableConv3d("2x1e", "1x2e", SolidHarmonicBasis(0.8, 1.0)).double()
    kernel = layer.dense_kernel()  # [5, 6, 5, 5, 5]
    offsets = torch.cartesian_prod(*(tap_positions(2.0, True),) * 3)
    weight = layer.weights["0_0"]  # [1, 2, paths]: kernel degrees 1 and 2
    filters = layer.basis.filters(Lattice((1.0, 1.0, 1.0)))
    sampled = []
    for degree in (1, 2):
        harmonics = o3.spherical_harmonics(degree, offsets, normalize=False, normalization="component")
        gaussian = torch.exp(-offsets.square().sum(-1, keepdim=True) / (2 * 0.8**2))
        values = gaussian * harmonics
        sampled.append(values / values.square().sum(0).mean().sqrt())
    expected = torch.zeros(5, 6, len(offsets), dtype=torch.float64)
    for index, degree in enumerate((1, 2)):
        cg = o3.wigner_3j(2, 1, degree, dtype=torch.float64) * math.sqrt(5)
        block = torch.einsum("oif,vf->oiv", cg, sampled[index])
        for u in range(2):
            expected[:, 3 * u : 3 * u + 3] += weight[0, u, index].detach() * block
    torch.testing.assert_close(kernel.detach().reshape(5, 6, -1), expected, rtol=0, atol=1e-10)
    assert len(filters) == 3


@pytest.mark.parametrize("basis", ["solid_harmonic", "shells"])
@pytest.mark.parametrize("stride", STRIDES)
def test_initial_output_has_unit_size_in_every_degree(basis: str, stride: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    kernels: KernelBasis = (
        SolidHarmonicBasis(1.1 if stride[0] > 1 else 0.8, 1.0) if basis == "solid_harmonic" else ShellBasis(5.0, 1.0)
    )
    layer = SteerableConv3d("16x0e+8x1e+4x2e", "16x0e+8x1e+4x2e", kernels, stride=stride)
    y = layer(torch.randn(1, layer.field_in.channels, 24, 24, 24))[..., 3:-3, 3:-3, 3:-3]
    for irrep, channels in layer.field_out.slices():
        assert 0.5 < y[:, channels].std() < 2, irrep


def test_constants_do_not_leak_into_higher_degrees() -> None:
    layer = SteerableConv3d("1x0e", "1x1e+1x2e", SolidHarmonicBasis(0.8, 1.0), spacing=(1.0, 1.3, 0.7)).double()
    y = layer(torch.ones(1, 1, 15, 15, 15, dtype=torch.float64))
    assert y[..., 5:-5, 5:-5, 5:-5].abs().max() < 1e-12


def test_a_kernel_below_one_voxel_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    SteerableConv3d("1x0e", "1x0e", SolidHarmonicBasis(0.8, 1.0), spacing=(1.0, 1.0, 5.0))(torch.zeros(1, 1, 8, 8, 8))
    assert "narrower than the voxels of 5.00 mm" in caplog.text


def test_shells_end_at_the_diameter() -> None:
    basis = ShellBasis(7.0, 1.0)
    lattice = Lattice((0.5, 0.5, 0.5))
    radius = torch.cartesian_prod(*basis.positions(lattice)).norm(dim=-1)
    for filters in basis.filters(lattice):
        assert filters[..., radius >= 3.5].abs().max() == 0
        assert filters[..., radius < 3.4].abs().amax((-2, -1)).min() > 0


def test_wrong_use_is_refused() -> None:
    basis = SolidHarmonicBasis(0.8, 1.0)
    with pytest.raises(ValueError, match="parity"):
        SteerableConv3d("1x0e", "1x1o", basis)
    with pytest.raises(ValueError, match="no path"):
        SteerableConv3d("1x0e", "1x3e", basis)
    with pytest.raises(ValueError, match="stride"):
        SteerableConv3d("1x0e", "1x0e", basis, stride=(3, 1, 1))
    with pytest.raises(ValueError, match="expected"):
        SteerableConv3d("2x0e", "1x0e", basis)(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="mm"):
        SolidHarmonicBasis(-1, 1.0)


# Eight shapes of four unit cubes; the first two are mirror images of each other.
TETRIS = {
    "left": [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)],
    "right": [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, -1, 0)],
    "square": [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)],
    "line": [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)],
    "corner": [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)],
    "l": [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)],
    "t": [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1)],
    "zigzag": [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)],
}


def tetris(name: str, size: int = 23) -> torch.Tensor:
    volume = torch.zeros(1, 1, size, size, size, dtype=torch.float64)
    for x, y, z in TETRIS[name]:
        volume[0, 0, 10 + x, 10 + y, 10 + z] = 1  # far enough from the border for four layers
    return volume


def invariants(group: Group) -> dict[str, torch.Tensor]:
    """The scalars of a random network with three gated layers, averaged over space, for each shape."""
    torch.manual_seed(3)
    field, layers = FieldType("1x0e"), []
    widths = ["6x0e+6x1o+4x2e", "6x0e+4x1e+4x1o+3x2e+3x2o", "6x0e+4x1e+4x1o+3x2e+3x2o"]
    for width in widths:
        gate = Gate(width if group == "O3" else width.replace("o", "e"))
        layers += [
            SteerableConv3d(field, gate.field_in, SolidHarmonicBasis(0.8, 1.0), group=group),
            FieldNorm(gate.field_in),
            gate,
        ]
        field = gate.field
    layers.append(SteerableConv3d(field, "4x0e", SolidHarmonicBasis(0.8, 1.0), group=group))
    network = torch.nn.Sequential(*layers).double()
    with torch.no_grad():
        return {name: network(3 * tetris(name)).mean((2, 3, 4)) for name in TETRIS}


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def test_so3_tells_mirror_images_apart() -> None:
    values = invariants("SO3")
    for a, b in itertools.combinations(TETRIS, 2):
        assert relative_difference(values[a], values[b]) > 1e-6, (a, b)


def test_o3_scalars_cannot_tell_mirror_images_apart() -> None:
    values = invariants("O3")
    assert relative_difference(values["left"], values["right"]) < 1e-12
    assert relative_difference(values["left"], values["corner"]) > 1e-4


def test_bfloat16_autocast_stays_close() -> None:
    layer = make()
    x = torch.randn(1, layer.field_in.channels, 10, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert ((y.float() - layer(x)).norm() / layer(x).norm()) < 0.02


def test_plain_conv3d_takes_the_dense_kernel() -> None:
    layer = make()
    x = torch.randn(1, layer.field_in.channels, 9, 9, 9)
    kernel = layer.dense_kernel()
    expected = F.conv3d(x, kernel, channel_bias(layer.field_out, layer.bias), padding=kernel.shape[-1] // 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
