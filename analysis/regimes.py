"""Where perfect scaling ends and where maximal data parallelism begins, by the slope of steps against batch size."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

PERFECT_SLOPE = -0.9
MAXIMAL_SLOPE = -0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """The log-log slope of steps between two neighbouring batch sizes.

    Attributes:
        low, high: the two batch sizes [samples].
        measured: log(S_high / S_low) / log(high / low): -1 is perfect scaling, 0 is none.
        fitted: the same between two points of the fitted curve; nan without one.
    """

    low: float
    high: float
    measured: float
    fitted: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Regimes:
    """Perfect scaling, diminishing returns, maximal data parallelism (Shallue et al. 2018, arXiv:1811.03600).

    Shallue et al. draw the borders by eye; here a slope of log S against log B is one, stated. On the curve
    S = S_min (1 + B_crit / B) the slope at B is -B_crit / (B + B_crit), so that it is s at B_crit (1 + s) / -s:
    -0.9 at B_crit / 9 and -0.1 at 9 B_crit.

    Attributes:
        perfect_slope: up to this slope steps are taken to fall in proportion to the batch.
        maximal_slope: from this slope on they are taken not to fall.
        slopes: between neighbouring batches, ascending.
        perfect_ends: batch at which the curve's slope is `perfect_slope` [samples]; None outside the measured batches.
        maximal_begins: batch at which the curve's slope is `maximal_slope` [samples]; None outside the measured ones.
        perfect_ends_measured: the same from the measured slopes, each taken to hold at the geometric mean of its two
            batches and interpolated in log B; None where it is not crossed.
        maximal_begins_measured: the batch from which on every measured slope lies above `maximal_slope`, likewise.
    """

    perfect_slope: float
    maximal_slope: float
    slopes: tuple[Slope, ...]
    perfect_ends: float | None
    maximal_begins: float | None
    perfect_ends_measured: float | None
    maximal_begins_measured: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: arrays are lists, and what is not a number is None."""
        document = asdict(self)
        document["slopes"] = [
            {name: value if math.isfinite(value) else None for name, value in slope.items()}
            for slope in document["slopes"]
        ]
        return document


def regimes(
    batch_sizes: npt.ArrayLike,
    steps: npt.ArrayLike,
    b_crit: float | None,
    *,
    perfect_slope: float = PERFECT_SLOPE,
    maximal_slope: float = MAXIMAL_SLOPE,
) -> Regimes:
    """The regimes of one set of measurements and of the curve fitted to them.

    Args:
        batch_sizes: B [samples], shape (J,), ascending.
        steps: aggregated steps to target, or cost / batch size in any one unit, shape (J,).
        b_crit: of the fitted curve; None or nan without one, inf for a linear curve and 0 for a flat one.
        perfect_slope: the slope at which perfect scaling ends.
        maximal_slope: the slope at which maximal data parallelism begins.

    Raises:
        ConfigError: shapes differ, values are not positive, batches do not ascend, or slopes are not in order in
            (-1, 0).

    >>> B = np.array([1.0, 16.0, 256.0, 4096.0])
    >>> found = regimes(B, 100.0 * (1.0 + 90.0 / B), 90.0)
    >>> round(found.perfect_ends, 9), round(found.maximal_begins, 9)
    (10.0, 810.0)
    """
    b, s = np.asarray(batch_sizes, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if b.ndim != 1 or b.shape != s.shape:
        raise ConfigError(f"batch sizes and steps must be two columns of one length, got {b.shape} and {s.shape}.")
    if not (np.isfinite([b, s]).all() and (b > 0).all() and (s > 0).all() and (np.diff(b) > 0).all()):
        raise ConfigError("batch sizes and steps must be finite and positive, and the batch sizes ascend.")
    if not -1.0 < perfect_slope < maximal_slope < 0.0:
        raise ConfigError(
            f"the slopes must be in order between -1 and 0, got {perfect_slope:g} and {maximal_slope:g}; "
            f"{PERFECT_SLOPE:g} and {MAXIMAL_SLOPE:g} are usual."
        )
    known = math.nan if b_crit is None else b_crit
    x = np.log(b)
    measured = np.diff(np.log(s)) / np.diff(x)
    fitted = _curve_slopes(b, known)
    middle = 0.5 * (x[1:] + x[:-1])
    return Regimes(
        perfect_slope=perfect_slope,
        maximal_slope=maximal_slope,
        slopes=tuple(
            Slope(low=float(b[j]), high=float(b[j + 1]), measured=float(measured[j]), fitted=float(fitted[j]))
            for j in range(measured.size)
        ),
        perfect_ends=_inside(batch_of_slope(perfect_slope, known), b),
        maximal_begins=_inside(batch_of_slope(maximal_slope, known), b),
        perfect_ends_measured=_first_above(middle, measured, perfect_slope),
        # Read from the large end, "from here on none below" is "up to here none above".
        maximal_begins_measured=_first_above(middle[::-1], -measured[::-1], -maximal_slope),
    )


def batch_of_slope(slope: float, b_crit: float) -> float:
    """Batch at which the curve has this log-log slope: -B_crit / (B + B_crit) = s at B = B_crit (1 + s) / -s.

    >>> round(batch_of_slope(-0.5, 128.0), 9), round(batch_of_slope(-0.1, 100.0), 9)
    (128.0, 900.0)
    """
    return b_crit * (1.0 + slope) / -slope


def _curve_slopes(b: FloatArray, b_crit: float) -> FloatArray:
    """Slopes of the curve between neighbouring batches, shape (J - 1,)."""
    if math.isinf(b_crit):
        return np.full(b.size - 1, -1.0)
    return np.diff(np.log1p(b_crit / b)) / np.diff(np.log(b))


def _inside(batch: float, b: FloatArray) -> float | None:
    return float(batch) if b.size and b[0] <= batch <= b[-1] else None


def _first_above(x: FloatArray, slopes: FloatArray, limit: float) -> float | None:
    """exp(x) at which the slopes first rise above the limit, between two of them; None where they never do."""
    above = np.flatnonzero(slopes > limit)
    if not above.size or above[0] == 0:
        return None
    j = int(above[0])
    share = (limit - slopes[j - 1]) / (slopes[j] - slopes[j - 1])
    return float(np.exp(x[j - 1] + share * (x[j] - x[j - 1])))
