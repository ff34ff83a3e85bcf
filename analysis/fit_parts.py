"""What stands beside the curve in the fit of a sweep: free shape, regimes, and the answer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.answers import answer_text
from analysis.cbs import CurveFit
from analysis.fit_options import FitOptions
from analysis.regimes import regimes
from analysis.shape import FLATTEST, STEEPEST, fit_shape
from analysis.sweep import Sweep, group_text
from analysis.targets import BatchPoint
from analysis.wording import number, sign


def shape_of(
    sweep: Sweep, points: Sequence[BatchPoint], options: FitOptions
) -> tuple[float | None, tuple[float, float] | None]:
    """(exponent, interval) of the free shape; None where too few batches gave a point."""
    batches, costs = [point.batch_size for point in points], [point.samples for point in points]
    found = fit_shape(
        batches,
        costs,
        runs=sweep.runs,
        aggregate=options.aggregate,
        confidence=options.confidence,
        seed=options.seed,
    )
    if found.exponent is None or not FLATTEST * 1.02 < found.exponent < STEEPEST / 1.02:
        return None, None  # the end of what is searched is no estimate
    return found.exponent, found.interval


def regimes_of(points: Sequence[BatchPoint], curve: CurveFit | None) -> Mapping[str, Any] | None:
    """Where each regime ends; None without two batches to see a slope between."""
    if len(points) < 2:
        return None
    batches, steps = [point.batch_size for point in points], [point.steps for point in points]
    return regimes(batches, steps, None if curve is None else curve.b_crit).to_dict()


def answer_of(sweep: Sweep, curve: CurveFit | None, why_none: str) -> str:
    """The answer in one sentence."""
    asked = "the critical batch size"
    if sweep.group:
        asked += f" of {group_text(sweep.group)}"
    if sweep.target is not None:
        how = {"min": sign("min"), "max": sign("max"), None: "at"}[sweep.direction]
        asked += f" for {sweep.metric or 'the target'} {how} {number(sweep.target, 6)}"
    then = None if sweep.counts_samples else f"twice the fewest steps and twice the fewest {sweep.cost_unit}"
    return answer_text(asked, curve, why_none, sweep.unit, then=then)


def censored_of(sweep: Sweep) -> tuple[str, ...]:
    """A sentence on the runs that never reached the target; none where all did."""
    censored = sum(not run.reached for run in sweep.runs)
    if not censored:
        return ()
    return (
        f"{censored} of {len(sweep.runs)} runs never reached the target; they count as slower than where they ended.",
    )
