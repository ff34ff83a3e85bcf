"""The steps-to-target curve with weighted and with Huber's loss, for many sets of measurements at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.curve import REACH, fit_curves

FloatArray = npt.NDArray[np.float64]

HUBER = 1.345
"""Residuals beyond this many standard deviations count by their distance and no longer by its square; 95 % efficient
where noise is normal (Huber 1981, Robust Statistics)."""
LEAST_SCALE = 1e-6
"""Of log residuals: a perfect fit has no outliers."""
_GRID_STEP = 0.05
_POLISH = 5
_REWEIGHT = 30


def fit_weighted(batch_sizes: FloatArray, log_steps: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As `curve.fit_curves`, each squared log residual times its weight.

    Args:
        batch_sizes: B [samples], shape (J,).
        log_steps: shape (R, J).
        weights: at least 0, shape (R, J) or (J,), above 0 at two batches or more.

    Returns:
        (log B_crit, log S_min), each of shape (R,); infinities as in `fit_curves`.

    >>> B = np.array([16.0, 64.0, 256.0, 1024.0])
    >>> y = np.log([[850.0, 250.0, 100.0, 9999.0]])
    >>> float(np.exp(fit_weighted(B, y, np.array([1.0, 1.0, 1.0, 0.0]))[0][0]).round(6))
    256.0
    """
    w = np.broadcast_to(weights, log_steps.shape)
    w = w / w.sum(1, keepdims=True)
    log_b = np.log(batch_sizes)
    grid = np.arange(log_b.min() - np.log(REACH), log_b.max() + np.log(REACH) + _GRID_STEP, _GRID_STEP)
    shapes = np.logaddexp(0.0, grid[:, None] - log_b)
    y = log_steps - (w * log_steps).sum(1, keepdims=True)
    # sum w (y - (s - mean_w s))^2, without what is the same for every B_crit
    profile = w @ (shapes**2).T - (w @ shapes.T) ** 2 - 2.0 * (w * y) @ shapes.T
    at = profile.argmin(1)
    beta = grid[at]
    for _ in range(_POLISH):
        shape = np.logaddexp(0.0, beta[:, None] - log_b)
        slope = 1.0 / (1.0 + np.exp(log_b - beta[:, None]))
        shape, slope = (part - (w * part).sum(1, keepdims=True) for part in (shape, slope))
        scale = np.maximum((w * slope**2).sum(1), np.finfo(np.float64).tiny)
        move = (w * slope * (y - shape)).sum(1) / scale
        beta = np.clip(beta + np.clip(move, -_GRID_STEP, _GRID_STEP), grid[at] - _GRID_STEP, grid[at] + _GRID_STEP)
    log_s_min = (w * (log_steps - np.logaddexp(0.0, beta[:, None] - log_b))).sum(1)
    log_b_crit = np.where(at == 0, -np.inf, np.where(at == grid.size - 1, np.inf, beta))
    return log_b_crit, np.where(at == grid.size - 1, -np.inf, log_s_min)


def fit_huber(batch_sizes: FloatArray, log_steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As `curve.fit_curves` under Huber's loss, by iteratively reweighted least squares.

    The scale is the median absolute residual over 0.6745, taken anew in every iteration: with few batches it is rough,
    and beside one outlier it is what keeps that one from setting it.

    >>> B = 2.0 ** np.arange(4, 12)
    >>> y = np.log(50.0 * (1.0 + 256.0 / B))
    >>> y[3] += 1.0
    >>> abs(float(np.exp(fit_huber(B, y[None])[0][0])) - 256.0) < 1.0
    True
    """
    return fit_huber_weights(batch_sizes, log_steps)[:2]


def fit_huber_weights(batch_sizes: FloatArray, log_steps: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `fit_huber`, and the weights of the last iteration, shape (R, J)."""
    log_b = np.log(batch_sizes)
    beta, log_s_min = fit_curves(batch_sizes, log_steps)
    weights = np.ones_like(log_steps)
    for _ in range(_REWEIGHT):
        inside = np.clip(beta, log_b.min() - np.log(REACH), log_b.max() + np.log(REACH))
        shape = np.logaddexp(0.0, inside[:, None] - log_b)
        level = np.where(np.isfinite(log_s_min), log_s_min, (log_steps - shape).mean(1))
        residuals = np.abs(log_steps - level[:, None] - shape)
        scale = np.maximum(np.median(residuals, axis=1, keepdims=True) / 0.6745, LEAST_SCALE)
        weights = np.minimum(1.0, HUBER * scale / np.maximum(residuals, np.finfo(np.float64).tiny))
        before = beta
        beta, log_s_min = fit_weighted(batch_sizes, log_steps, weights)
        if np.array_equal(beta, before):
            break
    return beta, log_s_min, weights
