"""Signals on the sphere and on the rotation group: transforms, correlations, and grids to be non-linear on.

T. Cohen, M. Geiger, J. Köhler, M. Welling, "Spherical CNNs", ICLR 2018, arXiv:1801.10130, and "Convolutional Networks
for Spherical Signals", arXiv:1709.04893 (2017). With real harmonics Y (component-normalised, orthonormal for the mean
over the sphere) and their matrices D,

    f(x) = sum_lm f^l_m Y^l_m(x),        h(R) = sum_lmn h^l_mn sqrt(2l + 1) D^l_mn(R),

and with means over the sphere and over the group in place of integrals

    S^2:    [psi * f](R) = <psi(R^-1 x) f(x)>_x    has    h^l_mn = f^l_m psi^l_n / sqrt(2l + 1),
    SO(3):  [psi * f](R) = <psi(R^-1 Q) f(Q)>_Q    has    h^l_mj = sum_n f^l_mn psi^l_jn / sqrt(2l + 1):

block by block outer and matrix products (the generalised convolution theorem). The left index m turns as the components
of degree l do, so that a signal on the group is 2l + 1 fields of each degree l.

Coefficients are packed: ``[..., (lmax + 1)^2]`` on the sphere, ``[..., sum_l (2l + 1)^2]`` on the group, l by l, row by
row.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from voxseg.steerable import solid_harmonics, wigner_d
from voxseg.testing import grid_rotations

__all__ = [
    "EulerGrid",
    "OctahedralGrid",
    "RotationGrid",
    "coefficients_of_samples",
    "correlate_so3",
    "correlate_sphere",
    "degrees_so3",
    "harmonics",
    "rotation_by_angles",
    "wigner_row",
]


class RotationGrid(Protocol):
    """Rotations at which a signal on the group is looked at, and by which it is known again."""

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """``[..., coefficients]`` to ``[..., samples]``."""

    def analyse(self, samples: Tensor) -> Tensor:
        """``[..., samples]`` to ``[..., coefficients]`` of what the samples hold up to the grid's degree."""

    def mean(self, samples: Tensor) -> Tensor:
        """``[..., samples]`` to ``[...]``, the mean over the group: the coefficient of degree 0."""


def harmonics(lmax: int, points: Tensor) -> Tensor:
    """Spherical harmonics of all degrees at unit vectors ``[..., 3]``: ``[..., (lmax + 1)^2]``."""
    return torch.cat([solid_harmonics(degree, points) for degree in range(lmax + 1)], -1)


def degrees_so3(lmax: int) -> list[slice]:
    """Where the coefficients of each degree lie in a packed signal on the group."""
    ends = list(itertools.accumulate((2 * degree + 1) ** 2 for degree in range(lmax + 1)))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def wigner_row(lmax: int, rotation: Tensor) -> Tensor:
    """``sqrt(2l + 1) D^l_mn(R)`` packed: what coefficients are multiplied by to have the signal at R."""
    return torch.cat([math.sqrt(2 * n + 1) * wigner_d(n, rotation).flatten() for n in range(lmax + 1)])


def rotation_by_angles(alpha: float, beta: float, gamma: float) -> Tensor:
    """e3nn's Euler angles: about y by gamma, then about x by beta, then about y by alpha; ``[3, 3]`` float64."""

    def about_y(angle: float) -> Tensor:
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)

    c, s = math.cos(beta), math.sin(beta)
    about_x = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
    return about_y(alpha) @ about_x @ about_y(gamma)


def coefficients_of_samples(
    values: Tensor, points: Tensor, lmax: int, even: bool = False, ridge: float = 0.0
) -> Tensor:
    """The signal of least squares through samples at any directions.

    Args:
        values: ``[..., P]``.
        points: ``[P, 3]`` unit vectors.
        lmax: highest degree.
        even: odd degrees are zero, for signals that are the same in opposite directions.
        ridge: weight of ``l^2 (l + 1)^2`` against the mean squared misfit, which keeps noise out of high degrees.

    Returns:
        ``[..., (lmax + 1)^2]``.
    """
    degree = torch.tensor([n for n in range(lmax + 1) for _ in range(2 * n + 1)])
    kept = degree % 2 == 0 if even else torch.ones_like(degree, dtype=torch.bool)
    matrix = harmonics(lmax, points.double())[:, kept]
    roughness = (degree[kept] * (degree[kept] + 1)).double().square()
    gram = matrix.T @ matrix / len(points) + ridge * torch.diag(roughness)
    solver = torch.linalg.solve(gram, matrix.T / len(points))  # [coefficients, P]
    coefficients = values.new_zeros(*values.shape[:-1], len(degree))
    coefficients[..., kept] = values @ solver.T.to(values)
    return coefficients


