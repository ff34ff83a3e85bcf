"""Steps against batch size, as a fit made here, elsewhere or by hand says it, with what it leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from scaleexp.errors import NotEnoughDataError
from scaleexp.laws import steps_to_target

FloatArray = npt.NDArray[np.float64]
Ends = tuple[float | None, float | None]
"""(low, high); None where the data do not bound that side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenCurve:
    """S = S_min (1 + B_crit / B), McCandlish et al. 2018 (arXiv:1812.06162), with intervals.

    Where the fit is `not_identified` no point of the intervals is likelier than another: `steps` is then the slowest
    curve that they allow, and a draw is that or the fastest.

    Attributes:
        s_min, b_crit: [steps], [samples]; None where not identified.
        s_min_interval, b_crit_interval, e_min_interval: at `confidence`.
        unit: what samples are.
        status, reason: of the fit.
        name: where it comes from.
        goal: what the steps lead to, in words; may be empty.
        points, rules: entries of the fit's JSON, for learning rates; may be empty.
    """

    s_min: float | None
    b_crit: float | None
    s_min_interval: Ends
    b_crit_interval: Ends
    e_min_interval: Ends
    confidence: float = 0.95
    unit: str = "sample"
    status: str = "ok"
    reason: str = ""
    name: str
    goal: str = ""
    points: Sequence[Mapping[str, Any]] = ()
    rules: Sequence[Mapping[str, Any]] = ()
    ends: tuple[tuple[float, float], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", _end_curves(self) if self.bounds_only else ())

    @property
    def bounds_only(self) -> bool:
        """Whether the fit bounds the curve and no more."""
        return self.status == "not_identified" or self.s_min is None or self.b_crit is None

    @property
    def e_min(self) -> float:
        """Samples of an unboundedly small batch, on the curve that `steps` follows."""
        if self.s_min is None or self.b_crit is None or self.bounds_only:
            return self._slowest()[1]
        return self.s_min * self.b_crit

    @property
    def measured(self) -> tuple[float, float] | None:
        """Smallest and largest measured batch; None where nobody says."""
        batches = [float(p["batch_size"]) for p in self.points]
        return (min(batches), max(batches)) if batches else None

    @property
    def usual_batch(self) -> float:
        """B_crit, or the bound of it that the slowest curve has."""
        s_min, e_min = self._slowest() if self.bounds_only else (1.0, cast(float, self.b_crit))
        return e_min / s_min if s_min else e_min

    def steps(self, batch_size: FloatArray) -> FloatArray:
        """Steps to the goal: the estimate, or the slowest of what the bounds allow."""
        if not self.bounds_only:
            return cast(FloatArray, steps_to_target(batch_size, cast(float, self.s_min), cast(float, self.b_crit)))
        return cast(FloatArray, np.max(self._at_ends(batch_size), axis=0))

    def draws(self, n: int, seed: int) -> Callable[[FloatArray], FloatArray]:
        """Plausible curves: batch sizes, shape (P,) -> steps, shape (n, P).

        log S_min and log B_crit are normal with the widths of their intervals, and as correlated as the width of
        E_min = S_min B_crit says that they are: a larger B_crit goes with a smaller S_min.
        """
        rng = np.random.default_rng(seed)
        if self.bounds_only:
            share = rng.integers(0, 2, (n, 1))  # an end each: nothing says what lies between is likelier

            def between(batch_size: FloatArray) -> FloatArray:
                at = np.log(self._at_ends(batch_size))
                return cast(FloatArray, np.exp(at.min(0) * (1 - share) + at.max(0) * share))

            return between
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        sd_s, sd_b, sd_e = (
            _log_width(ends) / (2 * z) for ends in (self.s_min_interval, self.b_crit_interval, self.e_min_interval)
        )
        together = (sd_e**2 - sd_s**2 - sd_b**2) / 2 if any(self.e_min_interval) else 0.0
        together = float(np.clip(together, -sd_s * sd_b, sd_s * sd_b))
        first, second = rng.standard_normal((2, n, 1))
        slope = together / sd_b if sd_b else 0.0
        s_min = cast(float, self.s_min) * np.exp(slope * first + np.sqrt(max(sd_s**2 - slope**2, 0.0)) * second)
        b_crit = cast(float, self.b_crit) * np.exp(sd_b * first)
        return lambda batch_size: cast(FloatArray, steps_to_target(batch_size, s_min, b_crit))

    def _at_ends(self, batch_size: FloatArray) -> FloatArray:
        """Steps on every curve at an end of the bounds, shape (ends, *batch_size)."""
        return np.stack([s_min + e_min / np.asarray(batch_size, float) for s_min, e_min in self.ends])

    def _slowest(self) -> tuple[float, float]:
        """(S_min, E_min) of the curve with the smallest B_crit that the data allow."""
        return max(self.ends, key=lambda end: end[0])


def _log_width(ends: Ends) -> float:
    low, high = ends
    return float(np.log(high / low)) if low and high else 0.0


def _end_curves(curve: GivenCurve) -> tuple[tuple[float, float], ...]:
    """(S_min, E_min) at both ends of B_crit: S = S_min + E_min / B. A small B_crit goes with a large S_min.

    Raises:
        NotEnoughDataError: neither end is bounded, or nothing says how many samples or steps a run takes.
    """
    (low, high), (s_low, s_high), (e_low, e_high) = curve.b_crit_interval, curve.s_min_interval, curve.e_min_interval
    if low is None and high is None:
        raise NotEnoughDataError(f"{curve.name} does not bound the critical batch size on any side: {curve.reason}")
    if low is None:  # flat as far as can be seen: S_min is known
        assert high is not None
        if s_low is None or s_high is None:
            raise NotEnoughDataError(f"{curve.name} bounds no number of steps: {curve.reason}")
        return (s_low, 0.0), (s_high, s_high * high)
    if e_low is None or e_high is None:
        if s_low is None or s_high is None:
            raise NotEnoughDataError(f"{curve.name} bounds neither steps nor samples: {curve.reason}")
        e_low, e_high = s_low * low, s_high * (high or low)
    slowest = (s_high if s_high is not None else e_high / low, e_high)
    return slowest, (0.0 if high is None else (s_low if s_low is not None else e_low / high), e_low)


def by_hand(s_min: float, b_crit: float, s_min_interval: Ends, b_crit_interval: Ends) -> GivenCurve:
    """A curve of numbers that somebody gave; exact where no interval is given."""
    return GivenCurve(
        s_min=s_min,
        b_crit=b_crit,
        s_min_interval=s_min_interval,
        b_crit_interval=b_crit_interval,
        e_min_interval=(None, None),
        name="the curve given",
    )
