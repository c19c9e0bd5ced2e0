"""The public check fails where it has to."""

import pytest
import torch
from torch import nn

from voxseg.testing import assert_equivariant, blobs, grid_rotations, rotate_field, rotation_matrix


def test_grid_rotations_are_the_groups() -> None:
    for improper, count in ((False, 24), (True, 48)):
        rotations = grid_rotations(improper)
        assert len({tuple(r.flatten().tolist()) for r in rotations}) == count
        for rotation in rotations:
            assert torch.equal(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))


def test_rotation_matrix_turns_the_right_way() -> None:
    turned = rotation_matrix((0, 0, 2), 90) @ torch.tensor([1.0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(turned, torch.tensor([0.0, 1, 0], dtype=torch.float64))


def test_turning_blobs_equals_turning_their_field() -> None:
    for rotation in grid_rotations(improper=True)[::5]:
        upright = blobs("1x0e+1x1o+1x2e", torch.eye(3, dtype=torch.float64), (9, 9, 9))
        turned = blobs("1x0e+1x1o+1x2e", rotation, (9, 9, 9))
        torch.testing.assert_close(rotate_field(upright, rotation, "1x0e+1x1o+1x2e"), turned)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(1, 1, 3, padding=1),
        nn.Conv3d(1, 1, 3, padding=1, stride=2),
        nn.AvgPool3d(2),  # drops the last voxel of an odd axis
    ],
)
def test_what_is_not_equivariant_is_caught(module: nn.Module) -> None:
    torch.manual_seed(0)
    size = (11, 11, 11) if isinstance(module, nn.AvgPool3d) else (12, 12, 12)
    with pytest.raises(AssertionError, match="grid rotation"):
        assert_equivariant(module, "1x0e", "1x0e", size=size, bound=None)


def test_samples_that_mix_are_caught() -> None:
    with pytest.raises(AssertionError, match="samples of a batch mix"):
        assert_equivariant(lambda x: x[:1] + 0 * x, "1x0e", "1x0e", bound=None)


def test_a_pointwise_function_of_vectors_is_caught() -> None:
    with pytest.raises(AssertionError, match="grid rotation"):
        assert_equivariant(torch.relu, "1x1e", "1x1e", bound=None)


def test_an_isotropic_blur_of_too_few_taps_is_caught_between_grid_rotations() -> None:
    kernel = torch.zeros(1, 1, 3, 3, 3)
    kernel[0, 0, 1, 1] = kernel[0, 0, 1, :, 1] = kernel[0, 0, :, 1, 1] = 1 / 9

    def cross(x: torch.Tensor) -> torch.Tensor:
        return x - 3 * torch.nn.functional.conv3d(x, kernel, padding=1)

    assert_equivariant(cross, "1x0e", "1x0e", bound=None)
    with pytest.raises(AssertionError, match="turn by"):
        assert_equivariant(cross, "1x0e", "1x0e", size=(24, 24, 24), bound=0.01, blob_width=0.8)
