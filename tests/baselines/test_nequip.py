"""NequIP on voxels: classes, blocks, the network on other grids and in the form that depends on the data."""

from __future__ import annotations

import pytest
import torch

from voxseg.baselines.nequip import NequIP, SelfConnection, TissueClasses
from voxseg.steerable import FieldType
from voxseg.testing import assert_equivariant, blobs, exact_error, grid_rotations

SMALL = {"in_channels": 1, "out_channels": 2, "levels": ("3x0e+1x1e+1x2e", "3x0e+2x1e+1x2e")}


def volume(*size: int) -> torch.Tensor:
    return torch.randn(1, 1, *size, dtype=torch.float64)


def test_classes_are_responsibilities_of_a_mixture_of_gaussians() -> None:
    classes = TissueClasses(2, 3).double()
    with torch.no_grad():
        classes.centres.normal_()
        classes.log_widths.normal_()
        image = torch.randn(5, 2, dtype=torch.float64)
        found = classes(image)
        widths = classes.log_widths.exp()
        densities = torch.stack(
            [
                torch.exp(torch.distributions.Normal(c, w).log_prob(image).sum(-1)) * w**2  # of equal height
                for c, w in zip(classes.centres, widths, strict=True)
            ],
            -1,
        )
    torch.testing.assert_close(found, densities / densities.sum(-1, keepdim=True))


def test_a_hard_class_has_its_own_self_connection_and_new_kinds_are_zero() -> None:
    torch.manual_seed(0)
    own = SelfConnection(FieldType("2x0e+1x1e"), FieldType("3x0e+1x2e+2x1e"), 2)
    x = torch.randn(4, 5)
    classes = torch.eye(2)[[0, 1, 1, 0]]
    y = own(x, classes)
    assert not y[:, 3:8].any()
    for row, number in enumerate([0, 1, 1, 0]):
        expected = own.linears[number].matrix() @ x[row]
        torch.testing.assert_close(torch.cat([y[row, :3], y[row, 8:]]), expected)


@pytest.mark.parametrize(("levels", "bound"), [(SMALL["levels"], None), (SMALL["levels"][:1], 0.05)])
def test_turns_with_its_input(levels: tuple[str, ...], bound: float | None) -> None:
    """Between the rotations of the grid where no level is strided: a grid of four voxels holds no smooth input."""
    torch.manual_seed(0)
    network = NequIP(1, 2, levels).double().eval()
    assert_equivariant(network, "1x0e", "2x0e", size=(8, 8, 8), dtype=torch.float64, bound=bound)


@pytest.mark.parametrize("data_dependent", [False, True])
def test_exact_on_the_grid_and_with_reflections_in_o3(data_dependent: bool) -> None:
    torch.manual_seed(0)
    odd = ("3x0e+1x1o+1x2e", "3x0e+2x1o+1x1e+1x2e")
    network = NequIP(**SMALL | {"levels": odd}, group="O3", radius=1.5, data_dependent=data_dependent).double().eval()
    assert len(network.rotations()) == 48
    for rotation in (grid_rotations(improper=True)[k] for k in (7, 20, 33)):
        assert exact_error(network, volume(8, 9, 8), rotation, "1x0e", "2x0e") < 1e-9


def test_depends_on_the_data_only_where_asked() -> None:
    torch.manual_seed(0)
    bilateral = NequIP(**SMALL, data_dependent=True).double().eval()
    plain = NequIP(**SMALL).double().eval()
    plain.load_state_dict(bilateral.state_dict(), strict=False)
    x = volume(8, 8, 8)
    with torch.no_grad():
        assert (bilateral(x) - plain(x)).abs().max() > 1e-2
        for name, weight in bilateral.named_parameters():
            if name.endswith("radial.ends"):
                weight.zero_()
        torch.testing.assert_close(bilateral(x), plain(x), rtol=1e-9, atol=1e-9)


def test_at_another_spacing_kernels_are_those_of_the_same_millimetres() -> None:
    """An image that is smooth in mm gives about the same logits where voxels are longer; as voxels it does not."""
    torch.manual_seed(2)
    network = NequIP(**SMALL, radius=3.0, bessel=2).double().eval()
    fine, coarse = (16, 16, 12), (8, 16, 12)
    eye = torch.eye(3, dtype=torch.float64)
    images = [blobs("1x0e", eye, size, (16 / size[0], 1.0, 1.0), width=3.2 * size[0] / 16) for size in (fine, coarse)]
    with torch.no_grad():
        expected = network(images[0]).unflatten(2, (8, 2)).mean(3)
        moved = network.at_spacing((2.0, 1.0, 1.0))
        assert moved.unet.encoder[1][0].stride == (1, 2, 2)
        inside = (..., slice(2, -2), slice(4, -4), slice(4, -4))
        spread = expected[inside].std()
        error = (moved(images[1]) - expected)[inside].std() / spread
        unmoved = (network(images[1]) - expected)[inside].std() / spread
        again = moved.at_spacing((1.0, 1.0, 1.0))
        torch.testing.assert_close(again(images[0]), network(images[0]), rtol=0, atol=0)
    assert error < 0.4
    assert unmoved > 2 * error
