"""The critical batch size: curve fit, interval, status."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.bootstrap import CONFIDENCE, widened
from analysis.curve import curve_values, mean_over_batches
from analysis.curve_fit import CurveFit, unfitted
from analysis.curve_loss import as_weighted, batch_weights, fit_by_loss, loss_warnings
from analysis.defaults import Loss
from analysis.fit_warnings import bracket_warnings, lr_warnings, seed_warnings
from analysis.judge import MIN_BATCHES, FitStatus, judge, seed_noise
from analysis.spread import linear_weights, spread_of
from analysis.targets import BatchPoint, Run, batch_points
from scaleexp.errors import ConfigError, NotEnoughDataError

__all__ = ["CurveFit", "FitStatus", "fit_curve", "fit_points"]

FloatArray = npt.NDArray[np.float64]
BAND_POINTS = 41
ENDS = np.array([-3.0, 3.0])
"""How far [log B] outside the measured batches the weights of a fit are taken; beyond, they hardly change."""


def fit_curve(
    points: Sequence[BatchPoint],
    runs: Sequence[Run] | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
    loss: Loss = "linear",
) -> CurveFit:
    """Fit the curve to one aggregate per batch, with intervals from a bootstrap over seeds.

    Least squares in log space, batches unweighted: what the curve fails to describe is the same at every batch, and
    would outweigh the seed noise at batches with many seeds; `analysis.curve_loss` has the other losses.
    `analysis.bootstrap` draws the resamples.

    The bootstrap's deviations of log B_crit are widened by two factors:

    - t / z, because the spread is itself estimated from a few seeds per batch: at the degrees of freedom of the batches
      that each quantity rests on (`spread.welch_freedom`), or at J - 2 where the residuals show more than seeds explain
      (p < 0.05);
    - the Birge ratio, where above 1: residuals over the spread that seeds explain (Birge 1932, Phys. Rev. 40, 207; the
      scale factor of the Particle Data Group), so that an interval also holds what the curve does not describe.

    With one run per batch the resamples are drawn from the residuals.

    Args:
        points: from `targets.batch_points`, one per batch.
        runs: every run of the LR grid, so that the LR is chosen anew in every resample; those of `points` if None.
        confidence: of every interval, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        loss: of the log residuals: linear (plain least squares), huber, or weighted by the inverse variance of the mean
            of each batch over its seeds.

    Raises:
        NotEnoughDataError: no batch reached the target.
        ConfigError: a confidence outside (0, 1) or fewer than 100 resamples.
    """
    if not points:
        raise NotEnoughDataError("no batch size reached the target, so there is no curve to fit.")
    everything = list(runs) if runs is not None else [run for point in points for run in point.runs]
    return _fit(
        points,
        everything,
        confidence,
        resamples,
        seed,
        loss,
        warnings=(
            *seed_warnings(points),
            *loss_warnings(points, loss),
            *lr_warnings(points),
            *bracket_warnings(points),
        ),
    )


def fit_points(
    batch_sizes: npt.ArrayLike,
    samples: npt.ArrayLike,
    *,
    seeds: npt.ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
    seed: int = 0,
) -> CurveFit:
    """Fit a plain table of measurements: one row per run that reached the target, tuned by whoever made it.

    Args:
        batch_sizes: B [samples], shape (N,).
        samples: samples to target, shape (N,), in any one unit: with epochs, e_min is in epochs and s_min in epochs per
            sample of batch, while B_crit keeps the unit of the batch sizes.
        seeds: which rows of a batch are which seed, shape (N,); counted through within a batch if None.
        confidence: as in `fit_curve`.
        resamples: as in `fit_curve`.
        seed: as in `fit_curve`.

    Raises:
        ConfigError: shapes differ, a value is not finite and positive, or a batch size is not a whole number.
        NotEnoughDataError: no rows.

    >>> B = [16, 64, 256, 1024]
    >>> round(fit_points(B, [13600, 16000, 25600, 64000]).b_crit, 3)
    256.0
    """
    b, e = (np.atleast_1d(np.asarray(column, dtype=np.float64)) for column in (batch_sizes, samples))
    if b.shape != e.shape or b.ndim != 1:
        raise ConfigError(f"batch sizes and samples must be two columns of one length, got {b.shape} and {e.shape}.")
    if not (np.isfinite(b).all() and np.isfinite(e).all() and (b > 0).all() and (e > 0).all()):
        raise ConfigError("batch sizes and samples must be finite and positive: leave out runs that missed the target.")
    if not np.array_equal(b, np.round(b)):
        got = b[b != np.round(b)][0]
        raise ConfigError(f"batch sizes must be whole numbers of samples, got {got:g}: count the samples of one step.")
    which = (
        [int((b[:i] == b[i]).sum()) for i in range(b.size)] if seeds is None else [int(s) for s in np.asarray(seeds)]
    )
    runs = [
        Run(
            key=f"row {i + 1}",
            seed=which[i],
            batch_size=round(b[i]),
            workers=1,
            lr=0.0,
            reached=True,
            samples=float(e[i]),
            bracket=(float(e[i]), float(e[i])),
            status="reached",
        )
        for i in range(b.size)
    ]
    points, _ = batch_points(runs)
    if not points:
        raise NotEnoughDataError("the table has no row, so there is no curve to fit.")
    warnings = (*seed_warnings(points), *lr_warnings(points))
    return _fit(points, runs, confidence, resamples, seed, "linear", warnings=warnings)


def _fit(
    points: Sequence[BatchPoint],
    runs: Sequence[Run],
    confidence: float,
    resamples: int,
    seed: int,
    loss: Loss,
    warnings: Sequence[str],
) -> CurveFit:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence:g}; {CONFIDENCE:g} is usual.")
    if resamples < 100:
        raise ConfigError(f"an interval needs at least 100 resamples, got {resamples}.")
    if len(points) < MIN_BATCHES:
        return unfitted(points, runs, confidence, warnings)
    b = np.array([point.batch_size for point in points], dtype=np.float64)
    y = np.log([[point.steps for point in points]])
    weights = batch_weights(points)
    beta, log_s_min, weighed = fit_by_loss(loss, b, y, weights)
    residuals = (y - curve_values(b, y, beta, b, weighed))[0]
    noise = seed_noise(points)
    spread = spread_of(points, runs, y[0] - residuals, residuals, noise, resamples, np.random.default_rng(seed))
    rows, lift = spread.log_steps, spread.lift
    if loss == "weighted":
        rows = as_weighted(rows, weights)
    betas, log_s_mins, weighed_rows = fit_by_loss(loss, b, rows, weights)
    log_e_min = _log_e_min(b, y, beta, log_s_min, weighed)
    log_e_mins = _log_e_min(b, rows, betas, log_s_mins, weighed_rows)
    at = np.geomspace(b.min(), b.max(), BAND_POINTS)
    centre = float(np.clip(beta[0], *(np.log(b[[0, -1]]) + ENDS)))
    rests_on = linear_weights(b, centre, at, None if weighed is None else weighed[0])
    stretch = spread.stretch(rests_on, confidence)
    of_rows = curve_values(b, rows, betas, at, weighed_rows)
    band = widened(curve_values(b, y, beta, at, weighed)[0], of_rows, confidence, stretch[3:])
    b_crit = float(np.exp(beta[0]))
    interval = _interval(beta, betas, confidence, stretch[0])
    status, reason = judge(
        points=points,
        b_crit=b_crit,
        interval=interval,
        confidence=confidence,
        residuals=residuals,
        freedom=float(spread.degrees(rests_on)[0]),
        noise=noise,
    )
    return CurveFit(
        b_crit=b_crit,
        b_crit_interval=interval,
        s_min=float(np.exp(log_s_min[0] + lift)),
        s_min_interval=_interval(log_s_min, log_s_mins, confidence, stretch[1], lift),
        e_min=float(np.exp(log_e_min[0] + lift)),
        e_min_interval=_interval(log_e_min, log_e_mins, confidence, stretch[2], lift),
        confidence=confidence,
        band=tuple(zip(at.tolist(), *(np.exp(side + lift).tolist() for side in band), strict=True)),
        n_batches=len(points),
        n_runs=len(runs),
        n_censored=sum(not run.reached for run in runs),
        rms_log_residual=float(np.sqrt(np.mean(residuals**2))),
        seed_noise=noise[0],
        status=status,
        reason=reason,
        warnings=(*warnings, *spread.notes),
        birge=spread.birge,
    )


def _log_e_min(
    b: FloatArray, rows: FloatArray, beta: FloatArray, log_s_min: FloatArray, weights: FloatArray | None
) -> FloatArray:
    """Log E_min = log S_min + log B_crit; the constant E of a linear curve, and -inf for a flat one."""
    linear = mean_over_batches(rows + np.log(b), weights)
    with np.errstate(invalid="ignore"):  # -inf + inf, replaced
        return np.where(beta == np.inf, linear, log_s_min + beta)


def _interval(
    estimate: FloatArray, rows: FloatArray, confidence: float, stretch: float, lift: float = 0.0
) -> tuple[float, float]:
    low, high = widened(estimate, rows[:, None], confidence, stretch)
    return float(np.exp(low[0] + lift)), float(np.exp(high[0] + lift))
