"""Steerable convolutions of others, in the skeleton of voxseg's U-Net, for `peers.py`.

What is compared is the convolution: all go between the same field types, in the same U-Net with the same norms and
gates. The grid is halved as the publication does it, by a pooling that takes the longest field.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voxseg.networks import NetworkConfig
from voxseg.networks.unet import UNet
from voxseg.steerable import FieldLinear, FieldNorm, FieldType, Gate, wigner_d
from voxseg.testing import rotation_matrix

DIAMETER = 5
"""Voxels that a kernel is wide, on the grid of its level."""
ESCNN_AXES = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""From the axes of a volume to the world of escnn's kernels: z, minus y, minus x."""


class PublishedConvolution(nn.Module):
    """The steerable convolution of Diaz, Geiger and McKinley (2024, MELBA 2024:010), written from the paper.

    ``K(p) = sum_paths sum_b emb_b(|p|) w_path,b CG Y_l(p / |p|)`` with five smooth functions of the radius of finite
    support and e3nn's tensor product, built anew in each pass, and a self-connection.

    Args:
        field_in: type of the input.
        field_out: type of the output.
        radial_functions: of the kernel.
        kernel_alone: leave the self-connection out. It turns exactly, and with fresh weights is ten times as strong as
            the kernel, so that it hides how well that turns.
    """

    def __init__(
        self, field_in: FieldType, field_out: FieldType, radial_functions: int = 5, kernel_alone: bool = False
    ) -> None:
        super().__init__()
        from e3nn import o3
        from e3nn.math import soft_one_hot_linspace

        harmonics = o3.Irreps("1x0e+1x1e+1x2e")
        axis = torch.arange(DIAMETER) - (DIAMETER - 1) / 2
        offsets = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
        embedding = soft_one_hot_linspace(
            offsets.norm(dim=-1), 0.0, DIAMETER / 2, radial_functions, basis="smooth_finite", cutoff=False
        )
        angular = o3.spherical_harmonics(harmonics, offsets, normalize=True, normalization="component")
        self.embedding: Tensor
        self.angular: Tensor
        self.register_buffer("embedding", embedding / DIAMETER**3)
        self.register_buffer("angular", angular)
        self.self_connection = None if kernel_alone else o3.Linear(str(field_in), str(field_out))
        self.product = o3.FullyConnectedTensorProduct(
            str(field_in),
            harmonics,
            str(field_out),
            shared_weights=False,
            compile_left_right=False,
            compile_right=True,
        )
        self.weight = nn.Parameter(torch.randn(radial_functions, self.product.weight_numel))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X, Y, Z]``."""
        kernel = self.product.right(self.angular, self.embedding @ self.weight)  # [x, y, z, C_in, C_out]
        result = F.conv3d(x, kernel.permute(4, 3, 0, 1, 2), padding=DIAMETER // 2)
        if self.self_connection is not None:
            result = result + self.self_connection(x.movedim(1, -1)).movedim(-1, 1)
        return result


def e3nn_convolution(field_in: FieldType, field_out: FieldType) -> nn.Module:
    """The voxel convolution that comes with e3nn."""
    from e3nn.nn.models.v2104.voxel_convolution import Convolution

    return Convolution(str(field_in), str(field_out), "1x0e+1x1e+1x2e", diameter=DIAMETER, num_radial_basis=5)


class EscnnConvolution(nn.Module):
    """`R3Conv` of escnn for SO(3) (Weiler et al. 2018; Cesa et al. 2022), on plain tensors.

    Raises:
        ImportError: if escnn cannot be imported. It needs `lie_learn`, whose wheels want numpy 1.
    """

    def __init__(self, field_in: FieldType, field_out: FieldType) -> None:
        super().__init__()
        _clebsch_gordan_without_fortran()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from escnn import gspaces
            from escnn import nn as escnn
        space = gspaces.rot3dOnR3()
        self._group = space.fibergroup
        self._tensor = escnn.GeometricTensor
        types_of = [
            escnn.FieldType(space, [self._group.irrep(i.degree) for i in field.irreps for _ in range(i.multiplicity)])
            for field in (field_in, field_out)
        ]
        self.fields = field_in, field_out
        self.convolution = escnn.R3Conv(*types_of, kernel_size=DIAMETER, padding=DIAMETER // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, X, Y, Z]`` to ``[B, C_out, X, Y, Z]``, in escnn's basis of each irrep."""
        result: Tensor = self.convolution(self._tensor(x, self.convolution.in_type)).tensor
        return result

    def in_e3nn_basis(self, x: Tensor) -> Tensor:
        """The same for fields in the basis of voxseg and e3nn, which takes two more products."""
        into, out = (self._basis(field).to(x) for field in self.fields)
        return torch.einsum("oi,boxyz->bixyz", out, self(torch.einsum("oi,bixyz->boxyz", into, x)))

    def _basis(self, field: FieldType) -> Tensor:
        """``[C, C]`` orthogonal Q with ``D_escnn(R) Q = Q D(R)`` for all rotations R."""
        blocks = []
        for irrep in field.irreps:
            size = irrep.components
            identity = np.eye(size)
            conditions = []
            for axis, angle in (((1, 2, 3), 40.0), ((-2, 1, 0.5), 75.0)):
                turn = rotation_matrix(axis, angle)
                element = self._group.element(ESCNN_AXES @ turn.numpy() @ ESCNN_AXES.T, "MAT")
                theirs = self._group.irrep(irrep.degree)(element)
                ours = wigner_d(irrep.degree, turn).numpy()
                conditions.append(np.kron(theirs, identity) - np.kron(identity, ours.T))
            null = np.linalg.svd(np.concatenate(conditions))[2][-1]
            blocks += [torch.from_numpy(null.reshape(size, size) * size**0.5)] * irrep.multiplicity
        return torch.block_diag(*blocks)


