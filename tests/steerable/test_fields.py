"""Field types: e3nn's notation."""

import pytest
from e3nn import o3

from voxseg.steerable import FieldType


@pytest.mark.parametrize("text", ["8x0e+4x1e+2x2e", "0e", "3x1o + 2x0e", "1x0e+1x0o+2x1e+2x1o", "5x4e"])
def test_channels_and_degree_equal_e3nn(text: str) -> None:
    field, expected = FieldType(text), o3.Irreps(text)
    assert (field.channels, field.max_degree) == (expected.dim, expected.lmax)
    assert [channels for _, channels in field.slices()] == expected.slices()


def test_round_trip_and_equality() -> None:
    field = FieldType("8x0e+4x1e")
    assert FieldType(str(field)) == field
    assert hash(FieldType(field)) == hash(field)
    assert field != FieldType("4x1e+8x0e")


def test_neighbours_of_one_kind_merge_and_the_order_stays() -> None:
    assert str(FieldType("2x0e+3x0e+0x1e+1x2e")) == "5x0e+1x2e"
    assert str(FieldType("2x0e+1x1e") + FieldType("3x0e")) == "2x0e+1x1e+3x0e"


@pytest.mark.parametrize("text", ["8x0", "x0e", "two x 0e", "", "0x0e", "-1x0e", "1x1e+"])
def test_what_is_no_field_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"irrep|field"):
        FieldType(text)
