"""How sharply samples to target turn upwards: a free exponent, as a check on the curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.bootstrap import NO_SPREAD, SCATTER_P, birge_ratio, resample_seeds, residual_resamples, t_over_z, widened
from analysis.defaults import Aggregate
from analysis.targets import BatchPoint, Run, batch_points
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

MIN_BATCHES = 4
"""Three parameters, and one batch left to see whether they describe anything."""
STEEPEST, FLATTEST = 8.0, 0.2
"""Exponents looked for. At the ends the data do not bound it: a kink between two batches, or no bend at all."""
REACH = 1.0e3
"""How far outside the measured batches B_c is looked for."""
_POLISH = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeFit:
    """E = E_min (1 + (B / B_c)^p): p = 1 is the curve of McCandlish et al. 2018 (arXiv:1812.06162).

    Attributes:
        exponent: p; None where there are too few batches.
        interval: (low, high) of p at `confidence`; high is inf and low is 0 where the data do not bound that side.
        b_c: batch at which a run takes 2 e_min [samples]; nan without a fit, 0 or inf outside a factor 1,000 of the
            measured batches.
        e_min: cost needed by an unboundedly small batch, in the unit of the costs; nan without a fit.
        rms_log_residual: root mean square of log(measured / fitted) over batches; nan without a fit.
        confidence: of `interval`.
        reason: why there is no exponent, or where its interval comes from; one sentence.
    """

    exponent: float | None
    interval: tuple[float, float]
    b_c: float
    e_min: float
    rms_log_residual: float
    confidence: float
    reason: str


def fit_shape(
    batch_sizes: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    runs: Sequence[Run] | None = None,
    aggregate: Aggregate = "robust",
    confidence: float,
    resamples: int = 1000,
    seed: int = 0,
) -> ShapeFit:
    """Fit the free shape by unweighted least squares in log space, its exponent's interval from a bootstrap.

    Published reference-convergence data give p = 1.0 to 1.1 where clean: an interval far from 1 says that B_crit of
    the curve depends on which batches were measured.

    Args:
        batch_sizes: B [samples], shape (J,), distinct and positive.
        costs: aggregated cost to target of each batch, shape (J,), in any one unit proportional to samples.
        runs: every run of the LR grid, for the bootstrap over seeds. Without them, or with one run per batch, the
            resamples are drawn from the residuals.
        aggregate: how `costs` come from `runs`.
        confidence: of the interval, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ConfigError: shapes differ, a value is not finite and positive, or `runs` lack a batch.

    >>> B = np.array([16.0, 64.0, 256.0, 1024.0])
    >>> fit = fit_shape(B, 5000.0 * (1.0 + (B / 128.0) ** 1.3), confidence=0.9)
    >>> round(fit.exponent, 6), round(fit.b_c, 3), round(fit.e_min, 2)
    (1.3, 128.0, 5000.0)
    """
    b, e = np.asarray(batch_sizes, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if b.ndim != 1 or b.shape != e.shape:
        raise ConfigError(f"batch sizes and costs must be two columns of one length, got {b.shape} and {e.shape}.")
    if not (np.isfinite([b, e]).all() and (b > 0).all() and (e > 0).all()):
        raise ConfigError("batch sizes and costs must be finite and positive: leave out runs that missed the target.")
    if b.size < MIN_BATCHES:
        return ShapeFit(
            exponent=None,
            interval=(0.0, math.inf),
            b_c=math.nan,
            e_min=math.nan,
            rms_log_residual=math.nan,
            confidence=confidence,
            reason=f"a shape of three parameters needs {MIN_BATCHES} batch sizes, got {b.size}.",
        )
    y = np.log(e)
    log_p, log_b_c, log_e_min = fit_shapes(b, y[None])
    fitted = shape_values(b, log_p, log_b_c, log_e_min)[0]
    points = None if runs is None else batch_points(runs, aggregate)[0]
    rows, widening, reason = _resampled(b, fitted, y - fitted, points, runs, confidence, resamples, seed)
    low, high = widened(log_p, fit_shapes(b, rows)[0][:, None], confidence, widening)
    return ShapeFit(
        exponent=float(np.exp(log_p[0])),
        interval=(_bounded(low[0]), _bounded(high[0])),
        b_c=float(np.exp(log_b_c[0])),
        e_min=float(np.exp(log_e_min[0])),
        rms_log_residual=float(np.sqrt(np.mean((y - fitted) ** 2))),
        confidence=confidence,
        reason=reason,
    )


def fit_shapes(batch_sizes: FloatArray, log_costs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least squares of the shape for many sets of measurements at once.

    A grid over (log p, log B_c), as the sum of squares can have a flat end, then Levenberg-Marquardt inside it.

    Args:
        batch_sizes: B, shape (J,).
        log_costs: log E, shape (R, J).

    Returns:
        (log p, log B_c, log E_min), each of shape (R,).
    """
    log_b = np.log(batch_sizes)
    floor, ceiling = log_b.min() - math.log(REACH), log_b.max() + math.log(REACH)
    ps = np.linspace(math.log(FLATTEST), math.log(STEEPEST), 38)
    cs = np.linspace(floor, ceiling, 160)
    grid = np.stack(np.meshgrid(ps, cs, indexing="ij"), -1).reshape(-1, 2)
    y = log_costs - log_costs.mean(1, keepdims=True)
    shapes = _shape(grid[:, 0], grid[:, 1], log_b)
    shapes -= shapes.mean(1, keepdims=True)
    at = grid[((shapes**2).sum(1) - 2.0 * y @ shapes.T).argmin(1)]
    low, high = np.array([ps[0], floor]), np.array([ps[-1], ceiling])
    damping = np.full(len(y), 1e-3)
    error, slopes, residual = _derivatives(at, log_b, y)
    for _ in range(_POLISH):
        tried = np.clip(at + _damped_step(slopes, residual, damping), low, high)
        new_error, new_slopes, new_residual = _derivatives(tried, log_b, y)
        better = new_error < error
        settled = np.abs(tried - at).max(1) < 1e-12
        at = np.where(better[:, None], tried, at)
        error = np.where(better, new_error, error)
        slopes = np.where(better[:, None, None], new_slopes, slopes)
        residual = np.where(better[:, None], new_residual, residual)
        damping = np.clip(np.where(better, damping / 10.0, damping * 10.0), 1e-12, 1e12)
        if settled.all():
            break
    log_e_min = (log_costs - _shape(at[:, 0], at[:, 1], log_b)).mean(1)
    return at[:, 0], at[:, 1], log_e_min


