"""The learning rate of a batch size, by the rule that held in the study or as it was measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scaleexp.simulate.given_curve import GivenCurve

NEAR = 0.1
"""Share of more steps than at the best LR up to which an LR is in the range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRate:
    """An LR with what it rests on.

    Attributes:
        lr: None where nothing is known.
        low, high: LRs that took at most 10 % more steps than the best in the study, interpolated to this batch; None
            where no grid of LRs was run.
        rule: that held at this batch; None if it is as measured.
        status: rule | measured | extrapolated | unknown.
        reason: one clause.
    """

    lr: float | None
    low: float | None
    high: float | None
    rule: str | None
    status: Literal["rule", "measured", "extrapolated", "unknown"]
    reason: str


def learning_rate(curve: GivenCurve, batch_size: float) -> LearningRate:
    """LR at a batch size: of the rule that held over the widest range around it, or as measured there.

    Rules and best LRs are interpolated between batches in log LR and log B, which is exact for powers of B.
    """
    tuned = [point for point in curve.points if point["lr"] is not None]
    if not tuned:
        return LearningRate(
            lr=None, low=None, high=None, rule=None, status="unknown", reason="the fit knows no learning rates"
        )
    measured = _at(batch_size, tuned, lambda point: point["lr_optimum"] or point["lr"])
    grids = [point for point in tuned if _near(point)]
    low, high = (_at(batch_size, grids, lambda point: _near(point)[i]) if grids else None for i in (0, -1))  # noqa: B023
    first, last = tuned[0]["batch_size"], tuned[-1]["batch_size"]
    held = [(ends, rule) for rule in curve.rules if (ends := _holds(rule)) and ends[0] <= batch_size <= ends[1]]
    status: Literal["rule", "measured", "extrapolated"]
    if held:
        ends, rule = max(held, key=lambda pair: pair[0][1] / pair[0][0])
        lr, name, status = _at(batch_size, rule["points"], lambda point: point["lr"]), rule["rule"], "rule"
        said = f"{name} rule, which held from batch {ends[0]:,} to {ends[1]:,}"
    elif first <= batch_size <= last:
        lr, name, status = measured, None, "measured"
        said = "as measured around this batch: " + ("no rule held there" if curve.rules else "no rule was tested")
    else:
        near = min(tuned, key=lambda point: abs(np.log(point["batch_size"] / batch_size)))["batch_size"]
        lr, name, status, said = measured, None, "extrapolated", f"that of batch {near:,}: none was tested at this one"
    return LearningRate(
        lr=lr,
        low=None if low is None else min(low, lr),
        high=None if high is None else max(high, lr),
        rule=name,
        status=status,
        reason=said,
    )


def _at(batch_size: float, points: Sequence[Mapping[str, Any]], value: Any) -> float:  # noqa: ANN401 - of any point
    """A value of the points, interpolated; that of the nearest end outside of them."""
    x = np.log([point["batch_size"] for point in points])
    return float(np.exp(np.interp(np.log(batch_size), x, np.log([value(point) for point in points]))))


def _near(point: Mapping[str, Any]) -> list[float]:
    """LRs of a batch's grid that took at most 10 % more steps than its best."""
    grid = [(row["lr"], row["steps"]) for row in point["lr_curve"] if row["steps"] is not None]
    best = min((steps for _, steps in grid), default=0.0)
    return sorted(lr for lr, steps in grid if steps <= (1 + NEAR) * best)


def _holds(rule: Mapping[str, Any]) -> tuple[int, int] | None:
    """Batches from and to which a rule holds; None where it does nowhere."""
    down, up, base = rule["holds_down_to"], rule["holds_up_to"], rule["base_batch_size"]
    return None if down is None and up is None else (base if down is None else down, base if up is None else up)
