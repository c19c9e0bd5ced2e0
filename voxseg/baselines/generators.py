"""Representations of any group, given by its generators, and all that commutes with them.

I. Batatia, M. Geiger, J. Munoz, T. Smidt, L. Silberman, C. Ortner, "A General Framework for Equivariant Neural Networks
on Reductive Lie Groups", NeurIPS 2023, arXiv:2306.00091.

A representation is known by the matrices of the group's generators: X_k for each element of a basis of the Lie algebra
(the group's connected part is their exponentials), H_k for each of the finite generators (mirrors, point reflections)
that the connected part lacks. A tensor C over representations a, b, c is invariant if and only if

    (X_k^a (x) 1 (x) 1 + 1 (x) X_k^b (x) 1 + 1 (x) 1 (x) X_k^c) C = 0    for all k,
    (H_k^a (x) H_k^b (x) H_k^c - 1) C = 0                                for all k,

a linear problem whose null space needs no more knowledge of the group. Between orthogonal representations, which are
their own duals, the invariants of a, b, c are the Clebsch-Gordan coefficients of a (x) b -> c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Representation", "canonical_basis", "clebsch_gordan", "invariants", "representation_on"]

# An eigenvalue of the constraints' Gram matrix counts as zero below this; the others are of the order of 1.
_ZERO = 1e-8


@dataclass(frozen=True)
class Representation:
    """Matrices of a group's generators.

    Attributes:
        algebra: ``[generators, d, d]`` float64, of the basis of the Lie algebra.
        finite: ``[finite generators, d, d]`` float64.
    """

    algebra: Tensor
    finite: Tensor

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.algebra.shape[-1])

    def dual(self) -> Representation:
        """How the coefficients of what turns by this representation turn: ``-X^T`` and ``H^-T``."""
        return Representation(-self.algebra.mT.contiguous(), torch.linalg.inv(self.finite).mT.contiguous())

    def with_sign(self, signs: Sequence[float]) -> Representation:
        """The same, with each finite generator's matrix multiplied by a sign."""
        factors = torch.tensor(list(signs), dtype=torch.float64).reshape(-1, 1, 1)
        return Representation(self.algebra, self.finite * factors)


def representation_on(
    functions: Callable[[Tensor], Tensor], spatial: Representation, dimensions: int = 3, seed: int = 0
) -> Representation:
    """How functions of position turn into each other: matrices M with ``f(g p) = M(g) f(p)``.

    Args:
        functions: ``[P, 3]`` positions to ``[P, d]`` values of functions that are linearly independent and whose span
            the group maps to itself.
        spatial: the group's action on position.
        dimensions: of position.
        seed: of the points at which functions are compared.

    Raises:
        ValueError: if the span is not mapped to itself.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(200, dimensions, generator=generator, dtype=torch.float64)
    values = functions(points)

    def matrix(turned: Tensor) -> Tensor:
        solution = torch.linalg.lstsq(values, turned).solution
        if not torch.allclose(values @ solution, turned, atol=1e-8 * float(values.abs().max())):
            raise ValueError("the group does not map the span of these functions to itself")
        return solution.T.contiguous()

    size = (0, values.shape[1], values.shape[1])
    # d/dt f(exp(t X) p) at t = 0 is the derivative of f along X p.
    algebra = [matrix(torch.func.jvp(functions, (points,), (points @ X.T,))[1]) for X in spatial.algebra]
    finite = [matrix(functions(points @ H.T)) for H in spatial.finite]
    empty = torch.zeros(size, dtype=torch.float64)
    return Representation(torch.stack(algebra) if algebra else empty, torch.stack(finite) if finite else empty)


def invariants(*representations: Representation) -> Tensor:
    """All invariant tensors over representations, an orthonormal basis that does not depend on the machine.

    Returns:
        ``[solutions, d_1, ..., d_n]`` float64.
    """
    sizes = [r.dimension for r in representations]
    total = torch.Size(sizes).numel()
    gram = torch.zeros(total, total, dtype=torch.float64)
    for k in range(len(representations[0].algebra)):
        constraint = sum(
            (_at(r.algebra[k], place, sizes) for place, r in enumerate(representations)),
            torch.zeros(total, total, dtype=torch.float64),
        )
        gram += constraint.T @ constraint
    for k in range(len(representations[0].finite)):
        constraint = torch.ones(1, 1, dtype=torch.float64)
        for r in representations:
            constraint = torch.kron(constraint, r.finite[k])
        constraint = constraint - torch.eye(total, dtype=torch.float64)
        gram += constraint.T @ constraint
    values, vectors = torch.linalg.eigh(gram)
    null = vectors[:, values < _ZERO * max(1.0, float(values[-1]))]
    return canonical_basis(null @ null.T).reshape(-1, *sizes)


def clebsch_gordan(a: Representation, b: Representation, c: Representation) -> Tensor:
    """The couplings ``a (x) b -> c`` of orthogonal representations: ``[solutions, d_a, d_b, d_c]``, orthonormal.

    For the irreps of SO(3) there is at most one, Wigner's 3j symbol up to its sign.
    """
    return invariants(a, b, c)


def canonical_basis(projector: Tensor) -> Tensor:
    """An orthonormal basis of the range of an orthogonal projector that depends on the projector alone.

    Eigenvectors of one eigenvalue are whatever a LAPACK makes of them. Here unit vectors are projected and
    orthogonalised in their order, so that weights mean the same kernels on every machine.

    Args:
        projector: ``[n, n]`` float64.

    Returns:
        ``[rank, n]``.
    """
    rank = round(float(projector.trace()))
    rows: list[Tensor] = []
    # One that is nearly within the span of those before it would blow up rounding; there are always clear ones.
    for least in (0.1, 1e-3):
        for column in projector.T:
            if len(rows) == rank:
                break
            rest = column
            for _ in range(2):  # a second time takes off what rounding has left
                if rows:
                    basis = torch.stack(rows)
                    rest = rest - basis.T @ (basis @ rest)
            length = float(rest.norm())
            if length > least:
                rows.append(rest / length)
    return torch.stack(rows) if rows else projector.new_zeros(0, len(projector))


def _at(matrix: Tensor, place: int, sizes: Sequence[int]) -> Tensor:
    """``1 (x) ... (x) matrix (x) ... (x) 1``."""
    before, after = torch.Size(sizes[:place]).numel(), torch.Size(sizes[place + 1 :]).numel()
    one = torch.kron(torch.eye(before, dtype=torch.float64), matrix)
    return torch.kron(one, torch.eye(after, dtype=torch.float64))