def correlate_sphere(signal: Tensor, kernel: Tensor) -> Tensor:
    """S^2 correlation, summed over the channels that come in.

    Args:
        signal: ``[B, I, (lmax + 1)^2]``.
        kernel: ``[O, I, (lmax + 1)^2]``.

    Returns:
        ``[B, O, sum_l (2l + 1)^2]``.
    """
    blocks = []
    for degree in range(math.isqrt(signal.shape[-1])):
        part = slice(degree**2, (degree + 1) ** 2)
        block = torch.einsum("bim,oin->bomn", signal[..., part], kernel[..., part])
        blocks.append(block.flatten(2) / math.sqrt(2 * degree + 1))
    return torch.cat(blocks, -1)


def correlate_so3(signal: Tensor, kernel: Tensor) -> Tensor:
    """SO(3) correlation, summed over the channels that come in; degrees that only one of the two has are left out.

    Args:
        signal: ``[B, I, sum_l (2l + 1)^2]``.
        kernel: ``[O, I, sum_l (2l + 1)^2]``.

    Returns:
        ``[B, O, sum_l (2l + 1)^2]``.
    """
    blocks: list[Tensor] = []
    total = min(signal.shape[-1], kernel.shape[-1])
    for degree in itertools.count():
        start = degree * (4 * degree**2 - 1) // 3
        part, shape = slice(start, start + (2 * degree + 1) ** 2), (2 * degree + 1,) * 2
        if part.stop > total:
            return torch.cat(blocks, -1)
        f, psi = signal[..., part].unflatten(-1, shape), kernel[..., part].unflatten(-1, shape)
        blocks.append(torch.einsum("bimn,oijn->bomj", f, psi).flatten(2) / math.sqrt(2 * degree + 1))
    raise AssertionError("unreachable")


