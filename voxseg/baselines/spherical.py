"""Spherical CNN: correlations on the sphere and the rotation group, of signals on spheres and around each voxel.

T. Cohen, M. Geiger, J. Köhler, M. Welling, "Spherical CNNs", ICLR 2018, arXiv:1801.10130, and "Convolutional Networks
for Spherical Signals", arXiv:1709.04893 (2017). A signal on the sphere is correlated with learned ones in every
rotation, which gives signals on the group SO(3); non-linearities act pointwise on a grid of rotations; further layers
correlate on the group; the mean over the group is invariant (see `spherical_signals` for the equations):

    [psi * f](R) = <psi(R^-1 x), f(x)>        [psi * h](R) = <psi(R^-1 Q), h(Q)>        y = <act(h(R))>_R

`SphericalNet` does that for whole signals (digits on a sphere, diffusion signals of a voxel). On a volume, each voxel
looks at spheres around it: the signal of width s at voxel p has as coefficients the moments of the neighbourhood

    f_s(p)^l_m = sum_q  x(p + q)  |q|^l Y^l_m(q / |q|)  exp(-|q|^2 / 2 s^2),    l <= 2,

and a block makes scalars of the scalars that it is given, so that a U-Net of such blocks segments.

What differs: kernels are free coefficients, not values on a ring near the pole; signals are divided by their root mean
square, and a batch norm there is only for the invariant means that `SphericalNet` reads; on volumes the grid of
rotations is one that the 24 rotations of the voxel grid keep (`OctahedralGrid`), so that those are exact, where the
papers' Euler angles leave an error of aliasing; resolution 2 (lmax + 1) of each Euler angle is the papers' (2b)^3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from voxseg.networks import UNet
from voxseg.networks.unet import Spacing, Triple
from voxseg.steerable import FieldNorm, FieldType, PointwiseConv3d, SolidHarmonicBasis
from voxseg.steerable.bases import lattice_for
from voxseg.steerable.layout import as_volume
from voxseg.steerable.separable import AxisTaps, separable_convolution

from .base import Baseline, skeleton
from .spherical_signals import EulerGrid, OctahedralGrid, RotationGrid, correlate_so3, correlate_sphere

__all__ = ["ShellMoments", "Spherical", "SphericalBlock", "SphericalNet"]

# Numbers of a voxel's signals on the grid of rotations that are alive at a time: 16 MB in float32.
_CHUNK = 2**22


class SphereToGroup(nn.Module):
    """S^2 correlation with learned kernels: ``[B, I, (lmax + 1)^2]`` to ``[B, O, sum_l (2l + 1)^2]``."""

    def __init__(self, lmax: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels_out, channels_in, (lmax + 1) ** 2) / math.sqrt(channels_in))

    def forward(self, signal: Tensor) -> Tensor:
        """Correlate."""
        return correlate_sphere(signal, self.kernel)


class GroupToGroup(nn.Module):
    """SO(3) correlation with learned kernels up to a degree, which may be lower than the signal's."""

    def __init__(self, lmax: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        size = sum((2 * degree + 1) ** 2 for degree in range(lmax + 1))
        self.kernel = nn.Parameter(torch.randn(channels_out, channels_in, size) / math.sqrt(channels_in))

    def forward(self, signal: Tensor) -> Tensor:
        """``[B, I, coefficients]`` to ``[B, O, coefficients]``."""
        return correlate_so3(signal, self.kernel)


class OnGroup(nn.Module):
    """Norm, bias, and SiLU at each rotation of a grid; back to coefficients, or to the mean over the group.

    Args:
        grid: of rotations.
        channels: of the signals.
        lmax: degree to which coefficients are kept; -1 for the mean alone.
        epsilon: added to the mean square of a signal.
    """

    def __init__(self, grid: RotationGrid, channels: int, lmax: int, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.grid, self.lmax, self.epsilon = grid, lmax, epsilon
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, signal: Tensor) -> Tensor:
        """``[B, C, coefficients]`` to ``[B, C, coefficients up to lmax]``, or to ``[B, C]``."""
        # The squares of all coefficients sum to the mean square over the group, which no rotation changes.
        energy = signal.square().sum(-1, keepdim=True).mean(-2, keepdim=True)
        values = self.grid.synthesise(signal * (energy + self.epsilon).rsqrt())
        values = F.silu(values + self.bias[:, None])
        if self.lmax < 0:
            return self.grid.mean(values)
        coefficients = self.grid.analyse(values)
        return coefficients[..., : sum((2 * degree + 1) ** 2 for degree in range(self.lmax + 1))]


class SphericalNet(nn.Module):
    """Signals on a sphere to invariant numbers.

    Args:
        channels_in: signals a sample.
        outputs: numbers a sample.
        lmax: highest degree of the signals, then of each layer's result but the last: ``(8, 4)`` is one S^2 and one
            SO(3) correlation.
        channels: of each layer's result.
        resolution: of the Euler angles, as a multiple of ``lmax + 1``; 2 is the paper's.

    Shape:
        ``[B, channels_in, (lmax[0] + 1)^2]`` to ``[B, outputs]``.
    """

    def __init__(
        self,
        channels_in: int,
        outputs: int,
        lmax: Sequence[int] = (8, 4),
        channels: Sequence[int] = (8, 24),
        resolution: int = 2,
    ) -> None:
        super().__init__()
        if len(lmax) != len(channels):
            raise ValueError(f"lmax and channels have an entry a layer, got {len(lmax)} and {len(channels)}")
        layers: list[nn.Module] = []
        for number, (degree, width) in enumerate(zip(lmax, channels, strict=True)):
            if number == 0:
                layers.append(SphereToGroup(degree, channels_in, width))
            else:
                layers.append(GroupToGroup(degree, channels[number - 1], width))
            kept = lmax[number + 1] if number + 1 < len(lmax) else -1
            layers.append(OnGroup(EulerGrid(degree, resolution * (degree + 1)), width, kept))
        self.layers = nn.Sequential(*layers)
        width = channels[-1]
        # Means over the group differ by little between signals: without the batch norm, digits are hardly learned.
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))

    def forward(self, signal: Tensor) -> Tensor:
        """See the class for shapes."""
        numbers: Tensor = self.head(self.layers(signal))
        return numbers


