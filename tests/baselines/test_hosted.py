"""What every baseline has to fulfil, whoever wrote it: shapes, exactness, gradients, its config."""

from __future__ import annotations

import copy
import importlib
import re

import pytest
import torch
import yaml

from voxseg.baselines.base import Baseline
from voxseg.errors import UserError
from voxseg.networks import HOSTED, ForeignNetwork, NetworkConfig, build_network
from voxseg.testing import exact_error
from voxseg.training.config import TrainingConfig, load_config
from voxseg.training.config_file import find_config, find_network, packaged_baselines
from voxseg.training.schedule import update_average
from voxseg.training.step import forward, to_device


def packaged(name: str, **options: object) -> NetworkConfig:
    """The network of a baseline's config, for two images and three classes."""
    block = yaml.safe_load(find_network(name).read_text(encoding="utf-8"))["network"]
    return NetworkConfig(**block, in_channels=2, out_channels=3, **options)


@pytest.fixture(params=list(HOSTED), scope="module")
def hosted(request: pytest.FixtureRequest) -> ForeignNetwork:
    torch.manual_seed(0)
    network = build_network(packaged(request.param)).double().eval()
    assert isinstance(network, ForeignNetwork)
    return network


def test_every_baseline_has_its_file() -> None:
    assert packaged_baselines() == sorted(HOSTED)


@pytest.mark.parametrize("name", HOSTED)
def test_the_module_cites_its_paper_and_the_class_describes_every_argument(name: str) -> None:
    module, _, cls = HOSTED[name].partition(":")
    loaded = importlib.import_module(module)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi", loaded.__doc__ or ""), "a citation"
    described = getattr(loaded, cls).__doc__
    assert {"in_channels", "out_channels", *packaged(name).arguments} <= set(re.findall(r"^ +(\w+):", described, re.M))


@pytest.mark.parametrize("name", HOSTED)
def test_a_task_takes_it_in_the_place_of_its_own_network(name: str) -> None:
    config = load_config(find_config("brain"), network=find_network(name))
    assert isinstance(config, TrainingConfig)
    assert config.network.architecture == name
    assert config.loss.deep_supervision == [1.0]
    assert not config.network.foreign, "a model folder with it may be opened without --allow-import"


def test_logits_on_the_grid_of_the_input(hosted: ForeignNetwork) -> None:
    assert isinstance(hosted.network, Baseline)
    for size in ((8, 9, 11), (10, 8, 8)):
        with torch.no_grad():
            logits = hosted(torch.randn(1, 2, *size, dtype=torch.float64))
        assert logits.shape == (1, 3, *size)
        assert logits.std() > 1e-3


def test_exact_under_the_rotations_that_it_claims(hosted: ForeignNetwork) -> None:
    assert isinstance(hosted.network, Baseline)
    rotations = hosted.network.rotations()
    assert rotations, "at least the identity"
    chosen = [rotations[k] for k in torch.randperm(len(rotations), generator=torch.Generator().manual_seed(1))[:4]]
    for k, rotation in enumerate(chosen):
        x = torch.randn(1, 2, *((8, 9, 8), (9, 9, 9))[k % 2], dtype=torch.float64)
        assert exact_error(hosted, x, rotation, "2x0e", "3x0e") < 1e-8, rotation


def test_the_same_in_the_memory_layout_of_training(hosted: ForeignNetwork) -> None:
    x = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found = forward(to_device(copy.deepcopy(hosted), torch.device("cpu")), x, "float32")
        torch.testing.assert_close(found, hosted(x), rtol=1e-9, atol=1e-9)


def test_samples_of_a_batch_stay_apart(hosted: ForeignNetwork) -> None:
    x = torch.randn(2, 2, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(hosted(x)[1:], hosted(x[1:]), rtol=1e-9, atol=1e-9)


def test_every_weight_is_reached_and_comes_back_from_its_state(hosted: ForeignNetwork) -> None:
    network = copy.deepcopy(hosted).train()
    x = torch.randn(1, 2, 10, 10, 10, dtype=torch.float64)
    before = network(x)
    before.square().mean().backward()
    idle = [name for name, w in network.named_parameters() if w.grad is None or not w.grad.abs().sum() > 0]
    assert not idle
    torch.manual_seed(1)
    other = build_network(network.config).double()
    averaged = copy.deepcopy(other)
    update_average(averaged, hosted, 0.0)
    other.load_state_dict(averaged.state_dict())  # what a training keeps is a copy's
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), hosted(x), rtol=1e-12, atol=1e-12)


def test_what_users_get_wrong() -> None:
    with pytest.raises(UserError, match="out_channels: follows from the images and labels"):
        build_network(NetworkConfig(architecture="e3nn_gates", arguments={"out_channels": 2}))
    with pytest.raises(UserError, match=r"e3nn_gates: cannot be made \(TypeError: .*width"):
        build_network(NetworkConfig(architecture="e3nn_gates", arguments={"width": 2}))
    with pytest.raises(UserError, match="no such file and no such baseline"):
        find_network("e3nn_gate")
    with pytest.raises(ValueError, match="did you mean 'e3nn_gates'"):
        NetworkConfig(architecture="e3nn_gate")
