"""Least squares of a power law in one or two regressors, in logarithms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """y = c x_1^a_1 x_2^a_2 ...

    Attributes:
        log_coefficient: log c.
        exponents: a_k, one per regressor.
        covariance: of (log c, a_1, ...) from the residuals, shape (K + 1, K + 1); nan without a degree of freedom.
        rms_log_residual: root mean square of log(measured / fitted).
        freedom: rows - parameters.
    """

    log_coefficient: float
    exponents: tuple[float, ...]
    covariance: FloatArray
    rms_log_residual: float
    freedom: int

    def interval(self, parameter: int, confidence: float) -> tuple[float, float]:
        """Student's interval of log c (parameter 0) or of a_k (parameter k); unbounded without a degree of freedom."""
        value = (self.log_coefficient, *self.exponents)[parameter]
        if self.freedom < 1:
            return -math.inf, math.inf
        half = float(stats.t.ppf(0.5 + confidence / 2.0, self.freedom)) * math.sqrt(
            self.covariance[parameter, parameter]
        )
        return value - half, value + half


def fit_power_law(x: FloatArray, y: FloatArray) -> PowerLaw:
    """Unweighted least squares of log y = log c + sum_k a_k log x_k.

    Args:
        x: regressors, shape (J, K), positive, more rows than columns and not collinear in logarithms.
        y: shape (J,), positive.

    >>> law = fit_power_law(np.array([[1.0], [10.0], [100.0]]), np.array([3.0, 30.0, 300.0]))
    >>> round(float(np.exp(law.log_coefficient)), 9), round(law.exponents[0], 9)
    (3.0, 1.0)
    """
    design, centre = _design(x)
    log_y = np.log(y)
    inverse = np.linalg.inv(design.T @ design)
    centred = inverse @ (design.T @ log_y)
    residuals = log_y - design @ centred
    freedom = y.size - design.shape[1]
    variance = float((residuals**2).sum()) / freedom if freedom > 0 else math.nan
    # Fitted about the mean of the logs, where the columns are as independent as they get; then moved to x = 1.
    move = np.eye(centre.size + 1)
    move[0, 1:] = -centre
    parameters = move @ centred
    return PowerLaw(
        log_coefficient=float(parameters[0]),
        exponents=tuple(parameters[1:].tolist()),
        covariance=variance * (move @ inverse @ move.T),
        rms_log_residual=float(np.sqrt(np.mean(residuals**2))),
        freedom=freedom,
    )


def propagated(x: FloatArray, log_y: FloatArray) -> FloatArray:
    """(log c, a_1, ...) of many draws of the measurements.

    Args:
        x: regressors, shape (J, K).
        log_y: shape (R, J).

    Returns:
        Shape (R, K + 1).
    """
    design, centre = _design(x)
    centred = log_y @ design @ np.linalg.inv(design.T @ design)
    centred[:, 0] -= centred[:, 1:] @ centre
    return np.asarray(centred)


def variance_inflation(x: FloatArray) -> float:
    """Variance inflation factor of two regressors, 1 / (1 - r^2) with r the correlation of their logs.

    By how much the variance of an exponent grows because the regressors move together; above 10 they are commonly
    called collinear (Marquardt 1970, Technometrics 12). inf where one is a power of the other.

    >>> round(variance_inflation(np.exp([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])), 9)
    1.0
    """
    a, b = (np.log(x) - np.log(x).mean(0)).T
    scale = float((a**2).sum() * (b**2).sum())
    share = 1.0 - float((a * b).sum()) ** 2 / scale if scale > 0.0 else 0.0
    return 1.0 / share if share > 1e-12 else math.inf


def _design(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Columns (1, centred logs), shape (J, K + 1), and the means of the logs, shape (K,)."""
    logs = np.log(x)
    centre = logs.mean(0)
    return np.column_stack([np.ones(len(logs)), logs - centre]), centre