def _clebsch_gordan_without_fortran() -> None:
    """Stand in for `py3nj`, which escnn asks for one function and which takes a Fortran compiler to install."""
    try:
        import py3nj  # noqa: F401
    except ImportError:
        from sympy import Rational
        from sympy.physics.quantum.cg import CG

        def clebsch_gordan(*doubled: np.ndarray) -> np.ndarray:
            def one(j1: int, j2: int, j3: int, m1: int, m2: int, m3: int) -> float:
                halves = (Rational(int(number), 2) for number in (j1, m1, j2, m2, j3, m3))
                return float(CG(*halves).doit())

            return np.vectorize(one)(*doubled)

        module: Any = types.ModuleType("py3nj")
        module.clebsch_gordan = clebsch_gordan
        sys.modules["py3nj"] = module


class LongestOfEight(nn.Module):
    """Halves the grid: of two voxels along each axis, each field is taken where it is longest.

    Args:
        field: type of input and output.
    """

    def __init__(self, field: FieldType) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, X, Y, Z]`` to ``[B, C, X / 2, Y / 2, Z / 2]``."""
        parts = []
        for irrep, channels in self.field.slices():
            part = x[:, channels].unflatten(1, (irrep.multiplicity, irrep.components))
            # Scalars by their value, as is usual.
            length = part[:, :, 0] if irrep.components == 1 else part.square().sum(2)
            _, index = F.max_pool3d(length, 2, return_indices=True)  # [B, multiplicity, ...]
            flat = index.flatten(2)[:, :, None].expand(-1, -1, irrep.components, -1)
            taken = part.flatten(3).gather(3, flat).unflatten(3, index.shape[2:])
            parts.append(taken.flatten(1, 2))
        return torch.cat(parts, 1)


class PeerLayers:
    """Layers of the U-Net around a convolution of others.

    Args:
        convolution: makes one between two field types.
    """

    def __init__(self, convolution: Callable[[FieldType, FieldType], nn.Module]) -> None:
        self.convolution = convolution

    def block(
        self,
        field_in: FieldType,
        field_out: FieldType,
        spacing: tuple[float, float, float],
        level: int,
        stride: tuple[int, int, int],
    ) -> nn.Module:
        """Pooling if the grid is halved, convolution, norm, gate."""
        del spacing, level  # kernels are as many voxels wide on every level
        gate = Gate(field_out)
        pooling = [LongestOfEight(field_in)] if max(stride) > 1 else []
        return nn.Sequential(*pooling, self.convolution(field_in, gate.field_in), FieldNorm(gate.field_in), gate)

    def linear(self, field_in: FieldType, field_out: FieldType) -> nn.Module:
        """Mixing of fields of one kind."""
        return FieldLinear(field_in, field_out)


def peer_unet(convolution: Callable[[FieldType, FieldType], nn.Module], config: NetworkConfig) -> nn.Module:
    """Voxseg's U-Net with another convolution."""
    return UNet(config, PeerLayers(convolution))
