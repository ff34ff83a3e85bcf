"""A fitted steps-to-target curve: what it says and how far that may be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.judge import MIN_BATCHES, FitStatus, seed_noise
from analysis.targets import BatchPoint, Run


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
        n_batches, n_runs, n_censored: batches with a point; runs of their whole LR grid; censored ones among them.
        rms_log_residual: root mean square of log(measured / fitted) over batches.
        seed_noise: pooled standard deviation of log steps over seeds within a batch; None with one run per batch.
        status: ok | misfit | extrapolated | not_identified; ok only with the whole interval inside the measured
            batches and within a factor 10.
        reason: one sentence.
        warnings: one sentence each (edge of the LR grid, censored runs, outliers by name, ...).
        birge: factor by which intervals are widened because points scatter further than seeds explain; 1 for none.
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
    birge: float = 1.0


def unfitted(points: Sequence[BatchPoint], runs: Sequence[Run], confidence: float, warnings: Sequence[str]) -> CurveFit:
    """What too few batches give: no number, and why."""
    nothing = (0.0, math.inf)
    return CurveFit(
        b_crit=math.nan,
        b_crit_interval=nothing,
        s_min=math.nan,
        s_min_interval=nothing,
        e_min=math.nan,
        e_min_interval=nothing,
        confidence=confidence,
        band=(),
        n_batches=len(points),
        n_runs=len(runs),
        n_censored=sum(not run.reached for run in runs),
        rms_log_residual=math.nan,
        seed_noise=seed_noise(points)[0],
        status="not_identified",
        reason=f"a curve of two parameters needs {MIN_BATCHES} batch sizes and {len(points)} reached the target.",
        warnings=tuple(warnings),
    )
