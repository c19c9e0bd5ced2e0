from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from voxseg.errors import UserError
from voxseg.training.config import LossConfig
from voxseg.training.losses import coarser, deep_supervision_loss, dice_cross_entropy, region_dice_cross_entropy

K = 5


def _case(shape: tuple[int, ...] = (2, 6, 7, 8), absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    logits = torch.randn(shape[0], K, *shape[1:], dtype=torch.float64)
    target = torch.randint(0, K, shape)
    if absent is not None:
        target[target == absent] = 0
    return logits.requires_grad_(), target


@pytest.mark.parametrize("absent", [None, 3])
def test_equals_monai_with_gradient(absent: int | None) -> None:
    losses = pytest.importorskip("monai.losses")
    dice = losses.DiceLoss(
        include_background=False,
        softmax=True,
        to_onehot_y=True,
        batch=True,
        smooth_nr=5.0,
        smooth_dr=5.0,
        reduction="none",
    )
    logits, target = _case(absent=absent)
    terms = dice(logits, target[:, None]).flatten()
    present = torch.tensor([k != absent for k in range(1, K)])
    expected = terms[present].mean() + functional.cross_entropy(logits, target)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = dice_cross_entropy(logits, target, smoothing=5.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_class_shares_of_a_hard_target_give_the_same_loss() -> None:
    logits, target = _case()
    shares = functional.one_hot(target, K).movedim(-1, 1).double()
    torch.testing.assert_close(dice_cross_entropy(logits, shares), dice_cross_entropy(logits, target))


def test_gradient_for_class_shares() -> None:
    logits, target = _case((1, 2, 3, 2))
    shares = functional.one_hot(target, K).movedim(-1, 1).double() * 0.8 + 0.04
    assert torch.autograd.gradcheck(lambda x: dice_cross_entropy(x, shares), logits)


def test_empty_window_costs_little_and_false_positives_cost_cross_entropy_alone() -> None:
    target = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    empty = torch.zeros(1, K, 8, 8, 8)
    empty[:, 0] = 20.0
    assert dice_cross_entropy(empty, target) < 1e-3
    wrong = empty.clone()
    wrong[:, 2, 0, 0, :5] = 40.0
    assert dice_cross_entropy(wrong, target, cross_entropy_weight=0.0) == 0
    # Five voxels, each wrong by 20 nats.
    assert dice_cross_entropy(wrong, target) == pytest.approx(5 * 20 / 8**3, rel=1e-3)


def test_low_precision_logits_give_a_float32_loss() -> None:
    logits, target = _case()
    loss = dice_cross_entropy(logits.detach().bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss == pytest.approx(dice_cross_entropy(logits, target).item(), rel=0.02)


def test_memory_layout_does_not_matter() -> None:
    logits, target = _case()
    turned = logits.detach().contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(dice_cross_entropy(turned, target), dice_cross_entropy(logits, target))


def test_coarser_on_even_axes_is_average_pooling() -> None:
    target = torch.randint(0, K, (2, 4, 6, 8))
    expected = functional.avg_pool3d(functional.one_hot(target, K).movedim(-1, 1).float(), 2)
    torch.testing.assert_close(coarser(target, K), expected, rtol=0, atol=0)
    torch.testing.assert_close(coarser(coarser(target, K)[..., :2], K).sum(1), torch.ones(2, 1, 2, 1))


def test_coarser_on_an_odd_axis() -> None:
    target = torch.tensor([0, 1, 1, 1, 2])[None, :, None, None].expand(1, 5, 2, 2)
    shares = coarser(target, 3)[0, :, :, 0, 0]
    expected = torch.tensor([[0.75, 0.0, 0.0], [0.25, 1.0, 0.25], [0.0, 0.0, 0.75]])
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize("size", [(6, 6, 6), (7, 7, 7), (5, 6, 9)])
def test_coarser_commutes_with_flips_and_is_the_same_for_shares(size: tuple[int, int, int]) -> None:
    target = torch.randint(0, K, (1, *size))
    shares = coarser(target, K)
    assert shares.shape == (1, K, *[(n + 1) // 2 for n in size])
    torch.testing.assert_close(coarser(target.flip(1, 3), K), shares.flip(2, 4))
    torch.testing.assert_close(coarser(target.transpose(1, 2), K), shares.transpose(2, 3))
    torch.testing.assert_close(coarser(functional.one_hot(target, K).movedim(-1, 1).float(), K), shares)


def test_deep_supervision_weighs_the_levels() -> None:
    logits, target = _case((1, 8, 8, 8))
    coarse, coarsest = torch.randn(1, K, 4, 4, 4), torch.randn(1, K, 2, 2, 2)
    config = LossConfig(deep_supervision=[1.0, 0.5], smoothing=8.0)
    loss = deep_supervision_loss([logits, coarse, coarsest], target, config)
    expected = dice_cross_entropy(logits, target, 8.0) + 0.5 * dice_cross_entropy(coarse, coarser(target, K), 1.0)
    torch.testing.assert_close(loss, expected)


def test_more_weights_than_outputs() -> None:
    logits, target = _case()
    with pytest.raises(UserError, match=r"loss\.deep_supervision: has 2 weights for 1 outputs"):
        deep_supervision_loss([logits], target, LossConfig(deep_supervision=[1.0, 0.5]))


def _regions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    membership = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 0], [1, 0]], dtype=torch.bool)
    logits = torch.randn(2, 2, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(0, K, (2, 6, 7, 8)), membership


def test_regions_equal_monai_with_gradient() -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target, membership = _regions()
    share = membership.double()[target].movedim(-1, 1)
    dice = losses.DiceLoss(sigmoid=True, batch=True, smooth_nr=5.0, smooth_dr=5.0)
    expected = dice(logits, share) + functional.binary_cross_entropy_with_logits(logits, share)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    config = LossConfig(deep_supervision=[1.0])
    loss = deep_supervision_loss([logits], target, config, membership)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-10)


def test_regions_on_coarser_grids_are_shares() -> None:
    _, target, membership = _regions()
    share = membership.float()[target].movedim(-1, 1)
    outputs = [torch.zeros(2, 2, 6, 7, 8), torch.zeros(2, 2, 3, 4, 4)]
    config = LossConfig(deep_supervision=[1.0, 0.5], cross_entropy=0.0)
    coarse = coarser(share, 2, (3, 4, 4))
    expected = region_dice_cross_entropy(outputs[0], share, 5.0, 1.0, 0.0)
    expected = expected + 0.5 * region_dice_cross_entropy(outputs[1], coarse, 5.0 / 8, 1.0, 0.0)
    torch.testing.assert_close(deep_supervision_loss(outputs, target, config, membership), expected)
    assert coarse.sum() == pytest.approx(float(share.sum()) / 8, rel=0.2)


def test_absent_region_has_no_dice_term() -> None:
    membership = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.bool)
    target = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    target[:, :4] = 1
    logits = torch.full((1, 2, 8, 8, 8), -20.0)
    logits[:, 0, :4] = 20.0
    logits[:, 1, :2] = 20.0  # a false positive
    config = LossConfig(deep_supervision=[1.0], cross_entropy=0.0)
    assert deep_supervision_loss([logits], target, config, membership) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["classes", "shares", "regions"])
def test_blocks_change_nothing_but_the_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = _case()
    loss = region_dice_cross_entropy if kind == "regions" else dice_cross_entropy
    if kind != "classes":
        target = functional.one_hot(target, K).movedim(-1, 1).double()
    values, gradients = [], []
    for voxels in (10**6, 100):
        monkeypatch.setattr("voxseg.training.losses._BLOCK_VOXELS", voxels)
        values.append(loss(logits, target))
        gradients += torch.autograd.grad(values[-1], logits)
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_the_backward_pass_is_kept_nothing_for_but_the_logits() -> None:
    logits = torch.randn(1, K, 48, 48, 48).to(memory_format=torch.channels_last_3d).requires_grad_()
    target = torch.randint(0, K, (1, 48, 48, 48))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = dice_cross_entropy(logits, target)
    given = {tensor.data_ptr() for tensor in (logits, target)}
    assert logits.data_ptr() in kept
    assert sum(count for place, count in kept.items() if place not in given) < 0.01 * logits.nbytes
    loss.backward()
