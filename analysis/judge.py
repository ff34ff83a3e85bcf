"""Whether a fitted curve may be believed: status, reason, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.defaults import FitStatus as FitStatus
from analysis.targets import BatchPoint, outlying
from analysis.wording import level, listed, number, percent

FloatArray = npt.NDArray[np.float64]

MIN_BATCHES = 3
MIN_SPAN = 2.0
FAR_BRACKET = 0.25
"""Evaluations further apart than this leave steps to target unknown by as much as seeds and learning rates decide."""
MOST_DOUBTFUL = 1 / 3
"""A curve has two parameters: with more than this share of its batches in doubt they, and not the others, shape it."""
MISFIT_P = 0.001
"""Lack of fit has to be this improbable. A test at 0.05 would call one true curve in twenty a misfit."""
MISFIT_RMS = 0.05
"""... and this large: with many seeds the smallest deviation is significant, and below 5 % of the steps it is smaller
than what a factor-2 LR grid leaves untuned, so that it decides nothing."""

MIN_FREEDOM = 2.0
"""With one degree of freedom a width is known to a factor 16 at 90 %: Student's t is then 6.3 in place of 1.6."""
MAX_RATIO = 10.0
"""Ends of an interval further apart than this leave the order of magnitude of B_crit open."""


def seed_noise(points: Sequence[BatchPoint]) -> tuple[float | None, int]:
    """Standard deviation of log steps over seeds, pooled over batches, and its degrees of freedom.

    Named outliers and censored runs are left out. (None, 0) with one run per batch.
    """
    squares, freedom = 0.0, 0
    for point in points:
        logs = np.log([run.steps for run in point.runs if run.reached])
        logs = logs[~outlying(logs)]
        if logs.size > 1:
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += logs.size - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (None, 0)


def lack_of_fit(residuals: FloatArray, runs_per_batch: FloatArray, noise: float, freedom: int) -> float:
    """p-value of the F test of lack of fit against pure error, two parameters fitted.

    Draper & Smith 1998, Applied Regression Analysis, section 2.1.

    Args:
        residuals: log(measured / fitted) of the batch aggregates, shape (J,).
        runs_per_batch: runs behind each aggregate, shape (J,).
        noise: pooled standard deviation of log steps of single runs.
        freedom: its degrees of freedom.

    >>> round(lack_of_fit(np.full(4, 0.1), np.full(4, 3.0), noise=0.1, freedom=8), 4)
    0.0256
    """
    if noise == 0.0:
        return 0.0 if float(np.abs(residuals).max()) > 1e-9 else 1.0
    mean_square = float((runs_per_batch * residuals**2).sum()) / (residuals.size - 2)
    return float(special.fdtrc(residuals.size - 2, freedom, mean_square / noise**2))


def fit_probability(
    points: Sequence[BatchPoint], residuals: FloatArray, noise: tuple[float | None, int] | None = None
) -> float:
    """`lack_of_fit` of these points; 1 where no batch has two runs to compare with. `noise`: their `seed_noise`."""
    deviation, freedom = noise or seed_noise(points)
    if deviation is None:
        return 1.0
    runs = np.array([sum(run.reached for run in point.runs) for point in points], dtype=np.float64)
    return lack_of_fit(residuals, runs, deviation, freedom)