class EulerGrid:
    """Euler angles on a product grid, with a fast Fourier transform over the two azimuths.

    ``D^l(alpha, beta, gamma) = V diag(e^{i a alpha}) V* X(beta) V diag(e^{i b gamma}) V*``, so that for each beta a
    signal is a Fourier sum over (a, b) whose coefficients are sums over l alone: ``n^3 log n + n lmax^3`` steps in
    place of the ``n^3 lmax^3`` of the direct sum. Azimuths are equally spaced, beta lies at Gauss-Legendre nodes (the
    paper's are equally spaced too, which needs twice as many for the same exactness).

    Args:
        lmax: highest degree of signals.
        resolution: samples of each angle, at least ``2 lmax + 1``; more of them let less of what a non-linearity adds
            beyond lmax fall back.
    """

    def __init__(self, lmax: int, resolution: int | None = None) -> None:
        self.lmax, self.n = lmax, resolution or 2 * (lmax + 1)
        if self.n < 2 * lmax + 1:
            raise ValueError(f"degree {lmax} needs a resolution of at least {2 * lmax + 1}, got {self.n}")
        nodes, weights = np.polynomial.legendre.leggauss(self.n)
        self.betas = torch.from_numpy(np.arccos(nodes))
        self.weights = torch.from_numpy(weights / 2)  # of a mean over the sphere
        self.frequencies = [_frequencies(degree) for degree in range(lmax + 1)]
        # X(beta) between the frequencies a and b >= 0, which are all that a real signal needs, zero where a degree has
        # no such frequency: [(2 lmax + 1) (lmax + 1), lmax + 1, n].
        self.polar = torch.stack(
            [
                _among_all(
                    v.conj().T @ torch.stack([_about_x(degree, beta) for beta in self.betas.tolist()]).to(v) @ v, lmax
                )
                * math.sqrt(2 * degree + 1)
                for degree, v in enumerate(self.frequencies)
            ]
        ).permute(2, 0, 1)
        self.places = torch.arange(-lmax, lmax + 1) % self.n  # of the frequencies a in a Fourier transform

    @property
    def samples(self) -> int:
        """n^3."""
        return self.n**3

    def rotations(self) -> Tensor:
        """``[n^3, 3, 3]``, in the order of the samples: alpha, beta, gamma, the last fastest."""
        azimuths = [2 * math.pi * k / self.n for k in range(self.n)]
        angles = itertools.product(azimuths, self.betas.tolist(), azimuths)
        return torch.stack([rotation_by_angles(*a) for a in angles])

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """``[..., sum_l (2l + 1)^2]`` to ``[..., n^3]``."""
        n, lmax, lead = self.n, self.lmax, coefficients.shape[:-1]
        kind = torch.promote_types(coefficients.dtype, torch.complex64)
        flat = coefficients.reshape(-1, coefficients.shape[-1])
        blocks = []
        for degree, part in enumerate(degrees_so3(lmax)):
            v = self.frequencies[degree].to(flat.device, kind)
            block = flat[:, part].unflatten(-1, (2 * degree + 1,) * 2).to(kind)
            blocks.append(_among_all(v.T @ block @ v.conj(), lmax))
        # For each pair of frequencies a product of [signals, degrees] and [degrees, n].
        spectrum = torch.stack(blocks).permute(2, 1, 0) @ self.polar.to(flat.device, kind)
        spectrum = spectrum.view(2 * lmax + 1, lmax + 1, -1, n).permute(2, 3, 0, 1)  # signals, beta, a, b
        whole = spectrum.new_zeros(len(flat), n, n, lmax + 1).index_copy(2, self.places.to(flat.device), spectrum)
        # Where there is no b, the transform takes zeros. Alpha first: the last axis of an inverse real transform is b.
        values = torch.fft.irfft2(whole, (n, n), norm="forward")  # [signals, beta, alpha, gamma]
        return values.transpose(-3, -2).reshape(*lead, n**3)

    def analyse(self, samples: Tensor, lmax: int | None = None) -> Tensor:
        """``[..., n^3]`` to ``[..., sum_l (2l + 1)^2]``, up to `lmax` or the grid's own."""
        n, lead = self.n, samples.shape[:-1]
        values = samples.reshape(-1, n, n, n).transpose(-3, -2)
        spectrum = torch.fft.rfft2(values, norm="forward")[..., : self.lmax + 1].conj()
        spectrum = spectrum[:, :, self.places.to(samples.device)].permute(2, 3, 0, 1).flatten(0, 1)
        weighted = (self.polar * self.weights).transpose(1, 2).to(spectrum)
        if lmax is not None:
            weighted = weighted[:, :, : lmax + 1]
        found = (spectrum @ weighted).unflatten(0, (2 * self.lmax + 1, self.lmax + 1))  # a, b, signals, degrees
        blocks = []
        for degree in range(found.shape[-1]):
            v = self.frequencies[degree].to(spectrum)
            block = found[self.lmax - degree : self.lmax + degree + 1, : degree + 1, :, degree].permute(2, 0, 1)
            # The frequencies (-a, -b) add the complex conjugate of what (a, b) do.
            twice = torch.tensor([1.0] + [2.0] * degree).to(block)
            blocks.append((v @ (block * twice) @ v[:, degree:].conj().T).real.flatten(1))
        return torch.cat(blocks, -1).unflatten(0, lead) if lead else torch.cat(blocks, -1)[0]

    def mean(self, samples: Tensor) -> Tensor:
        """``[..., n^3]`` to ``[...]``, the mean over the group."""
        n = self.n
        return samples.unflatten(-1, (n, n, n)).mean((-3, -1)) @ self.weights.to(samples)


def _among_all(block: Tensor, lmax: int) -> Tensor:
    """A degree's ``[..., a, b]`` in the place that it has among those of lmax, b >= 0, flattened."""
    degree = block.shape[-1] // 2
    around = lmax - degree
    return torch.nn.functional.pad(block[..., degree:], (0, around, around, around)).flatten(-2)


def _about_x(degree: int, beta: float) -> Tensor:
    return wigner_d(degree, rotation_by_angles(0, beta, 0))


