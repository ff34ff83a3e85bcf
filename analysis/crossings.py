"""Where many runs first met a target, from all their evaluations at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Direction = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossings:
    """One entry per run, ascending in `runs`; every array has the shape (runs,).

    Attributes:
        runs: the run indices that have an evaluation.
        reached: whether an evaluation met the target and the next one confirmed it.
        samples: interpolated samples at the first such crossing; nan without one.
        low, high: samples at the evaluations before and after it, 0 before the first; nan without one.
        last_miss: samples at the last evaluation that missed the target, at which a run is censored; 0 without one.
    """

    runs: IntArray
    reached: npt.NDArray[np.bool_]
    samples: FloatArray
    low: FloatArray
    high: FloatArray
    last_miss: FloatArray


def first_confirmed_crossings(
    run_index: npt.ArrayLike,
    samples: npt.ArrayLike,
    values: npt.ArrayLike,
    target: float,
    direction: Direction,
) -> Crossings:
    """First evaluation of each run that meets the target and is confirmed by the next one of the run.

    As `scaleexp.laws.first_confirmed` and `interpolated_crossing` one run after another: a single lucky evaluation ends
    no run, nan meets nothing, and the crossing lies on the straight line from the evaluation before, or at the one that
    met where there is none before or its value is not finite.

    Args:
        run_index: which run each evaluation is of, whole numbers in any order, shape (N,).
        samples: samples seen by then, shape (N,), in any order; evaluations at the same samples keep their order.
        values: of the metric, shape (N,).
        target: value to be met.
        direction: whether it is met from above ("min") or from below ("max").

    >>> found = first_confirmed_crossings([7, 7, 7, 3], [0, 100, 200, 0], [3.0, 1.0, 0.5, 3.0], 2.0, "min")
    >>> found.runs.tolist(), found.reached.tolist(), found.samples.tolist()
    ([3, 7], [False, True], [nan, 50.0])
    """
    run, x, y = in_order(np.asarray(run_index, np.int64), np.asarray(samples), np.asarray(values, np.float64))
    starts, ends = run_bounds(run)
    met = y <= target if direction == "min" else y >= target
    confirmed = np.flatnonzero(met[:-1] & met[1:] & (run[:-1] == run[1:]))
    missed = np.flatnonzero(~met)
    first = np.searchsorted(confirmed, starts)
    hit = np.append(confirmed, y.size)[first]  # beyond the end of the run where it has none
    reached = hit < ends
    hit = np.where(reached, hit, starts)
    inside, before = hit > starts, np.maximum(hit - 1, 0)
    last = np.append(missed, -1)[np.searchsorted(missed, ends) - 1]  # before the start of the run where it has none
    low, high = (x[i].astype(np.float64) for i in (before, hit))
    between = _on_the_line(low, high, y[before], y[hit], target)
    return Crossings(
        runs=run[starts],
        reached=reached,
        samples=np.where(reached, np.where(inside, between, high), np.nan),
        low=np.where(reached, np.where(inside, low, 0.0), np.nan),
        high=np.where(reached, high, np.nan),
        last_miss=np.where(last >= starts, x[last].astype(np.float64), 0.0),
    )


def in_order(
    run: IntArray, samples: npt.NDArray[Any], values: FloatArray
) -> tuple[IntArray, npt.NDArray[Any], FloatArray]:
    """Rows by run and within it by samples, those of equal samples as they came, nan last; as they are if they are."""
    assert run.shape == samples.shape == values.shape
    later = (run[1:] > run[:-1]) | ((run[1:] == run[:-1]) & (samples[1:] >= samples[:-1]))
    if later.all():
        return run, samples, values
    order = np.lexsort((samples, run))
    return run[order], samples[order], values[order]


def run_bounds(run: IntArray) -> tuple[IntArray, IntArray]:
    """(first row, row after the last) of each run, where the rows of a run lie together.

    >>> [bounds.tolist() for bounds in run_bounds(np.array([3, 3, 3, 8]))]
    [[0, 3], [3, 4]]
    """
    if not run.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    cuts = np.flatnonzero(run[1:] != run[:-1]) + 1
    return np.append(0, cuts), np.append(cuts, run.size)


def _on_the_line(x0: FloatArray, x1: FloatArray, y0: FloatArray, y1: FloatArray, target: float) -> FloatArray:
    """`scaleexp.laws.interpolated_crossing` of many pairs of evaluations."""
    with np.errstate(all="ignore"):  # what is not finite is replaced
        between = x0 + (x1 - x0) * np.clip((target - y0) / (y1 - y0), 0.0, 1.0)
    return np.where(~np.isfinite(y0) | (y0 == y1), x1, between)
