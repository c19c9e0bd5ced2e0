"""The contraction by cuequivariance is our own: values, gradients, weights; and what is said without the library."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
import yaml

from voxseg.baselines.cuequivariance_backend import CuequivarianceContraction, segmented_polynomial
from voxseg.baselines.mace import MACE
from voxseg.baselines.symmetric_contraction import SymmetricContraction
from voxseg.errors import UserError
from voxseg.networks import NetworkConfig, build_network
from voxseg.training.config_file import find_network


def pair(kinds: str, order: int, chunk: int = 4096) -> tuple[SymmetricContraction, CuequivarianceContraction]:
    """Our own and theirs, with the same weights."""
    pytest.importorskip("cuequivariance_torch")
    torch.manual_seed(0)
    own = SymmetricContraction(3, kinds, kinds, order, 2, chunk)
    theirs = CuequivarianceContraction(3, kinds, kinds, order, 2, chunk)
    theirs.load_state_dict(own.state_dict())
    return own, theirs


@pytest.mark.parametrize(("kinds", "order"), [("0e+1e", 1), ("0e+1e", 3), ("0e+1o", 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_values_and_gradients(kinds: str, order: int, dtype: torch.dtype, tolerance: float) -> None:
    results = []
    for contraction in pair(kinds, order, chunk=4):
        contraction.to(dtype)
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(6, 12, dtype=dtype, generator=generator, requires_grad=True)
        classes = torch.rand(6, 2, dtype=dtype, generator=generator, requires_grad=True)
        made = contraction(rows, classes)
        along = torch.randn(made.shape, dtype=dtype, generator=generator)
        results.append([made.detach(), *torch.autograd.grad(made, (rows, classes, contraction.weights), along)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.abs().max() > 0.1
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance * float(ours.abs().max()))


@pytest.mark.parametrize("kinds", ["0e+1e+2e", "0e+1o+2e"])
def test_the_polynomial_of_the_network_as_numpy_has_it(kinds: str) -> None:
    """Order 3 of degrees 0, 1 and 2 by the library's reference evaluation, which PyTorch takes long to prepare for."""
    own, theirs = pair(kinds, 3)
    polynomial = segmented_polynomial(theirs.single, theirs.out, 3, 3)
    assert polynomial.all_same_segment_shape(), "what the kernel needs"
    rows, weights = torch.randn(9, 27, dtype=torch.float64), own.weights.detach().double()
    one = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(9, 2)
    expected = own.double()(rows, one).detach()
    fields = torch.cat([rows[:, c].unflatten(1, (3, -1)) for _, c in own.field_in.slices()], 2)
    operands = torch.einsum("t,tkc->kc", one[0], weights).flatten(), fields.movedim(1, 2).flatten(1)
    made = np.stack([polynomial(operands[0].numpy(), row.numpy())[0] for row in operands[1]])
    channels_first = torch.from_numpy(made).unflatten(1, (9, 3)).movedim(2, 1)
    found = torch.cat([part.flatten(1) for part in channels_first.split([1, 3, 5], 2)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_state_holds_weights_alone_and_copies_run() -> None:
    own, theirs = pair("0e+1e", 2)
    rows, classes = torch.randn(4, 12), torch.rand(4, 2)
    made = theirs(rows, classes)
    assert list(theirs.state_dict()) == list(own.state_dict()) == ["weights"]
    torch.testing.assert_close(copy.deepcopy(theirs)(rows, classes), made, rtol=0, atol=0)


def test_a_network_with_weights_of_the_other() -> None:
    pytest.importorskip("cuequivariance_torch")
    torch.manual_seed(0)
    levels = ("2x0e+1x1e",) * 2
    own = MACE(1, 2, levels, degree=1, radius=1.8).eval()
    theirs = MACE(1, 2, levels, degree=1, radius=1.8, backend="cuequivariance").eval()
    theirs.load_state_dict(own.state_dict())
    assert any(isinstance(module, CuequivarianceContraction) for module in theirs.modules())
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = own(x)
        torch.testing.assert_close(theirs(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def config(backend: str) -> NetworkConfig:
    block = yaml.safe_load(find_network("mace").read_text(encoding="utf-8"))["network"]
    block["arguments"]["backend"] = backend
    return NetworkConfig(**block, in_channels=1, out_channels=2)


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("cuequi") else find(name, *rest)
    )
    with pytest.raises(UserError) as caught:
        build_network(config("cuequivariance"))
    assert str(caught.value) == (
        "network.arguments.backend: cuequivariance: the library is not installed; "
        "pip install 'voxseg[cuequivariance]', or set it to own, which gives the same with the same weights"
    )


def test_no_other_backend() -> None:
    with pytest.raises(UserError, match="backend is own or cuequivariance, got 'cuda'"):
        build_network(config("cuda"))