@cache
def _frequencies(degree: int) -> Tensor:
    """V: its columns are what a turn about y by alpha multiplies by ``e^{i a alpha}``, in real harmonics."""
    v = torch.zeros(2 * degree + 1, 2 * degree + 1, dtype=torch.complex128)
    v[degree, degree] = 1
    turn = wigner_d(1, rotation_by_angles(0.1, 0, 0))
    sign = math.copysign(1.0, float(turn[2, 0]))
    for a in range(1, degree + 1):
        for column, phase in ((a, -1j), (-a, 1j)):
            v[degree - a, degree + column] = 1 / math.sqrt(2)
            v[degree + a, degree + column] = torch.tensor(sign * phase / math.sqrt(2), dtype=v.dtype)
    return v


# Of the octahedral grid by lmax: the weight of a direction, and turns about it: a multiple of its own symmetry, and
# more than 2 lmax.
_RULES: dict[int, dict[str, tuple[float, int]]] = {
    1: {"face": (1 / 6, 4)},
    2: {"face": (1 / 15, 8), "corner": (3 / 40, 6)},
    3: {"face": (1 / 21, 8), "edge": (4 / 105, 8), "corner": (9 / 280, 9)},
}
_DIRECTIONS = {"face": (0.0, 1.0, 0.0), "edge": (0.0, 1.0, 1.0), "corner": (1.0, 1.0, 1.0)}


class OctahedralGrid:
    """Rotations that the 24 of the voxel grid map to each other: what is done on them commutes with those exactly.

    Frames whose y axis points to the faces, edges or corners of a cube, turned about that axis; the directions are
    Lebedev's quadratures with 6, 14 or 26 points, exact to degree 3, 5 and 7, hence for products of two signals up to
    degree 1, 2 and 3. Transforms are products with one small matrix.

    Args:
        lmax: highest degree of signals, 1 to 3.
        exact: degree of the signals whose products the quadrature is exact for, `lmax` by default, 3 at most: 24, 96 or
            216 rotations. More let less of what a non-linearity adds beyond lmax fall back.
    """

    def __init__(self, lmax: int, exact: int | None = None) -> None:
        exact = exact or lmax
        if not 1 <= lmax <= exact <= 3:
            raise ValueError(f"1 <= lmax <= exact <= 3, got {lmax} and {exact}")
        self.lmax = lmax
        rotations, weights = [], []
        for kind, (weight, turns) in _RULES[exact].items():
            frame = _frame(torch.tensor(_DIRECTIONS[kind], dtype=torch.float64))
            seen: list[Tensor] = []
            for g in grid_rotations():
                direction = g @ frame[:, 1]
                if any(torch.allclose(direction, other) for other in seen):
                    continue
                seen.append(direction)
                for k in range(turns):
                    rotations.append(g @ frame @ rotation_by_angles(2 * math.pi * k / turns, 0, 0))
                    weights.append(weight / turns)
        self.rotations = torch.stack(rotations)  # [samples, 3, 3]
        self.weights = torch.tensor(weights, dtype=torch.float64)  # [samples], sum 1
        self.matrix = torch.stack([wigner_row(lmax, r) for r in self.rotations])  # [samples, coefficients]

    @property
    def samples(self) -> int:
        """24, 96 or 216."""
        return len(self.weights)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """``[..., sum_l (2l + 1)^2]`` to ``[..., samples]``."""
        return coefficients @ self.matrix.T.to(coefficients)

    def analyse(self, samples: Tensor) -> Tensor:
        """``[..., samples]`` to ``[..., sum_l (2l + 1)^2]``."""
        return samples @ (self.weights[:, None] * self.matrix).to(samples)

    def mean(self, samples: Tensor) -> Tensor:
        """``[..., samples]`` to ``[...]``, the mean over the group."""
        return samples @ self.weights.to(samples)


def _frame(direction: Tensor) -> Tensor:
    """A rotation that takes y to a direction."""
    y = direction / direction.norm()
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) if abs(y[0]) < 0.9 else torch.eye(3, dtype=torch.float64)[2]
    x = x - (x @ y) * y
    x = x / x.norm()
    return torch.stack([x, y, torch.linalg.cross(x, y)], 1)
