"""The symmetric contraction of MACE: products of a feature with itself up to an order, coupled to irreps.

I. Batatia, D. P. Kovacs, G. N. C. Simm, C. Ortner, G. Csanyi, "MACE: Higher Order Equivariant Message Passing Neural
Networks for Fast and Accurate Force Fields", NeurIPS 2022, arXiv:2206.07697, eqs. 10 and 11:

    B_{c,LM} = sum_{n=1..order} sum_eta  w^n_{eta,c}  sum_{i1..in} U^{n,eta}_{LM, i1..in}  A_{c,i1} ... A_{c,in}

A_c holds one copy of each irrep, i runs over all their components, and the U span all equivariant symmetric maps: the
generalised Clebsch-Gordan coefficients, here from couplings of two at a time, which span them all before they are
symmetrised, and Gram-Schmidt.

A symmetric map of n factors is a polynomial, so that it needs one coefficient for each monomial instead of each tuple
of indices: 165 instead of 729 for three factors of the nine components of degrees 0, 1 and 2. All products of a voxel
are one row of monomials, and all B one product of matrices.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from voxseg.steerable import FieldType, wigner_3j

__all__ = ["SymmetricContraction", "contraction_polynomials", "monomials", "symmetric_basis"]


@lru_cache(maxsize=32)
def monomials(dimension: int, order: int) -> tuple[tuple[int, ...], ...]:
    """Sorted tuples of indices, one a monomial of exactly this order."""
    return tuple(itertools.combinations_with_replacement(range(dimension), order))


@lru_cache(maxsize=64)
def symmetric_basis(field: FieldType, kind: str, order: int) -> Tensor:
    """All equivariant polynomials of exactly an order, as coefficients of `monomials`.

    It is made in a fixed order without a decomposition that could choose signs, so that weights mean the same on every
    machine.

    Args:
        field: of A, one copy of each irrep.
        kind: of the output, such as ``1e``.
        order: number of factors.

    Returns:
        ``[n, 2L + 1, monomials]`` float64, orthonormal as symmetric tensors up to the factor ``(2L + 1) / order!``,
        which makes the polynomials of standard normal components of about unit size. n may be 0.
    """
    selections = {}
    for irrep, channels in field.slices():
        if irrep.multiplicity != 1:
            raise ValueError(f"one copy of each irrep is needed, got '{field}'")
        selections[irrep.degree, irrep.parity] = torch.eye(field.channels, dtype=torch.float64)[channels]
    tensors = [(degree, parity, selection) for (degree, parity), selection in selections.items()]
    for _ in range(order - 1):
        following = []
        for l1, p1, tensor in tensors:
            for (l2, p2), selection in selections.items():
                for made in range(abs(l1 - l2), l1 + l2 + 1):
                    coupled = torch.einsum("abc,bn,ci->ani", wigner_3j(made, l1, l2), tensor, selection)
                    following.append((made, p1 * p2, coupled.flatten(1)))
        tensors = following
    degree, parity = int(kind[:-1]), 1 if kind[-1] == "e" else -1
    names = monomials(field.channels, order)
    number = {name: k for k, name in enumerate(names)}
    where = torch.tensor(
        [number[tuple(sorted(index))] for index in itertools.product(range(field.channels), repeat=order)]
    )
    # A monomial stands for all orders of its indices: as a tensor its norm is that of the coefficient over their root.
    orders = torch.tensor(
        [math.factorial(order) / math.prod(map(math.factorial, Counter(name).values())) for name in names],
        dtype=torch.float64,
    )
    found: list[Tensor] = []
    for made, sign, tensor in tensors:
        if (made, sign) != (degree, parity):
            continue
        polynomial = tensor.new_zeros(len(tensor), len(names)).index_add(1, where, tensor) / orders.sqrt()
        size = polynomial.norm()
        for _ in range(2):  # once is not enough for Gram and Schmidt
            for other in found:
                polynomial = polynomial - (polynomial * other).sum() * other
        if polynomial.norm() > 1e-6 * max(float(size), 1e-6):
            found.append(polynomial / polynomial.norm())
    scale = math.sqrt((2 * degree + 1) / math.factorial(order))
    basis = torch.stack(found) if found else torch.zeros(0, 2 * degree + 1, len(names), dtype=torch.float64)
    return scale * basis * orders.sqrt()


@lru_cache(maxsize=32)
def contraction_polynomials(single: FieldType, out: FieldType, order: int) -> tuple[Tensor, tuple[int, ...]]:
    """All polynomials of orders 1 to `order` of all kinds.

    Args:
        single: of A, one copy of each irrep.
        out: of B, likewise.
        order: highest number of factors.

    Returns:
        ``[monomials, sum of n (2L + 1)]`` float64, monomials of order 1 first, and n of each irrep of B.

    Raises:
        ValueError: no polynomial has some kind.
    """
    columns, counts = [], []
    for irrep in out.irreps:
        bases = [symmetric_basis(single, irrep.name, n) for n in range(1, order + 1)]
        counts.append(sum(map(len, bases)))
        if not counts[-1]:
            raise ValueError(f"no product of up to {order} of '{single}' makes {irrep.name}")
        columns.append(torch.block_diag(*[b.flatten(0, 1).T for b in bases]))
    return torch.cat(columns, 1), tuple(counts)


class SymmetricContraction(nn.Module):
    """B of the module's docstring, with weights by soft class: ``w = sum_t a_t w_t``.

    Rows are taken `chunk` at a time, and each chunk is computed again in the backward pass: at any time at most
    ``2 chunk C (monomials + polynomials)`` numbers more than input and output are held, 219 and 101 for order 3 of
    degrees 0, 1 and 2 to the same degrees.

    Args:
        channels: C, copies of each irrep, in A and in B.
        kinds_in: irreps of A, such as ``0e+1e+2e``.
        kinds_out: irreps of B.
        order: highest number of factors, 1 to 3.
        classes: T.
        chunk: rows at a time.

    Attributes:
        field_in: type of A, C copies of each irrep.
        field_out: type of B.

    Raises:
        ValueError: no polynomial of these orders has some kind.

    Shape:
        ``[N, field_in.channels]`` and classes ``[N, T]`` to ``[N, field_out.channels]``.
    """

    def __init__(
        self, channels: int, kinds_in: str, kinds_out: str, order: int, classes: int = 1, chunk: int = 4096
    ) -> None:
        super().__init__()
        if order not in (1, 2, 3):
            raise ValueError(f"order is 1, 2 or 3, got {order}")
        single, out = FieldType(kinds_in), FieldType(kinds_out)
        self.channels, self.order, self.chunk = channels, order, chunk
        self.single, self.out = single, out
        self.field_in = FieldType("+".join(f"{channels}x{irrep.name}" for irrep in single.irreps))
        self.field_out = FieldType("+".join(f"{channels}x{irrep.name}" for irrep in out.irreps))
        self.polynomials, self.counts = contraction_polynomials(single, out, order)  # rounded where they are used
        sizes = [1 / math.sqrt(count) for count in self.counts for _ in range(count)]
        self.weights = nn.Parameter(torch.randn(classes, len(sizes), channels) * torch.tensor(sizes)[:, None])
        pairs = torch.tensor(monomials(single.channels, 2))
        number = {name: k for k, name in enumerate(monomials(single.channels, 2))}
        triples = [(number[name[:2]], name[2]) for name in monomials(single.channels, 3)]
        self._pairs: Tensor
        self._triples: Tensor
        self.register_buffer("_pairs", pairs, persistent=False)
        self.register_buffer("_triples", torch.tensor(triples), persistent=False)

    def forward(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Contract; see the class for shapes."""
        parts = []
        for part, a in zip(rows.split(self.chunk), classes.split(self.chunk), strict=True):
            if torch.is_grad_enabled():
                made = checkpoint(self._contract, part, a, use_reentrant=False)
                assert isinstance(made, Tensor)
                parts.append(made)
            else:
                parts.append(self._contract(part, a))
        return torch.cat(parts)

    def _contract(self, rows: Tensor, classes: Tensor) -> Tensor:
        # Components come first, so that factors are picked as whole rows of N C numbers: half the time of columns.
        fields = [rows[:, c].unflatten(1, (self.channels, -1)) for _, c in self.field_in.slices()]
        a = torch.cat(fields, 2).movedim(2, 0).contiguous()  # [components, N, C]
        weights = torch.einsum("nt,tkc->knc", classes, self.weights)
        return torch.cat([summed.movedim(0, 2).flatten(1) for summed in self._coupled(a, weights)], 1)

    def _coupled(self, a: Tensor, weights: Tensor) -> Sequence[Tensor]:
        """``[components, N, C]`` and ``[sum of n, N, C]`` to ``[2L + 1, N, C]`` for each irrep of B."""
        products = [a]
        if self.order > 1:
            products.append(a[self._pairs[:, 0]] * a[self._pairs[:, 1]])
        if self.order > 2:
            products.append(products[1][self._triples[:, 0]] * a[self._triples[:, 1]])
        made = torch.einsum("mk,mnc->knc", self.polynomials.to(a), torch.cat(products))  # sum of n (2L + 1) first
        parts, row, used = [], 0, 0
        for irrep, count in zip(self.out.irreps, self.counts, strict=True):
            block = made[row : row + count * irrep.components].unflatten(0, (count, irrep.components))
            parts.append((block * weights[used : used + count, None]).sum(0))
            row, used = row + count * irrep.components, used + count
        return parts
