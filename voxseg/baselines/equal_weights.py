"""Networks of other field types with equal numbers of weights: what an ablation of degrees compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["field_type", "multiplicities"]


def field_type(copies: Sequence[int]) -> str:
    """Field type with so many copies of the irreps of degree 0, 1, ..., such as ``4x0e+2x1e``; zeros are left out."""
    return "+".join(f"{n}x{degree}e" for degree, n in enumerate(copies) if n)


def multiplicities(degree: int, target: int, count: Callable[[Sequence[int]], int]) -> list[int]:
    """Copies of the irreps of degree 0 to `degree` such that a network has about so many weights, and no more.

    Copies are as equal as they can be: as many of each as fit, then one more of degree 0, of degree 1, ... while they
    fit, and what is left goes to scalars, which cost least.

    Args:
        degree: the highest.
        target: weights.
        count: weights of a network with so many copies; grows with each of them.

    Returns:
        ``degree + 1`` numbers, each at least 1.

    Raises:
        ValueError: a single copy of each has more weights already.
    """
    copies = [1] * (degree + 1)
    if count(copies) > target:
        raise ValueError(f"one copy of each irrep up to degree {degree} has {count(copies)} weights, over {target}")
    while count([n + 1 for n in copies]) <= target:
        copies = [n + 1 for n in copies]
    for place in range(degree):
        more = [n + (number == place) for number, n in enumerate(copies)]
        copies = more if count(more) <= target else copies
    while count([copies[0] + 1, *copies[1:]]) <= target:
        copies = [copies[0] + 1, *copies[1:]]
    return copies
