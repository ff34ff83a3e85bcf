"""The cheapest run that would say what a fit leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2, sqrt

from scaleexp.simulate.given_curve import GivenCurve
from scaleexp.simulate.learning_rate import learning_rate

SEEDS = 3
RATES = 3
FARTHER = 4
"""Times beyond the measured batches: a factor of 4 in B moves a curve's steps by far more than seeds do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidingRun:
    """Trials of one batch size.

    Attributes:
        batch_size: B [samples].
        lrs: that it is tried at; empty where the fit knows none.
        seeds: of each.
        samples: of all trials together, at most, on the slowest curve that the data allow.
        reason: what it decides.
    """

    batch_size: int
    lrs: tuple[float, ...]
    seeds: int
    samples: float
    reason: str


def deciding_run(curve: GivenCurve) -> DecidingRun | None:
    """One batch farther out on the side that is open, or one inside of what is too wide; None where all is known.

    None, too, where the curve is flat down to batch 1: no batch is smaller, and more workers have nothing to gain.
    """
    if not curve.bounds_only:
        return None
    low, high = curve.b_crit_interval
    smallest, largest = curve.measured or (inf, 0.0)
    if high is None:
        batch = FARTHER * max(largest, low or 0.0)
        reason = "whether steps still fall there"
    elif low is None:
        if smallest <= 1:
            return None
        batch = min(smallest, high) / FARTHER
        reason = "whether steps rise there"
    else:
        batch = sqrt(low * high)
        reason = "where in its interval B_crit lies"
    size = 2 ** max(0, round(log2(batch)))
    lr = learning_rate(curve, size).lr
    lrs = () if lr is None else tuple(float(f"{lr * factor:.3g}") for factor in (0.5, 1.0, 2.0))
    each = float(curve.steps(float(size))) * size  # type: ignore[arg-type]
    return DecidingRun(batch_size=size, lrs=lrs, seeds=SEEDS, samples=each * SEEDS * RATES, reason=reason)
