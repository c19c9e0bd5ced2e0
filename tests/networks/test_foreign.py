"""Networks that a config gives by their import path."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from voxseg.errors import UserError
from voxseg.networks import ForeignNetwork, NetworkConfig, build_network, networks

MINE = '''
import torch
from torch import nn


class Small(nn.Module):
    """A convolution, and a choice of what users may get wrong."""

    def __init__(self, channels_in=2, channels_out=3, kernel=3):
        super().__init__()
        self.convolution = nn.Conv3d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.convolution(x))


class Halved(Small):
    def forward(self, x):
        return nn.functional.avg_pool3d(self.convolution(x), 2)


class Turned(Small):
    def forward(self, x):
        return self.convolution(x).transpose(2, 4)


class Named(Small):
    def forward(self, x):
        return {"logits": self.convolution(x)}


class Levels(Small):
    def forward(self, x):
        y = self.convolution(x)
        return [y, nn.functional.avg_pool3d(y, 2)]


def a_function():
    return 5


def echo(multiple):
    return Echo(multiple)


class Echo(nn.Module):
    """Gives the first channel back, three times, and refuses other grids than multiples."""

    def __init__(self, multiple):
        super().__init__()
        self.multiple, self.shapes = multiple, []

    def forward(self, x):
        self.shapes.append(tuple(x.shape[2:]))
        if any(n % self.multiple for n in x.shape[2:]):
            raise RuntimeError("odd\\nsize")
        return x[:, :1].expand(-1, 3, -1, -1, -1)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's own, on the path."""
    (tmp_path / "voxseg_test_networks.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "voxseg_test_broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "voxseg_test_networks"


def config(path: str, multiple_of: int = 1, **arguments: object) -> NetworkConfig:
    return NetworkConfig(architecture=path, arguments=arguments, multiple_of=multiple_of, in_channels=2, out_channels=3)


def test_a_class_of_the_users_own(mine: str) -> None:
    torch.manual_seed(0)
    network = build_network(config(f"{mine}:Small", kernel=5))
    assert isinstance(network, ForeignNetwork)
    torch.manual_seed(0)
    weight = torch.nn.Conv3d(2, 3, 5).weight
    torch.testing.assert_close(network.network.convolution.weight, weight)  # nothing but the constructor was called
    assert network.training
    assert network.network.training
    x = torch.randn(1, 2, 9, 10, 11)
    assert network(x).shape == (1, 3, 9, 10, 11)
    (only,) = network(x, deep_supervision=True)
    assert only.shape == (1, 3, 9, 10, 11)


def test_trying_it_leaves_the_random_numbers_alone(mine: str) -> None:
    torch.manual_seed(0)
    build_network(config(f"{mine}:Small"))
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.nn.Conv3d(2, 3, 3, padding=1)
    assert torch.equal(after, torch.rand(3))


def test_folding_gives_a_frozen_copy(mine: str) -> None:
    network = build_network(config(f"{mine}:Small"))
    folded = network.fold()
    x = torch.randn(1, 2, 9, 10, 11)
    expected = network.network.convolution(x)
    torch.testing.assert_close(folded(x), expected)  # without dropout
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert network.training
    with torch.no_grad():
        network.network.convolution.weight.add_(1)
    torch.testing.assert_close(folded(x), expected)
    assert folded.state_dict().keys() == network.state_dict().keys()


def test_copies_and_pickles(mine: str) -> None:
    network = build_network(config(f"{mine}:Small")).eval()
    x = torch.randn(1, 2, 8, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("grid", [(8, 8, 8), (9, 15, 16), (1, 22, 13)])
def test_volumes_are_padded_evenly_and_cut_back(mine: str, grid: tuple[int, int, int]) -> None:
    network = build_network(config(f"{mine}:echo", multiple_of=8, multiple=8))
    x = torch.randn(2, 2, *grid)
    result = network(x)
    assert torch.equal(result, x[:, :1].expand(-1, 3, -1, -1, -1))
    assert network.network.shapes[-1] == tuple(-(-n // 8) * 8 for n in grid)
    even = torch.randn(1, 2, 10, 12, 14)
    assert torch.equal(network(even.flip(2, 3, 4)), network(even).flip(2, 3, 4))


def test_several_outputs(mine: str) -> None:
    network = build_network(config(f"{mine}:Levels", multiple_of=2))
    x = torch.randn(1, 2, 9, 10, 11)
    first, second = network(x, deep_supervision=True)
    assert first.shape == second.shape == (1, 3, 9, 10, 11)
    assert torch.equal(first, network(x))
    # Each voxel of the second is near the mean of its block in the first.
    assert torch.nn.functional.l1_loss(first, second) < first.abs().mean()


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("voxseg_no_such_package:Net", {}, r"cannot be imported .*No module named.*; install the package, or put"),
        ("{mine}:Smaller", {}, "voxseg_test_networks has no 'Smaller'; correct the name behind the colon"),
        ("voxseg_test_broken:Net", {}, "fails when imported .ZeroDivisionError: division by zero"),
        ("{mine}:Small", {"depth": 4}, "cannot be made .*unexpected keyword argument 'depth'.*correct its arguments"),
        ("{mine}:a_function", {}, "is no torch module but int"),
        ("{mine}:Small", {"channels_in": 1}, "does not run on 2 x 32 x 32 x 33"),
        ("{mine}:Small", {"channels_out": 4}, "gives 4 channels, but the labels need 3; correct network.arguments"),
        ("{mine}:Halved", {}, "makes a volume of 16 x 16 x 16 out of one of 32 x 32 x 33"),
        ("{mine}:Turned", {}, "makes a volume of 33 x 32 x 32 out of one of 32 x 32 x 33"),
        ("{mine}:Named", {}, "the output is no tensor but dict"),
        ("{mine}:echo", {"multiple": 8}, r"RuntimeError: odd size.*give network.multiple_of"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(mine: str, path: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_network(config(path.format(mine=mine), **arguments))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"network.architecture: {path.format(mine=mine)}: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "stearable_unet"}, "no network 'stearable_unet', did you mean 'steerable_unet'?"),
        ({"architecture": "transformer"}, "there are steerable_unet, plain_unet, any_group"),
        ({"architecture": "monai.networks.nets.UNet"}, "no import path: write it as package.module:Class"),
        ({"architecture": "a:b:c"}, "no import path"),
        ({"architecture": "os;print(1):system"}, "no import path"),
        (
            {"arguments": {"a": 1}},
            "arguments is for baselines and networks given by their import path, and steerable_unet is none",
        ),
        ({"multiple_of": 8}, "multiple_of is for baselines and networks given by their import path"),
        ({"architecture": "a:b", "multiple_of": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_configs(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NetworkConfig(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_every_packaged_name_is_known() -> None:
    assert [NetworkConfig(architecture=name).architecture for name in networks()] == networks()
    assert not any(NetworkConfig(architecture=name).foreign for name in networks())


class TestMonai:
    """MONAI's networks, with the arguments that its users give them."""

    @pytest.fixture(autouse=True)
    def _monai(self) -> None:
        pytest.importorskip("monai")

    @pytest.mark.parametrize(
        ("name", "multiple_of", "arguments"),
        [
            ("UNet", 8, {"spatial_dims": 3, "channels": [4, 8, 8, 8], "strides": [2, 2, 2], "num_res_units": 1}),
            ("SegResNet", 8, {"init_filters": 8}),
            ("BasicUNetPlusPlus", 16, {"features": [4, 4, 4, 4, 4, 4], "deep_supervision": True}),
        ],
    )
    def test_networks(self, name: str, multiple_of: int, arguments: dict) -> None:
        channels = {"in_channels": 2, "out_channels": 3}
        network = build_network(config(f"monai.networks.nets:{name}", multiple_of, **arguments, **channels))
        x = torch.randn(1, 2, 20, 17, 24)
        outputs = network(x, deep_supervision=True)
        assert [tuple(y.shape) for y in outputs] == [(1, 3, 20, 17, 24)] * len(outputs)
        assert len(outputs) == (4 if arguments.get("deep_supervision") else 1)
        sum(y.square().mean() for y in outputs).backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
        assert network.bytes_per_voxel > 4 * 5

    def test_stacked_levels(self) -> None:
        shape = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]}
        network = build_network(
            config(
                "monai.networks.nets:DynUNet",
                8,
                spatial_dims=3,
                in_channels=2,
                out_channels=3,
                deep_supervision=True,
                **shape,
            )
        )
        x = torch.randn(1, 2, 16, 16, 24)
        assert network.fold()(x).shape == (1, 3, 16, 16, 24)
        assert len(network(x, deep_supervision=True)) == 2
        assert network(x).shape == (1, 3, 16, 16, 24)

    def test_forgotten_multiple(self) -> None:
        arguments = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "channels": [4, 8], "strides": [2]}
        with pytest.raises(UserError, match=r"32 x 32 x 34 out of one of 32 x 32 x 33; give network\.multiple_of"):
            build_network(config("monai.networks.nets:UNet", **arguments, num_res_units=1))

    def test_meta_tensors_stay_outside(self, mine: str) -> None:
        from monai.data import MetaTensor

        network = build_network(config(f"{mine}:Small"))
        result = network(MetaTensor(torch.randn(1, 2, 8, 8, 8)))
        assert type(result) is Tensor
        result.sum().backward()
        assert network.network.convolution.weight.grad is not None
