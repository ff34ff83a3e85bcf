"""The metric against learning rate at equal samples: what each batch size says even where no run met the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.evaluations import evaluations
from analysis.read import StudyLog, TrialLog
from scaleexp.schema import RuleLabel

FloatArray = npt.NDArray[np.float64]
Direction = Literal["min", "max"]
SAME_LR = 1e-9
"""A rule's rate in the plan and its trial's rate are one number, up to how it was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """One learning rate at one batch size.

    Attributes:
        lr: of the grid.
        value: median of the metric over the seeds that did not diverge; nan where all did.
        seeds: seeds behind `value`.
        diverged: seeds that diverged, which are in no median.
    """

    lr: float
    value: float
    seeds: int
    diverged: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCurve:
    """The metric against learning rate at one batch size, after the same number of samples at every rate.

    Attributes:
        batch_size: B [samples].
        samples: n_B, the fewest samples at the last evaluation of any run that did not diverge: when the first of them
            stopped. Each value is that of the last evaluation at or before it.
        points: ascending in lr.
        best: the LR with the best median, a diverged seed counting as the worst; None where most seeds diverged at
            every rate.
    """

    batch_size: int
    samples: float
    points: tuple[LossPoint, ...]
    best: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evaluated:
    """One run with the evaluations of one metric, in order of samples."""

    lr: float
    diverged: bool
    samples: FloatArray
    values: FloatArray

    def at(self, samples: float) -> float:
        """Value of the last evaluation at or before `samples`."""
        return float(self.values[np.searchsorted(self.samples, samples, side="right") - 1])


def loss_curves(log: StudyLog, metric: str, direction: Direction) -> tuple[LossCurve, ...]:
    """One curve per batch size, ascending; first realisations only.

    Equal samples, because a run that met the target stops: its last value says when it stopped and not how good its
    learning rate is. A run without an evaluation after its start is left out, and a batch size with no other run has no
    curve.
    """
    evals = evaluations(log, metric)
    first = sorted(
        ((log.trials[i], rows) for i, rows in evals.by_trial().items() if not log.trials[i].facts["realisation"]),
        key=lambda of: of[0].facts["batch_size"],
    )
    curves = []
    for batch_size, trials in groupby(first, lambda of: of[0].facts["batch_size"]):
        runs = [_evaluated(t, evals.samples[rows].astype(np.float64), evals.values[rows]) for t, rows in trials]
        curve = loss_curve(batch_size, [r for r in runs if r.diverged or r.samples[-1] > 0], direction)
        if curve is not None:
            curves.append(curve)
    return tuple(curves)


def _evaluated(trial: TrialLog, samples: FloatArray, values: FloatArray) -> _Evaluated:
    lost = trial.commit is not None and trial.commit["status"] == "diverged"
    # A metric can be lost before the training loss is.
    lost = lost or not bool(np.isfinite(values).all())
    return _Evaluated(lr=trial.facts["lr"], diverged=lost, samples=samples, values=values)


def loss_curve(batch_size: int, runs: Sequence[_Evaluated], direction: Direction) -> LossCurve | None:
    """The curve of one batch size; None where every run diverged, as then no number of samples is common to any."""
    ends = [float(r.samples[-1]) for r in runs if not r.diverged]
    if not ends:
        return None
    at, worst = min(ends), math.inf if direction == "min" else -math.inf
    points, ranked = [], {}
    for lr, same in groupby(sorted(runs, key=lambda r: r.lr), lambda r: r.lr):
        of_lr = list(same)
        kept = [r.at(at) for r in of_lr if not r.diverged]
        lost = len(of_lr) - len(kept)
        median = float(np.median(kept)) if kept else math.nan
        points.append(LossPoint(lr=lr, value=median, seeds=len(kept), diverged=lost))
        ranked[lr] = float(np.median([*kept, *[worst] * lost]))
    best = min(ranked, key=ranked.__getitem__) if direction == "min" else max(ranked, key=ranked.__getitem__)
    return LossCurve(
        batch_size=batch_size, samples=at, points=tuple(points), best=best if math.isfinite(ranked[best]) else None
    )


def rule_path(curves: Sequence[LossCurve], labels: Sequence[RuleLabel], rule: str) -> tuple[tuple[float, float], ...]:
    """(lr, value) of a rule at each batch size with a curve, ascending in batch; nan where its runs diverged."""
    lrs = {label["batch_size"]: label["lr"] for label in labels if label["rule"] == rule}
    return tuple(
        (point.lr, point.value)
        for curve in curves
        for point in curve.points
        if curve.batch_size in lrs and math.isclose(point.lr, lrs[curve.batch_size], rel_tol=SAME_LR)
    )
