"""The critical batch size under the overhead definition: another number than B_crit, off the same curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.cbs import CurveFit
from analysis.defaults import DELTA
from analysis.sensitivity import DELTAS, OverheadCell, overhead_table
from analysis.study import StudyAnalysis
from analysis.targets import BatchPoint, Run
from scaleexp.laws import overhead_batch

__all__ = [
    "DELTA",
    "PUBLISHED_REFERENCE",
    "Overhead",
    "overhead",
    "overhead_of",
    "sensitivity_of",
    "smallest_measured",
    "unreached_reference",
]

PUBLISHED_REFERENCE = 256
"""B_ref of Zhang et al. 2024 (arXiv:2410.21676)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """The batch at which steps exceed linear scaling from a reference batch by a given share.

    B*(delta, B_ref) = (1 + delta) B_ref + delta B_crit on the fitted curve (Zhang et al. 2024, arXiv:2410.21676).

    Attributes:
        delta: the share; 0.2 means 20 % more steps than linear scaling would take.
        reference_batch: B_ref [samples].
        batch: B* [samples].
        interval: (low, high) [samples], from the ends of the interval of B_crit; low is 0 and high is inf where the
            data do not bound that side of it.
    """

    delta: float
    reference_batch: int
    batch: float
    interval: tuple[float, float]


def overhead(study: StudyAnalysis) -> Overhead | None:
    """The overhead definition from the smallest measured batch; None without a fitted curve or a point there."""
    if study.fit is None or unreached_reference(study.runs, study.points):
        return None
    return overhead_of(study.fit, smallest_measured(study.runs))


def smallest_measured(runs: Sequence[Run]) -> int:
    """The reference batch unless another is named: the smallest of any run, whether it reached the target or not."""
    return min((run.batch_size for run in runs), default=1)


def unreached_reference(runs: Sequence[Run], points: Sequence[BatchPoint]) -> str | None:
    """Why there are no steps to scale from at the smallest measured batch, in one sentence; None where there are."""
    smallest = smallest_measured(runs)
    if not points or smallest == points[0].batch_size:
        return None
    return (
        f"the overhead definition scales from the smallest measured batch, {smallest:,}, which has no steps to target; "
        "name another by --reference-batch."
    )


def overhead_of(fit: CurveFit, reference_batch: int, delta: float = DELTA) -> Overhead | None:
    """The overhead definition on a fitted curve; None where there is none, or it is flat or linear.

    Args:
        fit: of the steps-to-target curve.
        reference_batch: B_ref [samples].
        delta: share of more steps.
    """
    if not 0.0 < fit.b_crit < math.inf:
        return None
    batch, low, high = (float(overhead_batch(delta, reference_batch, b)) for b in (fit.b_crit, *fit.b_crit_interval))
    return Overhead(
        delta=delta,
        reference_batch=reference_batch,
        batch=batch,
        interval=(low if fit.b_crit_interval[0] > 0.0 else 0.0, high),
    )


def sensitivity_of(found: Overhead, fit: CurveFit, points: Sequence[BatchPoint]) -> tuple[OverheadCell, ...]:
    """How B* depends on (delta, B_ref): the chosen ones among others that could have been chosen.

    Reference batches are the chosen one, the two smallest measured, and the published one where it was measured past.
    """
    measured = [point.batch_size for point in points]
    references = {found.reference_batch, *measured[:2]}
    if measured[0] <= PUBLISHED_REFERENCE <= measured[-1]:
        references.add(PUBLISHED_REFERENCE)
    deltas = sorted({*DELTAS, found.delta})
    return overhead_table(fit.b_crit, fit.b_crit_interval, sorted(references), deltas)
