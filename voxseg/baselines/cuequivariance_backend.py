"""The symmetric contraction of MACE, computed by NVIDIA's cuequivariance: the same weights, the same values.

The library computes sums of products of segments, a segmented polynomial, on a GPU by one kernel, with
`cuequivariance_ops_torch` installed, and elsewhere by plain PyTorch. It has a symmetric contraction too, whose basis is
another. This one is made of the coefficients of `voxseg.baselines.symmetric_contraction` instead, one path for each:

    B_j  +=  c  w_k  A_{i1} ... A_{in}      for rows of channels w_k, A_i and B_j

so that weights trained with either run with both.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from voxseg.errors import UserError
from voxseg.steerable import FieldType

from .symmetric_contraction import SymmetricContraction, contraction_polynomials, monomials

__all__ = ["CuequivarianceContraction", "segmented_polynomial"]


class CuequivarianceContraction(SymmetricContraction):
    """`SymmetricContraction` by cuequivariance; see there for arguments, attributes and shapes.

    Plain PyTorch holds a row of C numbers for each path, 367 where the own contraction holds 219 + 101.

    Raises:
        UserError: the library is not installed.
        ValueError: as `SymmetricContraction`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if not all(map(importlib.util.find_spec, ("cuequivariance", "cuequivariance_torch"))):
            raise UserError(
                "network.arguments.backend: cuequivariance",
                "the library is not installed",
                "pip install 'voxseg[cuequivariance]', or set it to own, which gives the same with the same weights",
            )

    def _coupled(self, a: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        # The library wants rows first, then segments of channels.
        operands = [operand.movedim(1, 0).flatten(1) for operand in (weights.to(a), a)]
        with torch.autocast(a.device.type, enabled=False):
            (made,) = _engine(self.single, self.out, self.order, self.channels, a.device)(operands)
        return made.unflatten(1, (-1, self.channels)).movedim(0, 1).split([i.components for i in self.out.irreps])


def segmented_polynomial(single: FieldType, out: FieldType, order: int, channels: int) -> Any:
    """The contraction in the library's terms.

    Args:
        single: of A, one copy of each irrep.
        out: of B, likewise.
        order: highest number of factors.
        channels: C.

    Returns:
        A ``cuequivariance.SegmentedPolynomial`` of weights ``[N, n C]`` and A ``[N, components C]``, channels last, to
        B ``[N, components C]``. All segments have C numbers, as the library's kernel wants it.
    """
    import cuequivariance as cue

    columns, counts = contraction_polynomials(single, out, order)
    rows = [name for n in range(1, order + 1) for name in monomials(single.channels, n)]
    # Of each column, which weight and which component of B it is for.
    ends, weight, component = [], 0, 0
    for irrep, count in zip(out.irreps, counts, strict=True):
        ends += [(weight + k, component + j) for k in range(count) for j in range(irrep.components)]
        weight, component = weight + count, component + irrep.components
    sizes = (weight, single.channels, component)
    operands = [cue.SegmentedOperand(ndim=1, segments=[(channels,)] * size) for size in sizes]
    buffers = {n: [0, *[1] * n, 2] for n in range(1, order + 1)}
    products = {n: cue.SegmentedTensorProduct([(operands[b], "u") for b in buffers[n]]) for n in buffers}
    # What orthogonalising left of zeros is about 1e-17.
    for row, column in (columns.abs() > 1e-9).nonzero().tolist():
        k, j = ends[column]
        products[len(rows[row])].add_path(k, *rows[row], j, c=float(columns[row, column]))
    used = [(cue.Operation(buffers[n]), product) for n, product in products.items() if product.num_paths]
    return cue.SegmentedPolynomial(operands[:2], operands[2:], used)


@lru_cache(maxsize=32)
def _engine(single: FieldType, out: FieldType, order: int, channels: int, device: torch.device) -> nn.Module:
    """The polynomial on a device, kept here and not in the module, whose state dict its constants would enter."""
    import cuequivariance_torch as cuet

    kernels = device.type == "cuda" and importlib.util.find_spec("cuequivariance_ops_torch")
    polynomial = segmented_polynomial(single, out, order, channels)
    engine: nn.Module = cuet.SegmentedPolynomial(polynomial, method="uniform_1d" if kernels else "naive")
    return engine.to(device)
