"""The gradient noise scale as a ratio of two averages, and how far either can be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.defaults import CONFIDENCE
from analysis.wording import number

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BLOCKS = 24
MIN_BLOCKS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """B_simple = tr(Sigma) / |G|^2 (McCandlish et al. 2018, appendix A), numerator and denominator averaged apart.

    Attributes:
        b_simple: [samples]; nan when unresolved.
        interval: (low, high) [samples] at `confidence`.
        g_sq, tr_sigma: the two averages.
        n_measurements: (run, step) pairs that went in.
        samples_range: (first, last) samples seen of the window.
        status: ok, or unresolved when the interval of |G|^2 includes 0.
        reason: one sentence; a second one says what biases the estimate.
        bias: that sentence; empty if nothing is known to bias it.
    """

    b_simple: float
    interval: tuple[float, float]
    g_sq: float
    tr_sigma: float
    n_measurements: int
    samples_range: tuple[float, float]
    confidence: float
    status: Literal["ok", "unresolved"]
    reason: str
    bias: str = ""


class Measurements(NamedTuple):
    """Gradient norms of one run, in the order of its steps; every array has the shape (measurements,).

    Attributes:
        samples: samples seen.
        g_sq, tr_sigma: unbiased estimates of |G|^2 and tr(Sigma), each step's by itself; may be negative.
        weight: batch size [samples].
    """

    samples: FloatArray
    g_sq: FloatArray
    tr_sigma: FloatArray
    weight: FloatArray

    def within(self, after: float, upto: float) -> Measurements:
        """Those with samples in (after, upto]."""
        keep = (self.samples > after) & (self.samples <= upto)
        return Measurements(*(column[keep] for column in self))


def noise_scale(runs: Sequence[Measurements], *, confidence: float = CONFIDENCE) -> NoiseScale:
    """B_simple over runs, |G|^2 and tr(Sigma) each averaged over all of them and divided at the end.

    Measurements are weighted by their batch size, so that every sample seen counts once; the noise of |G|^2 falls
    with B. The interval is Fieller's for a ratio of means (Fieller 1954, J. R. Stat. Soc. B 16, 175): all r with
    (T - r G)^2 <= t^2 Var(T - r G). It has an end exactly when the interval of |G|^2 leaves 0 out. Variances are
    between blocks of consecutive measurements of one run, because neighbouring steps are not independent.

    Args:
        runs: measurements of a window, one entry per run.
        confidence: of the interval.
    """
    runs = [run for run in runs if run.samples.size]
    if not runs:
        return _unresolved(
            math.nan, math.nan, (0.0, math.inf), 0, (0.0, 0.0), confidence, "no gradient norm was measured."
        )
    count = sum(run.samples.size for run in runs)
    reach = (min(float(run.samples[0]) for run in runs), max(float(run.samples[-1]) for run in runs))
    weight, g, t = _blocks(runs)
    share = weight / weight.sum()
    g_mean, t_mean = float(share @ g), float(share @ t)
    k = weight.size
    if k < MIN_BLOCKS:
        reason = f"{count} measurements are too few for an interval."
        return _unresolved(g_mean, t_mean, (0.0, math.inf), count, reach, confidence, reason)
    deviations = share * np.stack([g - g_mean, t - t_mean])
    (v_g, c), (_, v_t) = (k / (k - 1.0) * deviations @ deviations.T).tolist()
    quantile = float(stats.t.ppf(0.5 + confidence / 2.0, k - 1))
    interval, resolved = fieller(g_mean, t_mean, v_g, v_t, c, quantile)
    if not resolved:
        half = quantile * math.sqrt(v_g)
        g_sq = f"|G|^2 = {number(g_mean)} ± {number(half, 2)}"
        reason = f"{g_sq} may be 0, so the noise scale has no upper bound; measure more steps."
        return _unresolved(g_mean, t_mean, interval, count, reach, confidence, reason)
    return NoiseScale(
        b_simple=t_mean / g_mean,
        interval=interval,
        g_sq=g_mean,
        tr_sigma=t_mean,
        n_measurements=count,
        samples_range=reach,
        confidence=confidence,
        status="ok",
        reason=f"{count} measurements of {len(runs)} runs in {k} blocks.",
    )


def fieller(
    g: float, t: float, v_g: float, v_t: float, covariance: float, quantile: float
) -> tuple[tuple[float, float], bool]:
    """Interval of t / g, cut off at 0, and whether it is bounded.

    Args:
        g: mean of the denominator.
        t: mean of the numerator.
        v_g: variance of g.
        v_t: variance of t.
        covariance: of the two.
        quantile: Student's, of the confidence wanted.

    >>> (low, high), bounded = fieller(2.0, 4.0, 0.0, 0.04, 0.0, 2.0)
    >>> round(low, 9), round(high, 9), bounded
    (1.8, 2.2, True)
    >>> fieller(0.1, 4.0, 0.04, 0.04, 0.0, 2.0)[1]
    False
    """
    q = quantile**2
    a, b, c = g * g - q * v_g, g * t - q * covariance, t * t - q * v_t
    root = math.sqrt(max(b * b - a * c, 0.0))
    if g <= 0.0 or a <= 0.0:
        # The set is what lies outside the two roots, or everything: only a lower bound can be left.
        low = (b - root) / a if a < 0.0 and c > 0.0 else 0.0
        return (max(low, 0.0), math.inf), False
    return (max((b - root) / a, 0.0), max((b + root) / a, 0.0)), True


def _blocks(runs: Sequence[Measurements]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(total weight, mean |G|^2, mean tr(Sigma)) per block: runs cut evenly so that there are about `BLOCKS` in all."""
    per_run = max(1, math.ceil(BLOCKS / len(runs)))
    sizes = np.array([run.samples.size for run in runs])
    ends = np.cumsum(sizes)
    starts = np.concatenate([end - n + _even_starts(n, min(per_run, n)) for end, n in zip(ends, sizes, strict=True)])
    weights = np.concatenate([run.weight for run in runs])
    total = np.add.reduceat(weights, starts)
    g, t = (
        np.add.reduceat(np.concatenate(column) * weights, starts) / total
        for column in ([run.g_sq for run in runs], [run.tr_sigma for run in runs])
    )
    return total, g, t


def _even_starts(n: int, parts: int) -> IntArray:
    """Where the parts of n things begin that are as even as they can be, the longer ones first.

    >>> _even_starts(8, 3).tolist()
    [0, 3, 6]
    """
    i = np.arange(parts)
    return i * (n // parts) + np.minimum(i, n % parts)


def _unresolved(
    g_sq: float,
    tr_sigma: float,
    interval: tuple[float, float],
    count: int,
    reach: tuple[float, float],
    confidence: float,
    reason: str,
) -> NoiseScale:
    return NoiseScale(
        b_simple=math.nan,
        interval=interval,
        g_sq=g_sq,
        tr_sigma=tr_sigma,
        n_measurements=count,
        samples_range=reach,
        confidence=confidence,
        status="unresolved",
        reason=reason,
    )
