"""Norms and gates: equivariance, agreement with the obvious slow form, and independence of the window."""

import pytest
import torch
import torch.nn.functional as F

from voxseg.steerable import FieldNorm, FieldType, Gate
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
