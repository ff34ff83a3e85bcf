"""The critical batch size under the overhead definition: another number than B_crit, off the same curve."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.study import StudyAnalysis
from scaleexp.laws import overhead_batch

DELTA = 0.2
"""As Zhang et al. 2024 (arXiv:2410.21676) use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """The batch at which steps exceed linear scaling from a reference batch by a given share.

    B*(delta, B_ref) = (1 + delta) B_ref + delta B_crit on the fitted curve (Zhang et al. 2024, arXiv:2410.21676).

    Attributes:
        delta: the share; 0.2 means 20 % more steps than linear scaling would take.
        reference_batch: B_ref [samples], the smallest batch with a point.
        batch: B* [samples].
        interval: (low, high) [samples], from the ends of the interval of B_crit; low is 0 and high is inf where the
            data do not bound that side of it.
    """

    delta: float
    reference_batch: int
    batch: float
    interval: tuple[float, float]


def overhead(study: StudyAnalysis) -> Overhead | None:
    """The overhead definition on the fitted curve; None without a fitted curve."""
    fit = study.fit
    if fit is None or math.isnan(fit.b_crit):
        return None
    reference = study.points[0].batch_size
    batch, low, high = (float(overhead_batch(DELTA, reference, b)) for b in (fit.b_crit, *fit.b_crit_interval))
    return Overhead(
        delta=DELTA,
        reference_batch=reference,
        batch=batch,
        interval=(low if fit.b_crit_interval[0] > 0.0 else 0.0, high),
    )