def judge(
    *,
    points: Sequence[BatchPoint],
    b_crit: float,
    interval: tuple[float, float],
    confidence: float,
    residuals: FloatArray,
    freedom: float,
    noise: tuple[float | None, int],
) -> tuple[FitStatus, str]:
    """Status of a fit and its reason, in one sentence.

    `freedom` are the degrees of freedom behind the width of `interval`, and `noise` is the `seed_noise` of the points.

    In this order, the first that applies making the later ones moot: `not_identified` (also where too many batches
    were not measured well enough, whatever the curve looks like), `misfit`, `not_identified` by an interval that is too
    wide or of a width known to one degree of freedom, `extrapolated`, `ok`.

    `ok` wants the whole interval inside the measured batches: at 90 % confidence a B_crit outside them, however close,
    then passes for measured in one sweep of twenty at most, where the estimate alone would let up to half of them pass.
    """
    smallest, largest = points[0].batch_size, points[-1].batch_size
    span = f"the measured batches, {smallest:,} to {largest:,},"
    if largest <= MIN_SPAN * smallest:
        return (
            "not_identified",
            f"{span} lie within a factor {number(largest / smallest)}, too close to see the curve bend.",
        )
    low, high = interval
    if low == 0.0 and math.isinf(high):
        return "not_identified", f"the {level(confidence)} interval of B_crit is unbounded on both sides."
    if math.isinf(high):
        return "not_identified", f"over {span} steps fall in proportion to the batch as far as the noise lets us see."
    if low == 0.0:
        return "not_identified", f"over {span} steps hardly fall with the batch as far as the noise lets us see."
    doubt = doubtful_batches(points)
    if doubt:
        return "not_identified", doubt
    rms = float(np.sqrt(np.mean(residuals**2)))
    p = fit_probability(points, residuals, noise)
    if noise[0] is None:
        tested = "with one run per batch a misfit cannot be told from noise"
    else:
        per_run = np.mean([1.0 / sum(run.reached for run in point.runs) for point in points])
        tested = f"where seed noise explains {percent(noise[0] * math.sqrt(float(per_run)))}"
    if p < MISFIT_P and rms > MISFIT_RMS:
        worst = int(np.abs(residuals).argmax())
        most = f"most at batch {points[worst].batch_size:,} ({math.expm1(residuals[worst]):+.0%})".replace("%", " %")
        return (
            "misfit",
            f"the curve misses the points by {percent(rms)} rms, {most}, {tested} (lack of fit, p = {p:.1g}).",
        )
    vague = _too_vague(interval, confidence, freedom)
    if vague:
        return "not_identified", vague
    beyond = _beyond(b_crit, interval, confidence, smallest, largest)
    if beyond:
        return "extrapolated", f"{beyond.removesuffix('.')}; {tested}." if noise[0] is None else beyond
    stop = ";" if noise[0] is None else ","
    return "ok", f"B_crit lies within {span} and the curve meets them within {percent(rms)} rms{stop} {tested}."


def _too_vague(interval: tuple[float, float], confidence: float, freedom: float) -> str | None:
    """Why a bounded interval says too little, in one sentence; None where it says enough."""
    low, high = interval
    if freedom < MIN_FREEDOM:
        return (
            "the scatter of the points is known from one degree of freedom only, which bounds nothing; measure more "
            "batch sizes, or more seeds."
        )
    if high > MAX_RATIO * low:
        return (
            f"the {level(confidence)} interval of B_crit, {number(low)} to {number(high)}, spans a factor "
            f"{number(high / low)}, more than {number(MAX_RATIO)}; measure more seeds, or more batch sizes."
        )
    return None


def _beyond(b_crit: float, interval: tuple[float, float], confidence: float, smallest: int, largest: int) -> str | None:
    """How B_crit or its interval leaves the measured batches, in one sentence; None where it does not."""
    low, high = interval
    if b_crit > largest:
        return f"B_crit {number(b_crit)} lies above the largest measured batch, {largest:,}."
    if b_crit < smallest:
        return f"B_crit {number(b_crit)} lies below the smallest measured batch, {smallest:,}."
    said = f"B_crit may lie outside the measured batches: its {level(confidence)} interval"
    if high > largest:
        return f"{said} reaches {number(high)}, above the largest, {largest:,}."
    if low < smallest:
        return f"{said} reaches down to {number(low)}, below the smallest, {smallest:,}."
    return None


def doubtful_batches(points: Sequence[BatchPoint]) -> str | None:
    """Why no curve may rest on these points, in one sentence; None where enough of the batches were measured well.

    Two doubts count, each from more than a third of the batches on: a best LR at the edge of its grid, because a better
    one may lie outside, and evaluations further apart than a quarter of the samples to target. A grid of one LR has no
    edge; `lr_warnings` names it.
    """
    at_edge = [point.batch_size for point in points if point.lr_edge]
    if len(at_edge) > MOST_DOUBTFUL * len(points):
        return (
            f"the best learning rate is the smallest or largest of its grid at {len(at_edge)} of {len(points)} batch "
            f"sizes ({listed(at_edge)}), so fewer steps may be possible there; widen the learning-rate grid."
        )
    far = [batch for batch, share in brackets(points).items() if share > FAR_BRACKET]
    if len(far) > MOST_DOUBTFUL * len(points):
        return (
            f"evaluations lie more than {percent(FAR_BRACKET)} of the samples to target apart at {len(far)} of "
            f"{len(points)} batch sizes ({listed(far)}); evaluate more often, or set a harder target where every step "
            "is evaluated already."
        )
    return None


def brackets(points: Sequence[BatchPoint]) -> dict[int, float]:
    """Distance of the two evaluations around the crossing as a share of the samples to target; median over seeds."""
    return {
        point.batch_size: median([(r.bracket[1] - r.bracket[0]) / r.samples for r in point.runs if r.reached])
        for point in points
    }
