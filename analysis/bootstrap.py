"""Bootstrap over seeds within a batch, the best learning rate chosen anew in every resample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.budget_resamples import pooled_deviations
from analysis.defaults import CONFIDENCE, Aggregate
from analysis.medians import present_median
from analysis.targets import BatchPoint, Run, outlying

__all__ = [
    "CONFIDENCE",
    "NO_SPREAD",
    "SCATTER_P",
    "Resamples",
    "birge_ratio",
    "resample_seeds",
    "residual_resamples",
    "t_over_z",
    "widened",
]

FloatArray = npt.NDArray[np.float64]

NO_SPREAD = 1e-9
"""Below this standard deviation of log steps the runs do not depend on their seed."""
SCATTER_P = 0.05
"""Lack of fit at which the width of an interval rests on the few degrees of freedom of the residuals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resamples:
    """What the aggregates of a study might have been.

    Attributes:
        log_steps: shape (R, J): log of the aggregate steps of each batch, in each resample.
        optimism: shape (J,): by how much log steps come out low because the LR was chosen on the seeds that measure it.
    """

    log_steps: FloatArray
    optimism: FloatArray


def resample_seeds(
    points: Sequence[BatchPoint], runs: Sequence[Run], resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draw n - 1 of the n seeds of each batch with replacement, choose the LR again, aggregate again.

    - n - 1 of n, because the mean of n draws from n values has the variance (n - 1) / n of what it should have: a third
      too little at three seeds (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, section 8).
    - Seeds are drawn for all LRs of a batch together: they share initialisation and data order, so their times to
      target move together, and so does what the choice among LRs can gain.
    - Optimism is the gap, over resamples, between the full data and the resample at the LR chosen in the resample
      (Efron & Gong 1983, The American Statistician 37): how low the winner of a noisy race looks.
    - A batch with one seed has no spread of its own and borrows the pooled spread of the others.
    """
    pooled = pooled_deviations(map(_log_steps, points))
    drawn = np.empty((resamples, len(points)))
    optimism = np.zeros(len(points))
    of_batch: dict[int, list[Run]] = {point.batch_size: [] for point in points}
    for run in runs:
        if run.batch_size in of_batch:  # a batch that gave no point has runs all the same
            of_batch[run.batch_size].append(run)
    for j, point in enumerate(points):
        grid = seed_matrix(of_batch[point.batch_size], keep_outliers=point.aggregate != "robust")
        seeds = grid.shape[1]
        here = math.log(point.steps)
        if seeds == 1:
            drawn[:, j] = here + (rng.choice(pooled, resamples) if pooled.size else 0.0)
            continue
        picks = rng.integers(seeds, size=(resamples, seeds - 1))
        sample = grid[:, picks]  # (LR, R, seeds - 1)
        chosen = present_median(sample).argmin(0) if len(grid) > 1 else np.zeros(resamples, dtype=np.int64)
        value = _aggregate(sample[chosen, np.arange(resamples)], point.aggregate)
        full = _aggregate(grid, point.aggregate)[chosen]
        # A resample of censored runs alone has no value: it keeps the measured one.
        known = np.isfinite(value) & np.isfinite(full)
        drawn[:, j] = np.where(known, value, here)
        # One LR is no choice: what a finite number of resamples leaves of its optimism is not worth a correction.
        optimism[j] = (full[known] - value[known]).mean() if known.any() and len(grid) > 1 else 0.0
    return Resamples(log_steps=drawn, optimism=optimism)


def seed_matrix(runs: Sequence[Run], *, keep_outliers: bool = False) -> FloatArray:
    """Log steps of one batch, shape (LRs, seeds): inf where censored, nan where not run or named as an outlier.

    Args:
        runs: of one batch size.
        keep_outliers: for aggregates that use every run.
    """
    rows = {lr: row for row, lr in enumerate(sorted({run.lr for run in runs}))}
    columns = {seed: column for column, seed in enumerate(sorted({run.seed for run in runs}))}
    grid = np.full((len(rows), len(columns)), np.nan)
    for run in runs:
        grid[rows[run.lr], columns[run.seed]] = math.log(run.steps) if run.reached else math.inf
    for row in grid:
        at = np.flatnonzero(~np.isnan(row))
        if not keep_outliers and np.isfinite(row[at]).all():
            row[at[outlying(row[at])]] = np.nan
    return grid


def _log_steps(point: BatchPoint) -> FloatArray:
    """Of the runs that reached the target, without those that stand out."""
    logs = np.log([run.steps for run in point.runs if run.reached])
    return np.asarray(logs[~outlying(logs)])


def _aggregate(values: FloatArray, aggregate: Aggregate) -> FloatArray:
    """As `targets.aggregate_steps`, of log steps, over the last axis; the median where a run is censored."""
    if aggregate == "median":
        return present_median(values)
    present = ~np.isnan(values)
    censored = np.isinf(values).any(-1)
    count = present.sum(-1)
    known = present & ~np.isinf(values)
    if aggregate == "mean":
        total = np.where(known, np.exp(np.where(known, values, 0.0)), 0.0).sum(-1)
        mean = np.log(np.where(total > 0.0, total / np.maximum(count, 1), np.inf))
    else:
        mean = np.where(count > 0, np.where(known, values, 0.0).sum(-1) / np.maximum(count, 1), np.inf)
    return np.asarray(np.where(censored, present_median(values), mean) if censored.any() else mean)


def residual_resamples(
    fitted: FloatArray, residuals: FloatArray, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Fitted values plus residuals drawn anew, scaled up for the two parameters they were fitted with; shape (R, J).

    The way out when seeds show no spread: one run per batch, or runs that do not depend on their seed.
    """
    scale = math.sqrt(residuals.size / (residuals.size - 2))
    return np.asarray(fitted + scale * rng.choice(residuals - residuals.mean(), (resamples, residuals.size)))


def birge_ratio(residuals: FloatArray, rows: FloatArray, parameters: int = 2) -> float:
    """max(1, residual scatter over the scatter that the resamples show), pooled over batches (Birge 1932).

    Args:
        residuals: log(measured / fitted), shape (J,).
        rows: resampled log steps, shape (R, J).
        parameters: that were fitted.

    >>> birge_ratio(np.array([0.2, -0.2, -0.2, 0.2]), np.array([[0.1] * 4, [-0.1] * 4]))
    2.8284271247461903
    """
    explained = float(rows.var(0).mean())
    scatter = float((residuals**2).sum()) / max(residuals.size - parameters, 1)
    return max(1.0, math.sqrt(scatter / explained)) if explained > 0.0 else 1.0


def t_over_z(confidence: float, freedom: float | FloatArray) -> FloatArray:
    """Student's quantile over the normal one: what a spread known to `freedom` degrees has to be widened by.

    >>> round(float(t_over_z(0.9, 16)), 3)
    1.061
    """
    level = 0.5 + confidence / 2.0
    return np.asarray(special.stdtrit(freedom, level) / special.ndtri(level))


def widened(
    estimate: FloatArray, rows: FloatArray, confidence: float, factor: float | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of the resamples, its distance from the estimate stretched by `factor`.

    Args:
        estimate: shape (K,); not stretched where it is infinite.
        rows: the same in each resample, shape (R, K), infinities allowed.
        confidence: of the interval.
        factor: of the stretch, one or of shape (K,).

    Returns:
        (low, high), each of shape (K,).
    """
    tail = (1.0 - confidence) / 2.0
    # An observed order statistic, never a value between two: halfway to infinity is not a number.
    low, high = np.quantile(rows, [tail, 1.0 - tail], axis=0, method="inverted_cdf")
    centre = np.where(np.isfinite(estimate), estimate, 0.0)
    stretch = np.where(np.isfinite(estimate), factor, 1.0)
    return centre + stretch * (low - centre), centre + stretch * (high - centre)