class ShellMoments(nn.Module):
    """The signals on spheres around each voxel: moments of the neighbourhood with Gaussians of several widths.

    Args:
        widths: in voxels of the input.
        stride: 1 or 2 per axis.

    Shape:
        ``[B, C, X, Y, Z]`` to ``[B, C, widths, 9, X', Y', Z']``, the components of degrees 0, 1 and 2.
    """

    def __init__(self, widths: Sequence[float], stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.bases = [SolidHarmonicBasis(width, 1.0) for width in widths]
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class for shapes."""
        lattice = lattice_for(x.shape[2:], (1.0, 1.0, 1.0), self.stride)
        single = x.flatten(0, 1)[:, None]  # a channel at a time: all see the same ten products
        parts = []
        for basis in self.bases:
            filters = torch.cat([f[0] for f in basis.filters(lattice)]).to(x)  # [9, 10], without the trace
            taps = [
                AxisTaps(basis.taps(1.0, centred).to(x), stride)
                for centred, stride in zip(lattice.centred, self.stride, strict=True)
            ]
            parts.append(separable_convolution(single, filters.T[:, None], x.new_zeros(9), (taps[0], taps[1], taps[2])))
        return torch.stack(parts, 1).unflatten(0, x.shape[:2])


class SphericalBlock(nn.Module):
    """Scalars to scalars: signals on spheres, S^2 correlation, SO(3) correlation, mean over the group.

    Beside the means go the plain averages of the neighbourhood (degree 0), mixed linearly.

    Args:
        channels_in: scalars that come in.
        channels_out: scalars that come out.
        signals: on the group between the two correlations.
        lmax: of the signals, 1 or 2.
        exact: see `OctahedralGrid`.
        widths: of the spheres, in voxels of the input.
        stride: 1 or 2 per axis.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        signals: int = 4,
        lmax: int = 2,
        exact: int | None = None,
        widths: Sequence[float] = (0.8, 1.3),
        stride: Triple = (1, 1, 1),
    ) -> None:
        super().__init__()
        if lmax not in (1, 2):
            raise ValueError(f"lmax is 1 or 2 on volumes, got {lmax}")
        self.coefficients = (lmax + 1) ** 2
        grid = OctahedralGrid(lmax, exact)
        self.samples = grid.samples * max(signals, channels_out)
        self.moments = ShellMoments(widths, stride)
        incoming = channels_in * len(widths)
        self.signals = nn.Sequential(
            SphereToGroup(lmax, incoming, signals),
            OnGroup(grid, signals, lmax),
            GroupToGroup(lmax, signals, channels_out),
            OnGroup(grid, channels_out, -1),
        )
        self.linear = nn.Linear(incoming, channels_out, bias=False)
        self.norm = FieldNorm(f"{channels_out}x0e")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels_in, X, Y, Z]`` to ``[B, channels_out, X', Y', Z']``."""
        moments = self.moments(x)[:, :, :, : self.coefficients]
        rows = moments.permute(0, 4, 5, 6, 1, 2, 3).flatten(0, 3).flatten(1, 2)  # [voxels, channels, coefficients]
        step = max(_CHUNK // self.samples, 1)
        means = torch.cat([self._means(part) for part in rows.split(step)])
        scalars = means + self.linear(rows[..., 0])
        return F.silu(self.norm(as_volume(scalars, (x.shape[0], *moments.shape[4:]))))

    def _means(self, rows: Tensor) -> Tensor:
        """Through the signals on the group, of which none is kept for the backward pass."""
        if torch.is_grad_enabled():
            means: Tensor = checkpoint(self.signals, rows, use_reentrant=False, preserve_rng_state=False)
            return means
        result: Tensor = self.signals(rows)
        return result


class _SphericalLayers:
    """Blocks for the U-Net's skeleton, whose fields are scalars alone."""

    def __init__(self, signals: int, lmax: int, exact: int | None, widths: Sequence[float]) -> None:
        self.signals, self.lmax, self.exact, self.widths = signals, lmax, exact, widths

    def block(
        self, field_in: FieldType, field_out: FieldType, spacing: Spacing, level: int, stride: Triple
    ) -> nn.Module:
        """A block; with stride 2 the spheres are wider."""
        del spacing, level
        widths = [width * 1.4 if max(stride) > 1 else width for width in self.widths]
        return SphericalBlock(
            field_in.channels, field_out.channels, self.signals, self.lmax, self.exact, widths, stride
        )

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of scalars."""
        return PointwiseConv3d(field_in.channels, field_out.channels)


class Spherical(Baseline):
    """A U-Net whose blocks are spherical CNNs at each voxel.

    Args:
        in_channels: of the volume.
        out_channels: of the logits.
        levels: scalars of each level, finest first.
        signals: on the group within a block.
        lmax: of the signals, 1 or 2.
        exact: 1 to 3, how fine the grid of rotations is (24, 96 or 216); `lmax` by default.
        widths: of the spheres around a voxel, in voxels of a level.

    Raises:
        ValueError: for an lmax beyond those.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[int] = (4, 12, 20),
        signals: int = 3,
        lmax: int = 2,
        exact: int | None = None,
        widths: Sequence[float] = (0.8, 1.3),
    ) -> None:
        super().__init__()
        fields = [f"{width}x0e" for width in levels]
        self.unet = UNet(skeleton(in_channels, out_channels, fields), _SphericalLayers(signals, lmax, exact, widths))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, X, Y, Z]`` to logits ``[B, out_channels, X, Y, Z]``."""
        logits = self.unet(x)
        assert isinstance(logits, Tensor)
        return logits
