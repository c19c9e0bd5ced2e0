"""Which channels each moment needs: no channel that couples is left out, and sorting is undone exactly."""

import pytest
import torch

from voxseg.steerable import FieldType, Lattice, SolidHarmonicBasis, SteerableConv3d
from voxseg.steerable.separable import MOMENTS
from voxseg.steerable.spans import ChannelSpans

# As in the last block of a U-Net, where the skip connection and the coarser features come in and scalars go out.
TO_SCALARS = [("6x0e+3x1e+1x2e", "20x0e"), ("2x0e+2x1e+1x2e+2x0e+2x1e+1x2e", "3x0e"), ("5x2e+5x1e", "2x0e")]


def layer(field_in: str, field_out: str) -> SteerableConv3d:
    torch.manual_seed(0)
    return SteerableConv3d(field_in, field_out, SolidHarmonicBasis(0.8, 1.0)).double()


@pytest.mark.parametrize(("field_in", "field_out"), TO_SCALARS)
def test_nothing_that_couples_lies_outside(field_in: str, field_out: str) -> None:
    convolution = layer(field_in, field_out)
    spans = convolution.spans
    assert spans is not None
    assert not spans.trivial
    mix = torch.einsum("mio->mi", convolution._mix(Lattice(convolution.spacing)).abs())[:, spans.order]
    for (a, b, _), coupled in zip(MOMENTS, mix, strict=True):
        inside = torch.zeros(len(coupled), dtype=torch.bool)
        inside[spans.xy[a, b]] = True
        assert coupled[~inside].max() < 1e-12
        assert spans.x[a].start <= spans.xy[a, b].start <= spans.xy[a, b].stop <= spans.x[a].stop


@pytest.mark.parametrize(("field_in", "field_out"), TO_SCALARS)
def test_work_is_saved(field_in: str, field_out: str) -> None:
    spans = layer(field_in, field_out).spans
    assert spans is not None
    channels = FieldType(field_in).channels
    products = sum((s.stop - s.start) * (3 - a - b) for (a, b), s in spans.xy.items())
    assert products < 0.6 * 10 * channels


def test_where_everything_couples_nothing_is_sorted() -> None:
    spans = layer("4x0e+2x1e+1x2e", "4x0e+2x1e+1x2e").spans
    assert spans is not None
    assert spans.trivial
    volume = torch.randn(2, 3, 4, 15)
    assert spans.sort(volume) is volume
    assert spans.unsort(volume) is volume


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sorting_is_undone_to_the_bit(dtype: torch.dtype) -> None:
    spans = layer(*TO_SCALARS[0]).spans
    assert spans is not None
    assert spans.order is not None
    volume = torch.randn(3, 4, 5, len(spans.order)).to(dtype)
    in_order = spans.sort(volume)
    assert torch.equal(in_order, volume[..., spans.order])
    assert torch.equal(spans.unsort(in_order), volume)


def test_a_moment_that_needs_no_channel_keeps_a_span() -> None:
    used = torch.zeros(len(MOMENTS), 8, dtype=torch.bool)
    used[MOMENTS.index((0, 0, 0))] = True  # scalars by Gaussians alone
    spans = ChannelSpans.of(used, MOMENTS)
    assert spans.xy[0, 0] == slice(0, 8)
    assert all(span.stop - span.start == 1 for moments, span in spans.xy.items() if moments != (0, 0))
