"""Real spherical harmonics, Clebsch-Gordan coefficients and Wigner matrices, in float64 and in e3nn's basis.

All three are checked against e3nn by the tests; they stand here so that a prediction need not import it.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


def solid_harmonics(degree: int, points: Tensor) -> Tensor:
    """Real solid harmonics ``r^l Y_l(p / r)``, component-normalised (the squares over a unit sphere sum to ``2l + 1``).

    The polar axis is y and the azimuth runs from z to x, so that degree 1 is ``sqrt(3) (x, y, z)``. The Legendre part
    follows the usual three-term recursion for the associated functions without the Condon-Shortley sign (Abramowitz and
    Stegun, 8.5.3).

    Args:
        degree: l >= 0.
        points: ``[..., 3]``.

    Returns:
        ``[..., 2l + 1]``, order m = -l..l, in the points' dtype.
    """
    x, y, z = points.unbind(-1)
    radius2 = points.square().sum(-1)
    azimuth = [(torch.ones_like(x), torch.zeros_like(x))]  # real and imaginary part of (z + ix)^m
    for _ in range(degree):
        re, im = azimuth[-1]
        azimuth.append((re * z - im * x, re * x + im * z))
    columns = {}
    for m in range(degree + 1):
        previous, legendre = torch.zeros_like(y), torch.full_like(y, math.prod(range(1, 2 * m, 2)))
        for n in range(m + 1, degree + 1):
            following = ((2 * n - 1) * y * legendre - (n + m - 1) * radius2 * previous) / (n - m)
            previous, legendre = legendre, following
        scale = (2 * degree + 1) * (2 if m else 1) * math.factorial(degree - m) / math.factorial(degree + m)
        legendre = legendre * math.sqrt(scale)
        columns[m] = legendre * azimuth[m][0]
        if m:
            columns[-m] = legendre * azimuth[m][1]
    return torch.stack([columns[m] for m in range(-degree, degree + 1)], -1)


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """The invariant tensor of three degrees in the real basis, with unit Frobenius norm.

    Racah's formula (Varshalovich et al. 1988, 8.2.1) in the complex basis, then the change to real harmonics.

    Args:
        l1: first degree.
        l2: second degree.
        l3: third degree, ``|l1 - l2| <= l3 <= l1 + l2``.

    Returns:
        ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]`` float64.

    Raises:
        ValueError: if the degrees violate the triangle inequality.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees {l1}, {l2}, {l3} do not fulfil |l1 - l2| <= l3 <= l1 + l2")
    complex_tensor = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                complex_tensor[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    real = torch.einsum(
        "abc,ai,bj,ck->ijk",
        complex_tensor,
        _complex_from_real(l1),
        _complex_from_real(l2),
        _complex_from_real(l3).conj(),
    ).real
    return real / real.norm()


def wigner_d(degree: int, rotation: Tensor, parity: int = 1) -> Tensor:
    """The matrix by which components of a degree turn: ``Y_l(R p) = D_l(R) Y_l(p)``.

    Args:
        degree: l.
        rotation: ``[3, 3]`` orthogonal; with determinant -1 the matrix of the proper part is multiplied by ``parity``.
        parity: +1 for ``e``, -1 for ``o``.

    Returns:
        ``[2l + 1, 2l + 1]`` float64.
    """
    rotation = rotation.to(torch.float64)
    sign = 1.0
    if torch.linalg.det(rotation) < 0:
        rotation, sign = -rotation, float(parity)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(16 * (2 * degree + 1), 3, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=-1, keepdim=True)
    before, after = solid_harmonics(degree, points), solid_harmonics(degree, points @ rotation.T)
    return sign * torch.linalg.lstsq(before, after).solution.T


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int, m3: int) -> float:
    f = math.factorial
    lowest = max(0, j2 - j3 - m1, j1 - j3 + m2)
    highest = min(j1 + j2 - j3, j1 - m1, j2 + m2)
    total = sum(
        (-1) ** k
        / (f(k) * f(j1 + j2 - j3 - k) * f(j1 - m1 - k) * f(j2 + m2 - k) * f(j3 - j2 + m1 + k) * f(j3 - j1 - m2 + k))
        for k in range(lowest, highest + 1)
    )
    triangle = f(j1 + j2 - j3) * f(j1 - j2 + j3) * f(-j1 + j2 + j3) / f(j1 + j2 + j3 + 1)
    moments = f(j1 + m1) * f(j1 - m1) * f(j2 + m2) * f(j2 - m2) * f(j3 + m3) * f(j3 - m3)
    return math.sqrt((2 * j3 + 1) * triangle * moments) * total


def _complex_from_real(degree: int) -> Tensor:
    """``Y_complex = U Y_real``; the factor (-i)^l makes every invariant tensor real."""
    unitary = torch.zeros(2 * degree + 1, 2 * degree + 1, dtype=torch.complex128)
    unitary[degree, degree] = 1
    for m in range(1, degree + 1):
        root = 1 / math.sqrt(2)
        unitary[degree - m, degree + m] = root
        unitary[degree - m, degree - m] = torch.tensor(-1j * root, dtype=unitary.dtype)
        unitary[degree + m, degree + m] = (-1) ** m * root
        unitary[degree + m, degree - m] = 1j * (-1) ** m * root
    return (-1j) ** degree * unitary
