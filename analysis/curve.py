"""Least squares of the steps-to-target curve in log space, for many sets of measurements at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

REACH = 1.0e4
"""How far outside the measured batches B_crit is looked for. Beyond, the curve is flat or linear to 1 in 10,000."""

_GRID_STEP = 0.1
_POLISH = 5


def fit_curves(batch_sizes: FloatArray, log_steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit log S = log S_min + log(1 + B_crit / B) by unweighted least squares, each row by itself.

    Residuals are multiplicative, hence the logarithm. Given B_crit the best log S_min is a mean, so only log B_crit is
    searched: on a grid (the profile can have a flat end, where Newton would run away) and then by Gauss-Newton.

    Args:
        batch_sizes: B [samples], shape (J,), positive.
        log_steps: log of the steps to target, shape (R, J).

    Returns:
        (log B_crit, log S_min), each of shape (R,). log B_crit is -inf for a curve that is flat and +inf for one
        that is linear as far as can be seen; log S_min is then that of a constant, or -inf.

    >>> B = np.array([16.0, 64.0, 256.0, 1024.0])
    >>> log_b_crit, log_s_min = fit_curves(B, np.log([[850.0, 250.0, 100.0, 62.5]]))
    >>> float(np.exp(log_b_crit[0]).round(6)), float(np.exp(log_s_min[0]).round(6))
    (256.0, 50.0)
    """
    log_b = np.log(batch_sizes)
    grid = np.arange(log_b.min() - np.log(REACH), log_b.max() + np.log(REACH) + _GRID_STEP, _GRID_STEP)
    shapes = _centred(_shape(grid, log_b))
    y = _centred(log_steps)
    profile = (shapes**2).sum(1) - 2.0 * y @ shapes.T  # plus sum y^2, the same for every B_crit
    at = profile.argmin(1)
    inside = (at > 0) & (at < grid.size - 1)
    beta = grid[at]
    for _ in range(_POLISH):
        slope = _centred(1.0 / (1.0 + np.exp(log_b - beta[:, None])))  # d log(1 + B_crit / B) / d log B_crit
        residual = y - _centred(_shape(beta, log_b))
        scale = np.maximum((slope**2).sum(1), np.finfo(np.float64).tiny)
        move = (slope * residual).sum(1) / scale
        beta = np.clip(beta + np.clip(move, -_GRID_STEP, _GRID_STEP), grid[at] - _GRID_STEP, grid[at] + _GRID_STEP)
    log_s_min = (log_steps - _shape(beta, log_b)).mean(1)
    log_b_crit = np.where(inside, beta, np.where(at == 0, -np.inf, np.inf))
    return log_b_crit, np.where(at == grid.size - 1, -np.inf, log_s_min)


def curve_values(
    batch_sizes: FloatArray,
    log_steps: FloatArray,
    log_b_crit: FloatArray,
    at: FloatArray,
    weights: FloatArray | None = None,
) -> FloatArray:
    """Log S of fitted curves at other batch sizes, flat and linear ones included.

    Args:
        batch_sizes: B that was fitted, shape (J,).
        log_steps: what was fitted, shape (R, J).
        log_b_crit: from `fit_curves`, shape (R,).
        at: B to evaluate at, shape (K,).
        weights: that it was fitted with, shape (R, J); all alike if None.

    Returns:
        Shape (R, K).
    """
    log_b = np.log(batch_sizes)
    beta = np.clip(log_b_crit, log_b.min() - np.log(REACH), log_b.max() + np.log(REACH))
    log_s_min = mean_over_batches(log_steps - _shape(beta, log_b), weights)
    return np.asarray(log_s_min[:, None] + _shape(beta, np.log(at)))


def mean_over_batches(rows: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Weighted mean over the last axis, the plain one without weights."""
    return np.asarray(rows.mean(1) if weights is None else np.average(rows, axis=1, weights=weights))


def _shape(log_b_crit: FloatArray, log_b: FloatArray) -> FloatArray:
    """log(1 + B_crit / B), shape (len(log_b_crit), len(log_b))."""
    return np.asarray(np.logaddexp(0.0, log_b_crit[:, None] - log_b))


def _centred(rows: FloatArray) -> FloatArray:
    return np.asarray(rows - rows.mean(1, keepdims=True))
