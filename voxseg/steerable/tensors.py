"""Products of two representations as matrices and as fields: tensor expansion and contraction, symmetric 3x3 tensors.

A matrix ``H`` that turns as ``D_l1(R) H D_l2(R)^T`` holds one field of each degree ``L`` from ``|l1 - l2|`` to
``l1 + l2``. With the invariant tensors ``w`` of `wigner_3j`,

    H_ij = sum_L sqrt(2 L + 1) sum_m w^L_ijm x^L_m,   x^L_m = sqrt(2 L + 1) sum_ij w^L_ijm H_ij

(Unke et al. 2021, arXiv:2106.02347, equations 6 and 7, in real and orthonormal form). Both are orthogonal, so that the
Frobenius norm of the matrix is the norm of the fields, and each undoes the other. Symmetric 3x3 tensors are the degrees
0 and 2 of ``1 x 1``; degree 1 is the antisymmetric part.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from .fields import FieldType
from .harmonics import wigner_3j, wigner_d

__all__ = [
    "contract",
    "expand",
    "fractional_anisotropy",
    "main_axis",
    "representation",
    "symmetric_from_fields",
    "symmetric_to_fields",
]


@cache
def _product_basis(l1: int, l2: int) -> Tensor:
    """The orthogonal change of basis ``[2 l1 + 1, 2 l2 + 1, (2 l1 + 1)(2 l2 + 1)]`` float64, degrees ascending."""
    blocks = []
    for degree in range(abs(l1 - l2), l1 + l2 + 1):
        block = math.sqrt(2 * degree + 1) * wigner_3j(l1, l2, degree)
        if degree == 0 and torch.einsum("iim->", block) < 0:
            block = -block  # the scalar of a matrix is its trace, and that of a positive one is positive
        blocks.append(block)
    return torch.cat(blocks, -1)


def expand(fields: Tensor, l1: int, l2: int) -> Tensor:
    """Matrices of fields.

    Args:
        fields: ``[..., (2 l1 + 1)(2 l2 + 1)]``, one of each degree from ``|l1 - l2|`` to ``l1 + l2`` in that order.
        l1: degree by which the rows turn.
        l2: degree by which the columns turn.

    Returns:
        ``[..., 2 l1 + 1, 2 l2 + 1]``.
    """
    return torch.einsum("ijc,...c->...ij", _product_basis(l1, l2).to(fields), fields)


def contract(matrices: Tensor, l1: int, l2: int) -> Tensor:
    """The fields in matrices: the inverse of `expand`, shapes the other way round."""
    return torch.einsum("ijc,...ij->...c", _product_basis(l1, l2).to(matrices), matrices)


def symmetric_from_fields(fields: Tensor) -> Tensor:
    """Symmetric tensors ``[..., 3, 3]`` of fields ``0e+2e``, ``[..., 6]``; the scalar is ``trace / sqrt(3)``."""
    return torch.einsum("ijc,...c->...ij", _symmetric_basis().to(fields), fields)


def symmetric_to_fields(tensors: Tensor) -> Tensor:
    """Fields ``0e+2e`` ``[..., 6]`` of symmetric tensors ``[..., 3, 3]``; an antisymmetric part is left out."""
    return torch.einsum("ijc,...ij->...c", _symmetric_basis().to(tensors), tensors)


@cache
def _symmetric_basis() -> Tensor:
    return _product_basis(1, 1)[..., [0, 4, 5, 6, 7, 8]]


def representation(field: FieldType | str, rotation: Tensor) -> Tensor:
    """``D(R)`` on all channels of a field type.

    Args:
        field: its type.
        rotation: ``[3, 3]`` orthogonal; with determinant -1 parities count (`wigner_d`).

    Returns:
        ``[C, C]`` float64.
    """
    blocks = [
        wigner_d(irrep.degree, rotation, irrep.parity)
        for irrep in FieldType(field).irreps
        for _ in range(irrep.multiplicity)
    ]
    return torch.block_diag(*blocks)


def fractional_anisotropy(tensors: Tensor, epsilon: float = 0.0) -> Tensor:
    """How far symmetric tensors are from round, 0 to 1 for those without negative eigenvalues.

    ``sqrt(3/2) |D - tr(D)/3| / |D|`` (Basser and Pierpaoli 1996, doi:10.1006/jmrb.1996.0086), which needs no eigenvalue
    and so has a gradient wherever the tensor is neither zero nor round.

    Args:
        tensors: ``[..., 3, 3]``.
        epsilon: added to both sums of squares, for gradients at zero and at round tensors.

    Returns:
        ``[...]``; 0 where the tensor is 0.
    """
    trace = tensors.diagonal(dim1=-2, dim2=-1).sum(-1)
    deviation = tensors - trace[..., None, None] / 3 * torch.eye(3, dtype=tensors.dtype, device=tensors.device)
    uneven, whole = deviation.square().sum((-2, -1)) + epsilon, tensors.square().sum((-2, -1)) + epsilon
    return torch.where(whole > 0, (1.5 * uneven / whole.clamp(min=torch.finfo(whole.dtype).tiny)).sqrt(), 0)


def main_axis(tensors: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of symmetric tensors and a unit eigenvector, whose sign means nothing.

    Args:
        tensors: ``[..., 3, 3]``.

    Returns:
        ``[...]`` and ``[..., 3]``, the vector with its largest component positive.
    """
    values, vectors = torch.linalg.eigh(tensors)
    axis = vectors[..., -1]
    largest = axis.gather(-1, axis.abs().argmax(-1, keepdim=True))
    return values[..., -1], axis * torch.where(largest < 0, -1, 1)
