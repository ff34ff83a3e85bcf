"""Draws from a multivariate normal kept within bounds, as parameters that cannot be negative need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

_ROUNDS = 12
_LINES = 4


def bounded_normal(
    mean: FloatArray, covariance: FloatArray, low: FloatArray, high: FloatArray, n: int, rng: np.random.Generator
) -> FloatArray:
    """`n` draws, shape (parameters, n), by Gibbs sampling with moves along lines drawn from the covariance between.

    Clipping plain draws instead would break what the data do fix, such as a sum of two parameters of which one is at
    its bound. A parameter whose variance is 0 stays where it is.

    >>> far = bounded_normal(np.zeros(1), np.eye(1), np.zeros(1), np.full(1, np.inf), 4000, np.random.default_rng(0))
    >>> bool(abs(far.mean() - np.sqrt(2 / np.pi)) < 0.03)  # a half normal
    True
    """
    sd = np.sqrt(np.diag(covariance))
    free = np.flatnonzero(sd > 0)
    draws = np.repeat(mean[:, None], n, axis=1)
    if not free.size or not n:
        return draws
    # Units of each one's own deviation: the parameters' magnitudes differ by many orders.
    scaled = covariance[np.ix_(free, free)] / np.outer(sd[free], sd[free]) + 1e-9 * np.eye(len(free))
    bounds = (low[free] - mean[free]) / sd[free], (high[free] - mean[free]) / sd[free]
    precision, root = np.linalg.inv(scaled), np.linalg.cholesky(scaled)
    inside = np.clip(np.zeros(len(free)), bounds[0] + 0.2, np.maximum(bounds[1] - 0.2, bounds[0] + 0.2))
    x = np.repeat(inside[:, None], n, axis=1)
    for _ in range(_ROUNDS):
        for i in range(len(free)):
            spread = 1 / np.sqrt(precision[i, i])
            centre = x[i] - (precision[i] @ x) / precision[i, i]
            x[i] = centre + spread * _between((bounds[0][i] - centre) / spread, (bounds[1][i] - centre) / spread, rng)
        for _ in range(_LINES):
            x = _along_a_line(x, root, precision, bounds, rng)
    draws[free] = mean[free, None] + sd[free, None] * x
    return np.clip(draws, low[:, None], high[:, None])


def _along_a_line(
    x: FloatArray,
    root: FloatArray,
    precision: FloatArray,
    bounds: tuple[FloatArray, FloatArray],
    rng: np.random.Generator,
) -> FloatArray:
    """A draw from the same normal along a random line through each point; the bounds cut the line."""
    line = root @ rng.standard_normal(x.shape)
    curvature = np.einsum("in,in->n", line, precision @ line)
    centre = -np.einsum("in,in->n", line, precision @ x) / curvature
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (bounds[0][:, None] - x) / line, (bounds[1][:, None] - x) / line
    least, most = np.fmin(*ends).max(axis=0), np.fmax(*ends).min(axis=0)
    spread = 1 / np.sqrt(curvature)
    step = centre + spread * _between(
        (np.minimum(least, 0.0) - centre) / spread, (np.maximum(most, 0.0) - centre) / spread, rng
    )
    return np.asarray(np.clip(x + step * line, bounds[0][:, None], bounds[1][:, None]))


def _between(low: FloatArray, high: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A standard normal between two ends; far out in a tail the nearer end."""
    below, above = ndtr(low), ndtr(high)
    drawn = ndtri(below + rng.uniform(size=np.shape(low)) * (above - below))
    return np.asarray(np.clip(np.clip(drawn, -8.0, 8.0), low, high))
