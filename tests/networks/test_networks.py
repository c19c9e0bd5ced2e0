"""The U-Net skeleton with steerable and with plain layers."""

import pytest
import torch
from pydantic import ValidationError

from voxseg.errors import UserError
from voxseg.networks import NetworkConfig, build_network, networks
from voxseg.networks.unet import grids
from voxseg.steerable import FieldType, upsample, ways
from voxseg.testing import assert_equivariant, exact_error, grid_rotations, interpolated_error, rotation_matrix

SMALL = {
    "levels": ("3x0e+2x1e+1x2e", "4x0e+2x1e+1x2e", "4x0e+2x1e+1x2e"),
    "encoder_convolutions": (1, 1, 1),
    "decoder_convolutions": (1, 1),
}


def small(**options: object) -> NetworkConfig:
    return NetworkConfig(**{"out_channels": 3, **SMALL, **options})  # type: ignore[arg-type]


def build(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(small(**options))


# Even, odd, not divisible by the total stride, and a grid that is no cube; shells run densely and slowly, so on less.
@pytest.mark.parametrize(
    ("basis", "size"),
    [("solid_harmonic", s) for s in ((16, 16, 16), (15, 15, 15), (18, 18, 18), (13, 14, 11))]
    + [("shells", (11, 11, 11)), ("shells", (10, 10, 10))],
)
def test_network_commutes_with_grid_rotations(basis: str, size: tuple[int, int, int]) -> None:
    network = build(basis=basis)
    if basis == "solid_harmonic":
        assert_equivariant(network, "1x0e", "3x0e", size=size, spacing=(2.0,) * 3, bound=None)
    assert_equivariant(network.double(), "1x0e", "3x0e", size=size, spacing=(2.0,) * 3, bound=None, dtype=torch.float64)


def test_default_network_commutes_with_all_rotations() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig())
    assert_equivariant(network, "1x0e", "2x0e", size=(23, 23, 23), bound=None)
    for angle in (30.0, 45.0):
        assert (
            interpolated_error(
                network, rotation_matrix((1, 2, 3), angle), "1x0e", "2x0e", size=(40, 40, 40), blob_width=4
            )
            < 0.15
        )


def test_o3_network_commutes_with_reflections_and_so3_does_not() -> None:
    levels = ("3x0e+2x1o+1x2e", "4x0e+2x1o+1x1e+1x2e", "4x0e+1x0o+2x1o+1x1e+1x2e")
    assert_equivariant(
        build(group="O3", levels=levels).double(), "1x0e", "3x0e", bound=None, dtype=torch.float64, improper=True
    )
    reflection = next(r for r in grid_rotations(improper=True) if torch.linalg.det(r) < 0)
    x = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    assert exact_error(build().double(), x, reflection, "1x0e", "3x0e") > 1e-3


def test_plain_twin_does_not_commute() -> None:
    network = build(architecture="plain_unet").double()
    x = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    assert exact_error(network, x, grid_rotations()[1], "1x0e", "3x0e") > 0.05


def test_anisotropic_grid() -> None:
    torch.manual_seed(0)
    spacing = (2.0, 2.0, 4.0)
    network = build_network(small(), spacing)
    assert_equivariant(network, "1x0e", "3x0e", size=(18, 18, 9), spacing=spacing, bound=None)
    assert grids(small(), spacing) == ([(2, 2, 4), (4, 4, 4), (8, 8, 8)], [(1, 1, 1), (2, 2, 1), (2, 2, 2)])


