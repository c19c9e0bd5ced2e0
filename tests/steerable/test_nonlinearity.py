"""Norms and gates: equivariance, agreement with the obvious slow form, and independence of the window."""

import pytest
import torch
import torch.nn.functional as F

from voxseg.steerable import FieldNorm, FieldType, Gate, gated_norm, nonlinearity
from voxseg.testing import assert_equivariant

FIELDS = ["4x0e+2x1e+1x2e", "3x0e", "1x0e+1x1e", "2x0e+3x2e"]
O3_FIELDS = ["3x0e+2x0o+1x1o+1x1e+1x2e+1x2o", "1x0e+1x0o"]
SIZES = [(10, 10, 10), (9, 9, 9), (9, 10, 7)]


def norm(field: str) -> FieldNorm:
    torch.manual_seed(0)
    layer = FieldNorm(field)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("field", FIELDS + O3_FIELDS)
@pytest.mark.parametrize("size", SIZES)
def test_norm_is_equivariant(field: str, size: tuple[int, int, int]) -> None:
    improper = field in O3_FIELDS
    assert_equivariant(norm(field), field, field, size=size, bound=None, improper=improper)
    assert_equivariant(
        norm(field).double(), field, field, size=size, bound=None, improper=improper, dtype=torch.float64
    )


@pytest.mark.parametrize("field", FIELDS + O3_FIELDS)
@pytest.mark.parametrize("size", SIZES)
def test_gate_is_equivariant(field: str, size: tuple[int, int, int]) -> None:
    gate, improper = Gate(field), field in O3_FIELDS
    assert_equivariant(gate, gate.field_in, field, size=size, bound=None, improper=improper)
    assert_equivariant(
        gate.double(), gate.field_in, field, size=size, bound=None, improper=improper, dtype=torch.float64
    )


@pytest.mark.parametrize("make", [norm, Gate])
def test_equivariant_between_grid_rotations(make: type[torch.nn.Module]) -> None:
    field = FIELDS[0]
    layer = make(field)
    field_in = layer.field_in if isinstance(layer, Gate) else field
    # What is left is the interpolation of the output.
    assert_equivariant(layer, field_in, field, size=(24, 24, 24), bound=0.02)
    assert_equivariant(layer, field_in, field, size=(20, 20, 12), spacing=(1.0, 1.0, 2.0), bound=0.05)


def test_norm_equals_the_slow_form() -> None:
    layer = norm("4x0e+2x1e+1x2e").double()
    x = torch.randn(2, 15, 3, 4, 5, dtype=torch.float64)
    rows = x.movedim(1, -1)
    scalars = F.layer_norm(rows[..., :4], (4,), layer.scale[:4], layer.shift, layer.epsilon)
    vectors = rows[..., 4:10] / (rows[..., 4:10].square().mean(-1, keepdim=True) + layer.epsilon).sqrt()
    tensors = rows[..., 10:] / (rows[..., 10:].square().mean(-1, keepdim=True) + layer.epsilon).sqrt()
    expected = torch.cat([scalars, vectors * layer.scale[4:6].repeat_interleave(3), tensors * layer.scale[6]], -1)
    # The means are taken with float32 constants.
    torch.testing.assert_close(layer(x), expected.movedim(-1, 1), rtol=1e-6, atol=1e-6)


def test_gate_equals_the_slow_form() -> None:
    gate = Gate("2x0e+2x1e").double()
    assert gate.field_in == FieldType("4x0e+2x1e")
    x = torch.randn(1, 10, 3, 3, 3, dtype=torch.float64)
    first = x[:, 4:7] * torch.sigmoid(x[:, 0:1])
    second = x[:, 7:10] * torch.sigmoid(x[:, 1:2])
    torch.testing.assert_close(gate(x), torch.cat([F.silu(x[:, 2:4]), first, second], 1))


def test_norm_does_not_depend_on_the_window() -> None:
    layer = norm("4x0e+2x1e+1x2e")
    x = torch.randn(1, 15, 12, 12, 12)
    torch.testing.assert_close(layer(x)[..., 3:9, 3:9, 3:9], layer(x[..., 3:9, 3:9, 3:9].contiguous()))


def test_empty_space_stays_small() -> None:
    layer = FieldNorm("4x0e+2x1e")
    assert layer(1e-3 * torch.randn(1, 10, 4, 4, 4)).abs().max() < 0.1


def test_a_lone_scalar_survives() -> None:
    assert FieldNorm("1x0e")(torch.randn(1, 1, 6, 6, 6)).std() > 0.5


def centred(layer: FieldNorm, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """What `gated_norm` takes: a volume whose scalars have no mean, as the convolution before it leaves it."""
    x = torch.randn(shape[0], layer.field.channels, *shape[1:], dtype=dtype)
    return torch.einsum("bcxyz,cd->bdxyz", x, layer.centring.to(dtype))


@pytest.mark.parametrize("field", FIELDS + O3_FIELDS)
def test_gated_norm_equals_gate_of_norm(field: str) -> None:
    """Values and gradients of the fused form against autograd through the two modules."""
    gate = Gate(field).double()
    layer = norm(str(gate.field_in)).double()
    x = centred(layer, 2, 3, 4, 5).requires_grad_()
    expected, result = gate(layer(x)), gated_norm(x, layer, gate)
    # Constants such as a third are those of float32.
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    gradients, references = (torch.autograd.grad(y, inputs, cotangent) for y in (result, expected))
    # The module takes the mean off itself, for the fused form the convolution before it does.
    projected = torch.einsum("bcxyz,cd->bdxyz", gradients[0], layer.centring)
    for gradient, reference in zip((projected, *gradients[1:]), references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["2x0e+1x1e+1x2e", "3x0e", "1x0e+1x1e"])
def test_gradients_of_gated_norm(field: str) -> None:
    gate = Gate(field).double()
    layer = norm(str(gate.field_in)).double()
    x = centred(layer, 1, 2, 2, 2).requires_grad_()
    parameters = [p for p in layer.parameters() if p.numel()]

    def function(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return gated_norm(x, layer, gate)

    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True)


def test_gated_norm_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 voxels, which do not divide the 60 of two samples, change nothing."""
    gate = Gate("4x0e+2x1e+1x2e").double()
    layer = norm(str(gate.field_in)).double()
    x = centred(layer, 2, 3, 2, 5).requires_grad_()
    cotangent = torch.randn(2, gate.field.channels, 3, 2, 5, dtype=torch.float64)
    found = []
    for block in (10**6, 7 * gate.field_in.channels):
        monkeypatch.setattr(nonlinearity, "_BLOCK_ELEMENTS", block)
        result = gated_norm(x, layer, gate)
        found.append((result, *torch.autograd.grad(result, [x, *layer.parameters()], cotangent)))
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("field", ["4x0e+2x1e+1x2e", "3x0e"])
def test_gated_norm_of_bfloat16_rounds_only_at_the_ends(field: str) -> None:
    gate = Gate(field)
    layer = norm(str(gate.field_in))
    x = centred(layer, 1, 4, 4, 4, dtype=torch.float32).bfloat16().requires_grad_()
    reference = x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = gated_norm(x, layer, gate)
    expected = gated_norm(reference, layer, gate)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected.bfloat16())
    cotangent = torch.randn_like(expected).bfloat16()
    (gradient,) = torch.autograd.grad(result, x, cotangent)
    (accurate,) = torch.autograd.grad(expected, reference, cotangent.float())
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(gradient, accurate.bfloat16())
