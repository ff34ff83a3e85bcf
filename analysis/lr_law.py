"""How the optimal learning rate grows with the batch size: a power law of the interpolated optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.jsonable import json_safe
from analysis.power_law import fit_power_law
from analysis.targets import BatchPoint
from analysis.wording import number
from scaleexp.errors import ConfigError

MIN_BATCHES = 3
MIN_SPAN = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LrLaw:
    """LR* = c B^a by unweighted least squares in logarithms, over the batches whose optimum lies inside the grid.

    a = 1 is linear scaling (Goyal et al. 2017), a = 1/2 square-root scaling (Krizhevsky 2014); an exponent that falls
    with the batch, as the noise-scale rule has it, is no power law and shows in the residuals.

    Attributes:
        coefficient: c, the optimal LR at B = 1; nan without a fit.
        exponent: a; nan without a fit.
        exponent_interval, coefficient_interval: Student's intervals from the residuals at `confidence`; unbounded
            without a fit.
        confidence: of the intervals.
        n_batches: batches behind the law.
        left_out: (batch size, why its optimum is not known).
        rms_log_residual: root mean square of log(optimum / law); nan without a fit.
        status: ok | not_identified.
        reason: one sentence.
    """

    coefficient: float
    exponent: float
    exponent_interval: tuple[float, float]
    coefficient_interval: tuple[float, float]
    confidence: float
    n_batches: int
    left_out: tuple[tuple[int, str], ...]
    rms_log_residual: float
    status: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is unbounded or unknown is None."""
        document = asdict(self)
        for name in ("coefficient", "exponent", "rms_log_residual"):
            document[name] = json_safe(document[name])
        document["exponent_interval"] = [json_safe(end) for end in self.exponent_interval]
        document["coefficient_interval"] = [json_safe(end) or None for end in self.coefficient_interval]
        document["left_out"] = [{"batch_size": batch, "reason": reason} for batch, reason in self.left_out]
        return document


def fit_lr_law(points: Sequence[BatchPoint], *, confidence: float) -> LrLaw:
    """Fit the law to the interpolated optima of the batches.

    A batch whose best LR is the smallest or largest of its grid has an optimum that nobody saw: it would pull the law
    towards the grid, so it is left out by name.

    Args:
        points: from `targets.batch_points`, in any order.
        confidence: of the intervals, in (0, 1).

    Raises:
        ConfigError: a confidence outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence:g}; 0.95 is usual.")
    known = [(point.batch_size, point.lr_optimum) for point in points if point.lr_optimum is not None]
    left_out = tuple((point.batch_size, _why(point)) for point in points if point.lr_optimum is None)
    sizes = [batch for batch, _ in known]
    problem = None
    if len(known) < MIN_BATCHES:
        problem = f"a power law needs {MIN_BATCHES} batches with an optimum inside the grid, got {len(known)}."
    elif max(sizes) <= MIN_SPAN * min(sizes):
        problem = (
            f"the batches with an optimum inside the grid, {min(sizes):,} to {max(sizes):,}, are within a factor 2."
        )
    if problem:
        return LrLaw(
            coefficient=math.nan,
            exponent=math.nan,
            exponent_interval=(-math.inf, math.inf),
            coefficient_interval=(0.0, math.inf),
            confidence=confidence,
            n_batches=len(known),
            left_out=left_out,
            rms_log_residual=math.nan,
            status="not_identified",
            reason=problem,
        )
    table = np.array(known, dtype=np.float64)
    law = fit_power_law(table[:, :1], table[:, 1])
    low, high = law.interval(0, confidence)
    return LrLaw(
        coefficient=math.exp(law.log_coefficient),
        exponent=law.exponents[0],
        exponent_interval=law.interval(1, confidence),
        coefficient_interval=(math.exp(low), math.exp(high) if high < 700.0 else math.inf),
        confidence=confidence,
        n_batches=len(known),
        left_out=left_out,
        rms_log_residual=law.rms_log_residual,
        status="ok",
        reason=f"the optimal LR grows as B^{number(law.exponents[0])} over {len(known)} batches.",
    )


def _why(point: BatchPoint) -> str:
    if len(point.lr_curve) == 1:
        return "one learning rate only."
    if point.lr_edge:
        return f"the best learning rate is the {point.lr_edge}est of its grid."
    return "a neighbour of the best learning rate has no steps to target, or three neighbours are equal."
