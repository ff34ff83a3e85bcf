"""What a reader of a fit has to mind: few seeds, outliers, rare evaluations, edges of the learning-rate grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.judge import brackets
from analysis.targets import BatchPoint, outlier_runs
from analysis.wording import listed, number, percent

MIN_SEEDS = 3
MAX_BRACKET = 0.1
"""Evaluations further apart than this share of the samples to target are worth a warning."""


def seed_warnings(points: Sequence[BatchPoint]) -> tuple[str, ...]:
    """Too few seeds, censored runs and outliers at the best LRs, by name."""
    warnings = []
    seeds = [len({run.seed for run in point.runs}) for point in points]
    few = [point.batch_size for point, n in zip(points, seeds, strict=True) if n < MIN_SEEDS]
    if max(seeds) == 1:
        warnings.append("one run per batch: the intervals come from the residuals, not from seeds.")
    elif few:
        warnings.append(f"fewer than {MIN_SEEDS} seeds at batch {listed(few)}.")
    for point in points:
        censored = sum(not run.reached for run in point.runs)
        if censored:
            warnings.append(
                f"batch {point.batch_size}: {censored} of {len(point.runs)} runs at the best LR never reached the "
                "target; the median over seeds is used."
            )
        for run in outlier_runs(point):
            others = float(np.median([r.steps for r in point.runs]))
            left_out = point.aggregate == "robust"
            fate = "left out as an outlier" if left_out else f"an outlier that the {point.aggregate} keeps"
            warnings.append(
                f"batch {point.batch_size}: {run.key} (seed {run.seed}) took {number(run.steps / others)} times "
                f"the median steps and is {fate}."
            )
    return tuple(warnings)


def bracket_warnings(points: Sequence[BatchPoint]) -> tuple[str, ...]:
    """Batches whose crossings are interpolated between evaluations that lie far apart, where few steps are biased."""
    wide = brackets(points)
    coarse = [batch for batch, share in wide.items() if share > MAX_BRACKET]
    if not coarse:
        return ()
    return (
        f"evaluations lie up to {percent(max(wide.values()))} of the samples to target apart at batch "
        f"{listed(coarse)}; steps between them are interpolated, so evaluate more often there.",
    )


def lr_warnings(points: Sequence[BatchPoint]) -> tuple[str, ...]:
    """Batches whose best LR sits at the edge of its grid, and those that were not tuned at all."""
    untuned = [point.batch_size for point in points if len(point.lr_curve) == 1]
    warnings = []
    if all(point.lr == 0.0 for point in points):
        warnings.append(
            "the learning rates are not known: where one was not tuned per batch, fewer steps may be possible at "
            "another."
        )
    elif len(untuned) == len(points):
        warnings.append(
            "the learning rate was not tuned per batch: every batch size has one only, and fewer steps may be possible "
            "at another."
        )
    elif untuned:
        warnings.append(f"one learning rate only, not tuned, at batch {listed(untuned)}.")
    for edge, beyond in (("low", "below"), ("high", "above")):
        at_edge = [point.batch_size for point in points if point.lr_edge == edge]
        if at_edge:
            warnings.append(
                f"the best learning rate is the {edge}est of the grid at batch {listed(at_edge)}: "
                f"steps may be too many there; add learning rates {beyond} it."
            )
    return tuple(warnings)
