"""Layers between scattered points: who is near, what is sampled, and that voxels seen as points change nothing."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.mace import MACEBlock
from voxseg.baselines.nequip import NequIPBlock, TissueClasses
from voxseg.baselines.points import PointNetwork, foreground, radius_graph, sample
from voxseg.networks import NetworkConfig, build_network
from voxseg.steerable import FieldType
from voxseg.testing import representation, rotation_matrix

FIELD = "2x0e+2x1e+2x2e"


def test_radius_graph_is_that_of_brute_force() -> None:
    torch.manual_seed(0)
    places, targets = torch.rand(40, 3, dtype=torch.float64) * 4, torch.rand(7, 3, dtype=torch.float64) * 4
    for receivers in (None, targets):
        graph = radius_graph(places, 1.5, receivers)
        to = places if receivers is None else receivers
        distances = (places[None] - to[:, None]).norm(dim=-1)
        target, source = (distances < 1.5).nonzero(as_tuple=True)
        assert torch.equal(graph.target, target)
        assert torch.equal(graph.source, source)
        torch.testing.assert_close(graph.offsets, places[source] - to[target])
    # Exactly on the radius is out, as on a lattice; no points at all is a graph without edges.
    line = torch.arange(3.0)[:, None] * torch.tensor([[1.0, 0, 0]])
    assert len(radius_graph(line, 1.0).source) == 3
    assert radius_graph(line[:0], 1.0).targets == 0


def test_sampling_gives_voxels_and_the_middle_between_them() -> None:
    volume = torch.randn(5, 4, 6, 3, dtype=torch.float64)
    spacing = (1.0, 0.5, 2.0)
    mask = torch.zeros(4, 6, 3, dtype=torch.bool)
    mask[1, 2, 1] = mask[3, 0, 2] = True
    places = foreground(mask, spacing).double()
    assert places.tolist() == [[1.0, 1.0, 2.0], [3.0, 0.0, 4.0]]
    torch.testing.assert_close(sample(volume, places, spacing), volume[:, mask].T)
    middle = torch.tensor([[1.5, 1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(sample(volume, middle, spacing)[0], (volume[:, 1, 2, 1] + volume[:, 2, 2, 1]) / 2)


@pytest.mark.parametrize("kind", ["nequip", "bilateral", "mace"])
def test_all_voxels_as_points_give_what_the_volume_gives(kind: str) -> None:
    """Two layers, to 1e-5 in single precision, border included: who is missing is missing in both."""
    torch.manual_seed(0)
    size, spacing = (7, 6, 5), (0.8, 0.9, 1.0)
    options = {"radius": 2.0, "spacing": 1.0, "intensities": 2 if kind == "bilateral" else 0, "classes": 2}
    make = MACEBlock if kind == "mace" else NequIPBlock
    blocks = [make(before, FIELD, spacing, **options) for before in ("2x0e", FIELD)]
    classes = TissueClasses(2, 2)
    image = torch.randn(1, 2, *size)
    voxels, points = classes.on_voxels(image), classes.on_points(image[0].flatten(1).T)
    graph = radius_graph(foreground(torch.ones(size), spacing), 2.0)
    dense, sparse = image, points.image
    with torch.no_grad():
        for block in blocks:
            dense = block(dense, voxels, voxels)
            sparse = block.on_points(sparse, graph, points, volume=0.8 * 0.9)
    assert (dense[0].flatten(1).T - sparse).abs().max() < 1e-5 * dense.abs().max()


@pytest.mark.parametrize("order", [0, 3])
def test_a_network_between_points_turns_under_any_rotation(order: int) -> None:
    torch.manual_seed(0)
    network = PointNetwork(FIELD, "2x0e+1x1e", (FIELD, FIELD), 2.0, classes=2, order=order).double()
    places, image = torch.rand(30, 3, dtype=torch.float64) * 3, torch.randn(30, 1, dtype=torch.float64)
    features = torch.randn(30, FieldType(FIELD).channels, dtype=torch.float64)
    rotation = rotation_matrix((1, 2, 3), 50)
    with torch.no_grad():
        expected = network(features, places, image) @ representation("2x0e+1x1e", rotation).T
        found = network(features @ representation(FIELD, rotation).T, places @ rotation.T, image)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.05


def test_features_of_a_steerable_unet_at_points_of_its_foreground() -> None:
    """Every weight of the U-Net and of the layers behind it is trained by what is asked of the points."""
    torch.manual_seed(0)
    config = NetworkConfig(
        levels=("2x0e+1x1e", "3x0e+1x1e"),
        encoder_convolutions=(1, 1),
        decoder_convolutions=(1,),
        heads={"points": "2x0e+2x1e"},
        deep_supervision=False,
        spacing=1.0,
    )
    unet = build_network(config)
    network = PointNetwork("2x0e+2x1e", "1x1e", ("2x0e+2x1e",), 2.0, data_dependent=True, classes=2)
    image = torch.randn(1, 1, 8, 9, 8)
    places = foreground(image[0, 0] > 1).float()
    features = sample(unet.forward_heads(image)["points"][0], places)
    directions = network(features, places, sample(image[0], places))
    assert directions.shape == (len(places), 3)
    directions.square().sum().backward()
    heads = ("logits.",)
    for name, weight in [*unet.named_parameters(), *network.named_parameters()]:
        assert name.startswith(heads) or (weight.grad is not None and weight.grad.abs().sum() > 0), name