def shape_values(batch_sizes: FloatArray, log_p: FloatArray, log_b_c: FloatArray, log_e_min: FloatArray) -> FloatArray:
    """Log E of fitted shapes, shape (R, J)."""
    return np.asarray(log_e_min[:, None] + _shape(log_p, log_b_c, np.log(batch_sizes)))


def _shape(log_p: FloatArray, log_b_c: FloatArray, log_b: FloatArray) -> FloatArray:
    return np.asarray(np.logaddexp(0.0, np.exp(log_p)[:, None] * (log_b - log_b_c[:, None])))


def _derivatives(at: FloatArray, log_b: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum of squares (R,), derivatives of the centred shape (R, 2, J), centred residuals (R, J)."""
    p = np.exp(at[:, :1])
    z = p * (log_b - at[:, 1:])
    rise = 0.5 * (1.0 + np.tanh(0.5 * z))  # the logistic function, which overflows nowhere
    slopes = np.stack([rise * z, -rise * p], 1)
    slopes -= slopes.mean(2, keepdims=True)
    shape = np.logaddexp(0.0, z)
    residual = y - (shape - shape.mean(1, keepdims=True))
    return (residual**2).sum(1), slopes, residual


def _damped_step(slopes: FloatArray, residual: FloatArray, damping: FloatArray) -> FloatArray:
    """Levenberg's step in two parameters, solved by hand for all rows, shape (R, 2)."""
    a, d = (slopes**2).sum(2).T
    b = (slopes[:, 0] * slopes[:, 1]).sum(1)
    u, v = (slopes * residual[:, None]).sum(2).T
    extra = damping * (a + d) + 1e-12
    a, d = a + extra, d + extra
    return np.asarray(np.stack([d * u - b * v, a * v - b * u], 1) / (a * d - b * b)[:, None])


def _bounded(log_p: float) -> float:
    if log_p >= math.log(STEEPEST) - 1e-6:
        return math.inf
    return 0.0 if log_p <= math.log(FLATTEST) + 1e-6 else math.exp(log_p)


def _resampled(
    b: FloatArray,
    fitted: FloatArray,
    residuals: FloatArray,
    points: Sequence[BatchPoint] | None,
    runs: Sequence[Run] | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[FloatArray, float, str]:
    """(resampled log costs (R, J), widening of the deviations, where they come from), as `cbs` does for the curve."""
    freedom = b.size - 3
    at = {float(point.batch_size): point for point in points or ()}
    absent = [size for size in b.tolist() if size not in at]
    if points is not None and absent:
        raise ConfigError(f"no run reached the target at batch {absent[0]:g}: give the runs behind every cost.")
    wanted = [at[size] for size in b.tolist() if size in at]
    seeds = sum(len(point.runs) - 1 for point in wanted)
    if seeds:
        drawn = resample_seeds(wanted, runs or (), resamples, np.random.default_rng(seed)).log_steps
        deviations = drawn - drawn.mean(0)
        explained = float(deviations.var(0).mean())
        if explained > NO_SPREAD**2:
            birge = birge_ratio(residuals, drawn, parameters=3)
            # Residuals that seeds do not explain are known to their own few degrees of freedom alone.
            scattered = stats.f.sf(birge**2, freedom, seeds) < SCATTER_P
            widening = birge * float(t_over_z(confidence, freedom if scattered else seeds))
            return fitted + residuals + deviations, widening, "the interval comes from a bootstrap over seeds."
    # Scaled for two parameters there; the third one is this.
    scale = math.sqrt((b.size - 2) / freedom)
    drawn = residual_resamples(fitted, residuals, resamples, np.random.default_rng(seed))
    rows = fitted + scale * (drawn - fitted)
    return rows, float(t_over_z(confidence, freedom)), "the interval comes from the residuals, as seeds show no spread."
