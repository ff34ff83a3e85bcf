"""The critical batch size: curve fit, interval, status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FitStatus = Literal["ok", "misfit", "extrapolated", "not_identified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveFit:
    """Steps-to-target curve S(B) = S_min (1 + B_crit / B), McCandlish et al. 2018 (arXiv:1812.06162).

    Attributes:
        b_crit: critical batch size [samples]: there a run takes 2 s_min steps and 2 e_min samples.
        b_crit_interval: (low, high) [samples] at `confidence`; high is inf and low is 0 when the data do not bound it.
        s_min, s_min_interval: steps needed by an unboundedly large batch.
        e_min, e_min_interval: samples needed by an unboundedly small one.
        confidence: of every interval.
        band: (B, low, high) steps, a few dozen batches: pointwise interval of the fitted curve.
        n_batches, n_runs, n_censored: what the fit used.
        rms_log_residual: root mean square of log(measured / fitted) over batches.
        seed_noise: pooled standard deviation of log steps over seeds within a batch; None with one run per batch.
        status: ok | misfit | extrapolated | not_identified.
        reason: one sentence.
        warnings: one sentence each (edge of the LR grid, censored runs, outliers by name, ...).
    """

    b_crit: float
    b_crit_interval: tuple[float, float]
    s_min: float
    s_min_interval: tuple[float, float]
    e_min: float
    e_min_interval: tuple[float, float]
    confidence: float
    band: tuple[tuple[float, float, float], ...]
    n_batches: int
    n_runs: int
    n_censored: int
    rms_log_residual: float
    seed_noise: float | None
    status: FitStatus
    reason: str
    warnings: tuple[str, ...]
