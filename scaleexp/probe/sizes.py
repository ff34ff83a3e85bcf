"""Which worker batches are tried: powers of two, and the two beside each."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST_BESIDE = 8
"""Smaller powers of two have neighbours that are powers of two, or half as large."""


def powers(largest: int, group: int = 1) -> tuple[int, ...]:
    """Powers of two times the group, up to the largest.

    >>> powers(9), powers(24, group=4)
    ((1, 2, 4, 8), (4, 8, 16))
    """
    return tuple(group * 2**k for k in range(max(largest // group, 0).bit_length()))


def with_neighbours(sizes: Sequence[int], largest: int, group: int = 1) -> tuple[int, ...]:
    """The same with one group more and one less beside each from 8 groups on.

    >>> with_neighbours([4, 8, 16], 16)
    (4, 7, 8, 9, 15, 16)
    """
    beside = (b + d * group for b in sizes if b >= _FIRST_BESIDE * group for d in (-1, 1))
    return tuple(sorted({*sizes, *(b for b in beside if b <= largest)}))


def triples(sizes: Sequence[int], group: int = 1) -> tuple[int, ...]:
    """Those that were tried with both neighbours.

    >>> triples([4, 7, 8, 9, 15, 16])
    (8,)
    """
    held = set(sizes)
    return tuple(b for b in sizes if _power(b, group) and {b - group, b + group} <= held and b >= _FIRST_BESIDE * group)


def _power(size: int, group: int) -> bool:
    units = size // group
    return units * group == size and units & (units - 1) == 0
