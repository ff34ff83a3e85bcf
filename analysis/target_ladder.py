"""The critical batch size at easier targets than the study's own, read off the same runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cbs import CurveFit, fit_curve
from analysis.judge import MIN_BATCHES
from analysis.losses import Direction
from analysis.read import read_evals
from analysis.study import StudyAnalysis
from analysis.targets import batch_points, runs_to_target
from scaleexp.errors import ConfigError

BETWEEN = 4
"""Easier targets that are read off beside the planned ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One target.

    Attributes:
        target: value of the metric.
        planned: whether the study has it among its targets; the others lie between, every run passed them.
        batches: batch sizes that gave a point.
        fit: None where these are too few for a curve.
    """

    target: float
    planned: bool
    batches: int
    fit: CurveFit | None


def target_ladder(study: StudyAnalysis) -> tuple[Rung, ...]:
    """B_crit at every planned target and at some easier ones, from the easiest to the hardest.

    It grows as the target hardens (McCandlish et al. 2018, fig. 10), so that a critical batch size at one target says
    little about another. Targets that some run meets before its first step are left out. Every target is fitted as the
    study's own is, with its options.
    """
    options = study.options
    planned = {
        study.target,
        *(v for t in study.log.plan["targets"] if t["metric"] == study.metric for v in t["values"]),
    }
    easier = [v for v in _between(study) if all(abs(v - p) > 1e-9 * abs(p) for p in planned)]
    direction: Direction = "min" if study.direction == "min" else "max"
    rungs = []
    for target in sorted({*planned, *easier}, reverse=direction == "min"):
        if target == study.target:
            rungs.append(Rung(target=target, planned=True, batches=len(study.points), fit=study.fit))
            continue
        try:
            runs = runs_to_target(study.log, study.metric, target, direction)
        except ConfigError:
            continue  # met before the first step: nothing to measure, as its docstring says
        points, _ = batch_points(runs, options.aggregate)
        fit = None
        if len(points) >= MIN_BATCHES:
            fit = fit_curve(points, runs, confidence=options.confidence, seed=options.seed, loss=options.loss)
        rungs.append(Rung(target=target, planned=target in planned, batches=len(points), fit=fit))
    return tuple(rungs)


def _between(study: StudyAnalysis) -> Sequence[float]:
    """Round values between the target and where runs are at their first evaluation after the start (the median)."""
    table = read_evals(study.log, study.metric)
    if not table.num_rows or not study.points:
        return ()
    ids, samples, values = (table[c].to_numpy() for c in ("trial_id", "samples", "value"))
    after = samples > 0
    order = np.lexsort((samples[after], ids[after].astype(str)))
    _, first = np.unique(ids[after][order].astype(str), return_index=True)
    starts = values[after][order][first]
    start = float(np.median(starts[np.isfinite(starts)])) if np.isfinite(starts).any() else study.target
    if not (start > study.target if study.direction == "min" else start < study.target):
        return ()
    both_positive = start > 0 and study.target > 0
    spread = np.geomspace if both_positive else np.linspace
    return [float(f"{v:.3g}") for v in spread(study.target, start, BETWEEN + 2)[1:-1]]


def has_ladder(rungs: Sequence[Rung]) -> bool:
    """Whether at least two targets say something of B_crit."""
    return sum(bounds(r) is not None for r in rungs) > 1


def bounds(rung: Rung) -> tuple[float, float] | None:
    """What a target says of B_crit: its interval, 0 and inf where a side is open; None where it says nothing."""
    fit = rung.fit
    if fit is None or fit.status == "misfit":
        return None
    low, high = fit.b_crit_interval
    return (low, high) if low > 0 or high < float("inf") else None
