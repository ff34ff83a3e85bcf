"""How far the aggregates of a sweep may lie from what they would be with many seeds, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.bootstrap import NO_SPREAD, SCATTER_P, birge_ratio, resample_seeds, residual_resamples, t_over_z
from analysis.judge import brackets, fit_probability
from analysis.targets import BatchPoint, Run
from analysis.wording import number, percent

FloatArray = npt.NDArray[np.float64]

_HARMONICS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """What the aggregates might have been, and how far an interval from them has to be stretched.

    Attributes:
        log_steps: shape (R, J): resampled log of the aggregate steps of each batch.
        lift: correction of log steps for the choice of the LR on the seeds that measure it.
        birge: factor on every deviation, from residuals larger than the resamples explain.
        own: shape (J,): variance over the resamples that seeds account for.
        freedom: shape (J,): degrees of freedom of `own`.
        total: shape (J,): variance over the resamples.
        of_residuals: J - 2 where the residuals set the width, for every quantity alike; None where seeds do.
        notes: warnings, one sentence each.
    """

    log_steps: FloatArray
    lift: float
    birge: float
    own: FloatArray
    freedom: FloatArray
    total: FloatArray
    of_residuals: int | None
    notes: tuple[str, ...]

    def degrees(self, weights: FloatArray) -> FloatArray:
        """Degrees of freedom behind the variance of sum_j weights[k, j] log_steps[:, j], shape (K,)."""
        if self.of_residuals is not None:
            return np.full(len(weights), float(self.of_residuals))
        return welch_freedom(weights**2 * self.own, self.freedom, weights**2 * (self.total - self.own))

    def stretch(self, weights: FloatArray, confidence: float) -> FloatArray:
        """Factor on the deviations of sum_j weights[k, j] log_steps[:, j] over the resamples, shape (K,)."""
        return self.birge * t_over_z(confidence, self.degrees(weights))


def spread_of(
    points: Sequence[BatchPoint],
    runs: Sequence[Run],
    fitted: FloatArray,
    residuals: FloatArray,
    noise: tuple[float | None, int],
    resamples: int,
    rng: np.random.Generator,
) -> Spread:
    """Resamples over seeds, or over residuals where no two runs of a batch tell what seeds do.

    Evaluations blur a crossing too: `quantisation` is added to the resamples, as one displacement of a batch.

    Args:
        points: one per batch, J of them.
        runs: of the whole LR grid.
        fitted: log steps of the fitted curve, shape (J,).
        residuals: log(measured / fitted), shape (J,).
        noise: `judge.seed_noise` of the points.
        resamples: R.
        rng: of the bootstrap.
    """
    measured = fitted + residuals
    deviation, pooled = noise
    by_seeds = deviation is not None and deviation >= NO_SPREAD
    lift, notes = 0.0, []
    if by_seeds:
        drawn = resample_seeds(points, runs, resamples, rng)
        lift = float(drawn.optimism.mean())
        # A resample chooses its LR on its own seeds once more and lies low as a whole; only its spread is wanted.
        rows = drawn.log_steps + (measured.mean() - drawn.log_steps.mean())
        scale = float(deviation or 0.0)
    else:
        rows = residual_resamples(fitted, residuals, resamples, rng)
        scale = float(np.sqrt(np.mean(residuals**2)))
    own = rows.var(0)
    step = np.sqrt([quantisation(width, scale) for width in brackets(points).values()])
    rows = rows + math.sqrt(12.0) * step * (rng.random(rows.shape) - 0.5)
    birge = birge_ratio(residuals, rows) if by_seeds else 1.0
    scattered = by_seeds and fit_probability(points, residuals, noise) < SCATTER_P
    if lift > 0.005:
        notes.append(
            f"steps are raised by {percent(math.expm1(lift))}: the best learning rate was chosen on the seeds that "
            "measure it."
        )
    if scattered:
        notes.append(
            f"the points scatter {number(birge, 2)} times as far as seeds explain; intervals are widened by that."
        )
    return Spread(
        log_steps=rows,
        lift=lift,
        birge=birge,
        own=own,
        freedom=np.array([len({run.seed for run in point.runs}) - 1 or pooled for point in points], dtype=np.float64),
        total=own + step**2,
        of_residuals=residuals.size - 2 if scattered or not by_seeds else None,
        notes=tuple(notes),
    )


def quantisation(width: float, noise: float) -> float:
    """Variance that evaluating every `width` leaves in the mean of crossings that scatter by `noise`.

    A rounding error is uniform over the step, with the variance w^2 / 12. Where the crossings scatter over several
    steps their errors differ, show in the scatter, and average out; where all fall into one step the error is one and
    the same, and no scatter shows it. In between the mean keeps w^2 / (2 pi^2) sum_k exp(-(2 pi k s / w)^2) / k^2
    (the error of a mean under Gaussian dither: Widrow & Kollar 2008, Quantization Noise, chapter 19).

    Args:
        width: distance of the evaluations around a crossing, as a share of it (so of log steps).
        noise: standard deviation of log steps over seeds.

    >>> round(quantisation(0.12, 0.0) ** 0.5, 4), round(quantisation(0.12, 0.03) ** 0.5, 4)
    (0.0346, 0.0079)
    """
    if width <= 0.0:
        return 0.0
    if noise == 0.0:
        return width**2 / 12.0
    k = np.arange(1, _HARMONICS + 1)
    return float(width**2 / (2.0 * np.pi**2) * (np.exp(-((2.0 * np.pi * k * noise / width) ** 2)) / k**2).sum())


def welch_freedom(variances: FloatArray, freedom: FloatArray, known: FloatArray) -> FloatArray:
    """Degrees of freedom of sums of estimated variances: (sum v)^2 / sum(v_j^2 / (f_j + 2)) - 2, at most sum f_j.

    Welch 1947, Biometrika 34; the subtraction makes up for v_j^2 being larger than the square of the true variance.

    Args:
        variances: v_j, each estimated, shape (K, J).
        freedom: f_j, degrees of freedom of each, shape (J,).
        known: variances in the sums that are not estimated, shape (K, J).

    Returns:
        Shape (K,), between the least and the sum of f_j.

    >>> three = np.full(3, 4.0)
    >>> welch_freedom(np.array([[1.0, 1.0, 1.0], [4.0, 1.0, 1.0]]), three, np.zeros((2, 3))).round(6).tolist()
    [12.0, 10.0]
    """
    total = variances.sum(1) + known.sum(1)
    least = np.finfo(np.float64).tiny
    degrees = total**2 / np.maximum((variances**2 / (freedom + 2.0)).sum(1), least) - 2.0
    return np.asarray(np.clip(degrees, freedom.min(), freedom.sum()))


def linear_weights(
    batch_sizes: FloatArray, log_b_crit: float, at: FloatArray, weights: FloatArray | None = None
) -> FloatArray:
    """How log B_crit, log S_min, log E_min and the curve move with the log steps of each batch, to first order.

    Args:
        batch_sizes: B, shape (J,).
        log_b_crit: of the fit, finite.
        at: batches at which the curve is wanted, shape (K,).
        weights: of the batches in the fit, shape (J,); all alike if None.

    Returns:
        Shape (3 + K, J).

    >>> weights = linear_weights(np.array([16.0, 64.0, 256.0, 1024.0]), np.log(128.0), np.array([64.0]))
    >>> weights.sum(1).round(9).tolist()  # a factor on all steps leaves B_crit as it is and moves the others
    [0.0, 1.0, 1.0, 1.0]
    """
    slope = 1.0 / (1.0 + batch_sizes / math.exp(log_b_crit))  # d log(1 + B_crit / B) / d log B_crit
    share = np.full(slope.size, 1.0 / slope.size) if weights is None else weights / weights.sum()
    mean = (share * slope).sum()
    centred = slope - mean
    b_crit = share * centred / (share * centred**2).sum()
    s_min = share - mean * b_crit
    curve = s_min + (1.0 / (1.0 + at / math.exp(log_b_crit)))[:, None] * b_crit
    return np.vstack([b_crit, s_min, s_min + b_crit, curve])
