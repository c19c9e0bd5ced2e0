"""Volumes that are made again in place of being kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from voxseg.steerable import FieldNorm, Gate, GatedNorm, SolidHarmonicBasis, SteerableConv3d, ways
from voxseg.steerable.recipes import Recipe

GATE = Gate("3x0e+1x1e")
FIELD = str(GATE.field)


def first_layer(x: Tensor) -> Tensor:
    """What a block with checkpointing makes of a scan."""
    torch.manual_seed(0)
    convolution = SteerableConv3d("1x0e", GATE.field_in, SolidHarmonicBasis(0.8, 1.0)).double()
    norm = FieldNorm(GATE.field_in).double()
    return convolution(x, then=lambda dtype: GatedNorm.of(norm, GATE.double(), None, dtype))


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "SLAB_ELEMENTS", 1)


@torch.no_grad()  # as in a backward pass
def check_planes(volume: Tensor, recipe: Recipe, slabs: list[tuple[int, int]]) -> None:
    for sample, planes in zip(volume.permute(0, 2, 3, 4, 1), recipe.samples(), strict=True):
        assert planes.shape == sample.shape
        for first, last in slabs:
            torch.testing.assert_close(planes[first:last], sample[first:last], rtol=0, atol=1e-12)


@pytest.mark.parametrize("slabs", [[(0, 6), (2, 9), (5, 13)], [(0, 13)], [(4, 6), (6, 7), (9, 13)], [(7, 9), (1, 8)]])
def test_planes_are_those_of_the_volume(slabs: list[tuple[int, int]]) -> None:
    volume = first_layer(torch.randn(2, 1, 13, 6, 7, dtype=torch.float64))
    recipe = Recipe.of(volume)
    assert recipe is not None
    check_planes(volume, recipe, slabs)


def test_a_volume_that_was_written_into_has_no_recipe() -> None:
    volume = first_layer(torch.randn(1, 1, 8, 8, 8, dtype=torch.float64))
    assert Recipe.of(volume) is not None
    assert Recipe.of(volume * 2) is None
    with torch.no_grad():
        volume.mul_(2)
    assert Recipe.of(volume) is None


def test_nothing_whose_input_has_a_gradient_has_a_recipe() -> None:
    """To make it again would cost as much as a layer of the network, and its input would have to be kept."""
    volume = first_layer(torch.randn(1, 1, 8, 8, 8, dtype=torch.float64, requires_grad=True))
    assert volume.requires_grad
    assert Recipe.of(volume) is None


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
def test_a_reader_keeps_the_scan_alone_and_has_the_same_gradients(stride: tuple[int, int, int]) -> None:
    x = torch.randn(2, 1, 12, 7, 6, dtype=torch.float64)
    layer = SteerableConv3d(FIELD, "4x0e", SolidHarmonicBasis(1.1, 1.0), stride=stride).double()
    volume = first_layer(x)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(volume)
    assert volume.data_ptr() not in kept
    expected = layer(volume.clone())  # has no recipe
    cotangent = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [volume, *layer.parameters()], cotangent)
    references = torch.autograd.grad(expected, [volume, *layer.parameters()], cotangent)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)