@pytest.mark.parametrize("architecture", networks())
@pytest.mark.parametrize("size", [(16, 16, 16), (13, 18, 9)])
def test_shapes_of_deep_supervision(architecture: str, size: tuple[int, int, int]) -> None:
    network = build(architecture=architecture)
    x = torch.randn(2, 1, *size)
    outputs = network(x, deep_supervision=True)
    halves = tuple(-(-n // 2) for n in size)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, *size), (2, 3, *halves)]
    torch.testing.assert_close(outputs[0], network(x))
    assert tuple(build(architecture=architecture, deep_supervision=False)(x).shape) == (2, 3, *size)


def test_samples_of_a_batch_do_not_mix() -> None:
    network = build()
    x = torch.randn(3, 1, 12, 12, 12)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"basis": "shells"}, {"dense": True}, {"architecture": "plain_unet"}, {"heads": {"pose": "2x1e"}}]
)
def test_folded_network_computes_the_same(options: dict[str, object]) -> None:
    network = build(**options).eval()
    folded = network.fold()
    x = torch.randn(1, 1, 14, 15, 16)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in folded.parameters())
    before = folded(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    torch.testing.assert_close(folded(x), before, msg="folding has to copy the weights")


def test_dense_network_equals_separable() -> None:
    network, dense = build().double(), build(dense=True).double()
    dense.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 14, 13, 12, dtype=torch.float64)
    torch.testing.assert_close(dense(x), network(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("architecture", networks())
def test_checkpointing_gives_the_same_gradients(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In slabs that do not hold the whole volume."""
    monkeypatch.setattr(ways, "SLAB_ELEMENTS", 1)
    torch.manual_seed(1)
    x = torch.randn(2, 1, 12, 13, 12, dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        network = build(architecture=architecture, checkpointing=checkpointing).double()
        sum(y.square().sum() for y in network(x, deep_supervision=True)).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(network.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("architecture", networks())
def test_checkpointing_keeps_little_for_the_backward_pass(architecture: str) -> None:
    """Counted by what autograd packs, each piece of memory once; the default network.

    What blocks give each other and the outputs take is kept either way, but for the first of a steerable network.
    """
    x = torch.randn(1, 1, 40, 40, 40)  # smaller ones are outweighed by the kernels
    kept: list[dict[int, int]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1][tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = build_network(NetworkConfig(architecture=architecture, out_channels=3, checkpointing=checkpointing))
        weights = {p.data_ptr() for p in network.parameters()}
        kept.append({})
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(x, deep_supervision=True)
        kept[-1] = {place: count for place, count in kept[-1].items() if place not in weights}
        del outputs
    everything, less = (sum(count.values()) for count in kept)
    assert less < 0.3 * everything


@pytest.mark.parametrize("architecture", networks())
def test_without_gradients_the_same_comes_out(architecture: str) -> None:
    """Then steerable blocks run slab by slab, up to the logits."""
    torch.manual_seed(1)
    network = build(architecture=architecture).double()
    x = torch.randn(2, 1, 13, 12, 14, dtype=torch.float64)
    expected = network(x, deep_supervision=True)
    with torch.no_grad():
        for result, reference in zip(network(x, deep_supervision=True), expected, strict=True):
            torch.testing.assert_close(result, reference, rtol=0, atol=1e-10)
        torch.testing.assert_close(network(x), expected[0], rtol=0, atol=1e-10)


def test_every_parameter_is_used() -> None:
    network = build()
    sum(y.square().sum() for y in network(torch.randn(1, 1, 12, 12, 12), deep_supervision=True)).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unused == []


def test_heads_are_fields_of_their_own() -> None:
    network = build(heads={"pose": "2x1e"}).double()
    outputs = network.forward_heads(torch.randn(1, 1, 12, 12, 12, dtype=torch.float64))
    assert {name: tuple(y.shape) for name, y in outputs.items()} == {
        "segmentation": (1, 3, 12, 12, 12),
        "pose": (1, 6, 12, 12, 12),
    }
    assert_equivariant(lambda x: network.forward_heads(x)["pose"], "1x0e", "2x1e", dtype=torch.float64, bound=None)


class TestCoarseLogits:
    @staticmethod
    def trained(**options: object) -> torch.nn.Module:
        """A network whose coarse logits are not zero any more."""
        network = build(coarse_logits=True, **options).double()
        for parameter in network.coarse_logits.parameters():
            torch.nn.init.normal_(parameter)
        return network

    @pytest.mark.parametrize("architecture", networks())
    @pytest.mark.parametrize("size", [(12, 14, 10), (13, 9, 11)])
    def test_they_are_added_to_the_finest_logits_alone(self, architecture: str, size: tuple[int, int, int]) -> None:
        network, x = self.trained(architecture=architecture), torch.randn(2, 1, *size, dtype=torch.float64)
        finest, coarser = network.features(x, 2)
        expected = network.logits[0](finest) + upsample(network.coarse_logits(coarser), size)
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                results = network(x, deep_supervision=True)
                torch.testing.assert_close(results[0], expected, rtol=0, atol=1e-10)
                torch.testing.assert_close(results[1], network.logits[1](coarser), rtol=0, atol=1e-10)
                torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-10)
                torch.testing.assert_close(network.forward_heads(x)["segmentation"], expected, rtol=0, atol=1e-10)
        folded = network.float().fold()(x.float())
        torch.testing.assert_close(folded, expected.float(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("output", [None, "1x0e+1x1e"])
    def test_networks_with_them_commute_with_rotations(self, output: str | None) -> None:
        field = output or "3x0e"
        network = self.trained(output=output, out_channels=FieldType(field).channels)
        assert_equivariant(network, "1x0e", field, size=(13, 14, 11), bound=None, dtype=torch.float64)

    def test_put_into_a_network_that_lacks_them_they_change_nothing(self) -> None:
        without, network = build(), build(coarse_logits=True)
        network.load_state_dict(without.state_dict(), strict=False)
        x = torch.randn(1, 1, 12, 12, 12)
        assert torch.equal(network(x), without(x))
        network(x).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in network.coarse_logits.parameters())

    def test_checkpointing_computes_the_same(self) -> None:
        x, gradients = torch.randn(1, 1, 12, 13, 12, dtype=torch.float64), []
        for checkpointing in (False, True):
            network = build(coarse_logits=True, checkpointing=checkpointing).double()
            torch.nn.init.ones_(network.coarse_logits.weights[0])
            network(x).square().sum().backward()
            gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() > {"coarse_logits.weights.0", "encoder.0.0.0.bias"}
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("architecture", networks())
def test_initial_blocks_keep_unit_size(architecture: str) -> None:
    """After each block each kind of field has a standard deviation within 0.5 and 2, for an input of unit size."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(architecture=architecture, out_channels=3))
    seen = []
    for level, stage in zip(network.config.levels, network.encoder, strict=True):
        for block in stage:
            field = FieldType(level)
            block.register_forward_hook(lambda module, inputs, output, field=field: seen.append((field, output)))
    network(torch.randn(1, 1, 32, 32, 32))
    assert len(seen) == 7
    for field, output in seen:
        for irrep, channels in field.slices():
            assert 0.5 < output[:, channels].std() < 2, irrep


def test_steerable_and_twin_have_the_same_skeleton() -> None:
    steerable, plain = build(), build(architecture="plain_unet")
    shapes = []
    for network in (steerable, plain):
        x = torch.randn(1, 1, 16, 16, 16)
        shapes.append([tuple(f.shape) for f in network.features(x, levels=3)])
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ("3x0e", "what"), "encoder_convolutions": (1, 1), "decoder_convolutions": (1,)}, "no irrep"),
        (
            {"levels": ("1x1e+3x0e",), "encoder_convolutions": (1,), "decoder_convolutions": ()},
            "begin with its 0e scalars",
        ),
        ({"encoder_convolutions": (1, 1)}, "2 entries for 3 levels"),
        ({"decoder_convolutions": (1,)}, "2 are needed"),
        ({"levels": ("3x0e+1x1o",) * 3}, "parity"),
        ({"heads": {"segmentation": "2x0e"}}, "always there"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_wrong_configs_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**options)


def test_levels_that_cannot_be_made_of_each_other_are_told_in_one_line() -> None:
    config = NetworkConfig(
        levels=("3x0e+1x1e", "4x0e"), encoder_convolutions=(1, 1), decoder_convolutions=(1,), out_channels=2
    )
    with pytest.raises(UserError, match=r"^network\.levels: '4x0e' holds no 1e field from which to make 1x1e; use"):
        build_network(config)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 1"):
        build()(torch.zeros(1, 2, 12, 12, 12))
