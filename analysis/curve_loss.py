"""Which loss the steps-to-target curve is fitted with: plain, Huber's, or weighted by what the seeds of a batch say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.bootstrap import NO_SPREAD
from analysis.curve import fit_curves
from analysis.defaults import Loss
from analysis.robust_curve import fit_huber_weights, fit_weighted
from analysis.targets import BatchPoint, outlying

FloatArray = npt.NDArray[np.float64]

PRIOR_SEEDS = 10.0
"""Degrees of freedom that the typical variance counts for beside a batch's own. With 4 a 90 % interval of three seeds
held the truth 84 times in 100, with 10 it does 89 times."""


def fit_by_loss(
    loss: Loss, batch_sizes: FloatArray, log_steps: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """Fit the curve to many sets of measurements at once, under a loss.

    Args:
        loss: "linear" is plain least squares of log residuals, "huber" counts large ones by their distance, "weighted"
            takes each squared one times its weight.
        batch_sizes: B [samples], shape (J,).
        log_steps: shape (R, J).
        weights: of the batches, from `batch_weights`, shape (J,) or (R, J).

    Returns:
        (log B_crit, log S_min, weights), of shapes (R,), (R,) and (R, J): with these weights least squares gives the
        same curve. None where they are all alike.

    >>> B = np.array([16.0, 64.0, 256.0, 1024.0])
    >>> y = np.log([[850.0, 250.0, 100.0, 62.5]])
    >>> [float(np.exp(fit_by_loss(loss, B, y, np.ones(4))[0][0]).round(6)) for loss in ("linear", "huber", "weighted")]
    [256.0, 256.0, 256.0]
    """
    if loss == "huber":
        return fit_huber_weights(batch_sizes, log_steps)
    if loss == "weighted":
        rows = np.broadcast_to(weights, log_steps.shape)
        return *fit_weighted(batch_sizes, log_steps, rows), rows
    return *fit_curves(batch_sizes, log_steps), None


def batch_weights(points: Sequence[BatchPoint]) -> FloatArray:
    """Inverse variance of the mean log steps of each batch over its seeds, shape (J,), 1 on average.

    The variance of a few seeds is itself hardly known: two seeds that happen to agree would take over the fit. So a
    batch's own variance is moderated by what is typical, (f s^2 + 10 s_0^2) / (f + 10), with f its degrees of freedom
    and s_0^2 the median over batches of log s^2, less its bias (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, with the
    prior's degrees of freedom set and not fitted). One run has s_0^2. Named outliers and censored runs count in none.
    Where no batch has a spread the weights are the numbers of runs.
    """
    logs = [_clean(point) for point in points]
    squares = np.array([((own - own.mean()) ** 2).sum() if own.size else 0.0 for own in logs])
    freedom = np.array([max(own.size - 1, 0) for own in logs], dtype=np.float64)
    counts = np.array([max(own.size, 1) for own in logs], dtype=np.float64)
    spread = squares > NO_SPREAD**2
    if not spread.any():
        return np.asarray(counts / counts.mean())
    half = freedom[spread] / 2.0
    typical = float(np.exp(np.median(np.log(squares[spread] / 2.0) - special.psi(half))))
    weights = counts * (freedom + PRIOR_SEEDS) / (squares + PRIOR_SEEDS * typical)
    return np.asarray(weights / weights.mean())


def as_weighted(rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Resamples whose variance over each batch is the one that the weights are the inverse of.

    A batch whose few seeds agree by chance has both a large weight and a narrow bootstrap; with its own variance in the
    interval the two errors meet, and it holds the truth less often than it claims.

    Args:
        rows: resampled log steps, shape (R, J).
        weights: from `batch_weights`, shape (J,).
    """
    centre, variance = rows.mean(0), rows.var(0)
    wanted = (variance * weights).mean() / weights
    scale = np.sqrt(wanted / np.where(variance > 0.0, variance, wanted))
    return np.asarray(centre + (rows - centre) * scale)


def loss_warnings(points: Sequence[BatchPoint], loss: Loss) -> tuple[str, ...]:
    """What a loss cannot do with these points."""
    said = []
    if loss == "weighted" and max(_clean(point).size for point in points) < 2:
        said.append("one run per batch tells no variance to weight by, so that --loss weighted is the plain loss here.")
    if loss != "linear":
        said.append(f"the free exponent is by plain least squares, which --loss {loss} does not change.")
    return tuple(said)


def _clean(point: BatchPoint) -> FloatArray:
    logs = np.log([run.steps for run in point.runs if run.reached])
    return np.asarray(logs[~outlying(logs)])
