"""Repeated timings -> a number with its interval, and comparisons of timings that were taken in the same round.

A machine that others use is slow now and fast then. So all configurations are visited once in every round, and what is
compared is compared within rounds: a slow round is slow for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.9
NOISY = 0.2
"""An interval wider than this share of its median is said to be noisy."""
_RESAMPLES = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeated:
    """A median over rounds.

    Attributes:
        median: in the unit of what was measured.
        interval: (low, high) of that median at `CONFIDENCE`.
        repeats: rounds.
    """

    median: float
    interval: tuple[float, float]
    repeats: int

    @property
    def noisy(self) -> bool:
        """Whether the interval is too wide to tell small differences."""
        return self.interval[1] - self.interval[0] > NOISY * abs(self.median)

    def document(self) -> dict[str, object]:
        """As it stands in JSON."""
        return {
            "median": self.median,
            "interval": list(self.interval),
            "repeats": self.repeats,
            "noisy": self.noisy,
        }


def clear(ratios: Sequence[float] | FloatArray, comparisons: int = 1) -> bool:
    """Whether a ratio differs from 1 by an exact sign test, at 1 - `CONFIDENCE` over so many comparisons (Bonferroni).

    >>> clear([0.9] * 11, 10), clear([0.9] * 5, 10), clear([0.9, 1.1] * 6)
    (True, False, False)
    """
    values = np.asarray(ratios, float)
    n, fewer = values.size, int(min((values < 1).sum(), (values > 1).sum()))
    return 2 * sum(comb(n, i) for i in range(fewer + 1)) / 2.0**n <= (1 - CONFIDENCE) / comparisons


@cache
def rank_of_interval(n: int, confidence: float = CONFIDENCE) -> int:
    """Rank k such that the k-th smallest and k-th largest of n repeats hold the median with at least `confidence`.

    The median lies below the k-th smallest with probability sum over i < k of binom(n, i) / 2^n, whatever the
    distribution (Thompson 1936). Fewer than 5 repeats hold it less often: then k = 1, the range of all.

    >>> [rank_of_interval(n) for n in (3, 5, 8, 11)]
    [1, 1, 2, 3]
    """
    tail, k = 0.0, 0
    while k < n // 2:
        tail += comb(n, k) / 2.0**n
        if 2 * tail > 1 - confidence:
            break
        k += 1
    return max(k, 1)


def repeated(values: Sequence[float] | FloatArray) -> Repeated:
    """Median of repeats with its interval from order statistics.

    >>> repeated([1.0, 5.0, 2.0, 3.0, 4.0]).interval
    (1.0, 5.0)
    """
    ordered = np.sort(np.asarray(values, float))
    assert ordered.size, "there is something to repeat"
    k = rank_of_interval(ordered.size)
    return Repeated(
        median=float(np.median(ordered)), interval=(float(ordered[k - 1]), float(ordered[-k])), repeats=ordered.size
    )


def resampled(rounds: int, found: Callable[[npt.NDArray[np.int_]], float], *, seed: int = 0) -> tuple[float, float]:
    """Interval of anything that is computed from rounds, by drawing them again with replacement (Efron 1979).

    Args:
        rounds: how many there are.
        found: indices of rounds -> the number.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [found(rng.integers(rounds, size=rounds)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(values, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], method="inverted_cdf")
    return float(low), float(high)


def smallest_within(sizes: Sequence[int], throughput: FloatArray, share: float) -> tuple[int, tuple[int, int]]:
    """Smallest size whose throughput is within a share of the best, and between which sizes that answer moves.

    Args:
        sizes: worker batches, ascending.
        throughput: samples per second, shape (rounds, sizes).
        share: 0.05 for 5 %.

    >>> smallest_within([1, 2, 4], np.array([[10.0, 97.0, 100.0]]), 0.05)
    (2, (2, 2))
    """
    assert list(sizes) == sorted(sizes), "ascending"

    def position(rounds: npt.NDArray[np.int_]) -> float:
        medians = np.median(throughput[rounds], axis=0)
        return float(np.argmax(medians >= (1 - share) * medians.max()))

    ends = resampled(len(throughput), position)
    found = int(position(np.arange(len(throughput))))
    return sizes[found], (sizes[min(int(ends[0]), found)], sizes[max(int(ends[1]), found)])


def alignment(sizes: Sequence[int], step_time_s: FloatArray, middle: int, apart: int = 1) -> FloatArray:
    """Step time at a size over the mean of those of its two neighbours: below 1, the size itself is the faster one.

    Of every round, shape (rounds,).

    A step time affine in the size, t = a + c b, gives 1 exactly, so that the overhead that a larger batch spreads over
    more samples does not count as an advantage of being a power of two.

    Args:
        sizes: worker batches.
        step_time_s: shape (rounds, sizes).
        middle: the size.
        apart: of its neighbours.

    >>> alignment([7, 8, 9], np.array([[1.5, 2.0, 2.5]]), 8).tolist()
    [1.0]
    """
    low, at, high = (list(sizes).index(middle + d) for d in (-apart, 0, apart))
    return np.asarray(step_time_s[:, at] / ((step_time_s[:, low] + step_time_s[:, high]) / 2))
