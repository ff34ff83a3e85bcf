"""From evaluations to steps to target: crossings with their brackets, censored runs, best LR per batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.crossings import Crossings, first_confirmed_crossings
from analysis.defaults import Aggregate
from analysis.equal_samples import Trace
from analysis.evaluations import evaluations
from analysis.read import StudyLog, TrialLog
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

OUTLIER_MADS = 5.0
OUTLIER_RATIO = 1.5
OUTLIER_CERTAIN = 5.0
"""Beyond this ratio a run is an outlier whatever the MAD: that of three seeds is often wide enough to hide one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run against one target.

    Attributes:
        key: trial key.
        seed, batch_size, workers, lr: of the trial.
        reached: whether the target was met and confirmed, in a run whose loss was never lost.
        samples: interpolated samples to target; for a run that did not reach it, the samples at which it is censored.
        bracket: (last evaluation that missed, first that met) [samples]; (samples, inf) for a censored run.
        status: the trial's status in the log (reached | limit | diverged | stopped | failed | running).
    """

    key: str
    seed: int
    batch_size: int
    workers: int
    lr: float
    reached: bool
    samples: float
    bracket: tuple[float, float]
    status: str

    @property
    def steps(self) -> float:
        """Samples over batch size."""
        return self.samples / self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPoint:
    """One batch size at its best learning rate.

    Attributes:
        batch_size: B [samples].
        workers: workers of these trials.
        lr: the grid LR with the fewest median steps.
        lr_optimum: vertex of the parabola in log LR through the best three; None at an edge of the grid, and beside an
            LR at which runs fail.
        lr_edge: "low" or "high" when the best LR is the smallest or largest of the grid, so that the truth may lie
            outside; None inside, and for a grid of one LR, which has no inside.
        steps: aggregate over seeds of the steps to target at `lr`.
        samples: the same in samples.
        runs: every run at `lr`, censored ones included.
        lr_curve: (lr, median steps over seeds, seeds that reached, seeds run) for every LR, ascending; inf unless more
            than half reached.
        aggregate: how `steps` comes from `runs`.
    """

    batch_size: int
    workers: int
    lr: float
    lr_optimum: float | None
    lr_edge: Literal["low", "high"] | None
    steps: float
    samples: float
    runs: tuple[Run, ...]
    lr_curve: tuple[tuple[float, float, int, int], ...]
    aggregate: Aggregate = "robust"


def runs_to_target(log: StudyLog, metric: str, target: float, direction: Literal["min", "max"]) -> tuple[Run, ...]:
    """Every first realisation that has an evaluation, against one target, in plan order.

    A target counts at the first evaluation that meets it if the next one confirms it; the crossing is interpolated
    between that evaluation and the one before. A run whose loss was lost never counts as reached.

    Raises:
        ConfigError: some run meets the target before it took a step, so nothing would be measured.
    """
    evals = evaluations(log, metric)
    found = first_confirmed_crossings(evals.trial, evals.samples, evals.values, target, direction)
    runs = [
        _run(log.trials[trial], found, i)
        for i, trial in enumerate(found.runs.tolist())
        if not log.trials[trial].facts["realisation"]
    ]
    refuse_met_at_start(runs, metric, target, direction)
    return tuple(runs)


def refuse_met_at_start(runs: Sequence[Run], metric: str, target: float, direction: Literal["min", "max"]) -> None:
    """Steps to a target that some run meets before it took a step measure nothing.

    Raises:
        ConfigError: there is such a run.
    """
    early = [run for run in runs if run.reached and run.bracket[1] == 0.0]
    if early:
        raise ConfigError(
            f"the target {metric} {'<=' if direction == 'min' else '>='} {target:g} is already met before the first "
            f"step in {len(early)} of {len(runs)} runs (first: {early[0].key}); choose a harder target."
        )


def _run(trial: TrialLog, found: Crossings, i: int) -> Run:
    """The i-th entry of `found`, which is that of this trial."""
    return _against(
        found,
        i,
        key=trial.key,
        seed=trial.facts["seed"],
        batch_size=trial.facts["batch_size"],
        workers=trial.facts["workers"],
        lr=trial.facts["lr"],
        status=trial.commit["status"] if trial.commit else "running",
    )


def run_to_target(
    trace: Trace, target: float, direction: Literal["min", "max"], *, key: str, workers: int, status: str
) -> Run:
    """One run against one target, whoever logged it.

    Args:
        trace: its evaluations.
        target: value of the metric.
        direction: "min" if smaller is better.
        key: its name.
        workers: of the run.
        status: how it ended; a run that "diverged" never counts as reached.
    """
    found = first_confirmed_crossings(np.zeros(len(trace.samples)), trace.samples, trace.values, target, direction)
    return _against(
        found,
        0,
        key=key,
        seed=trace.seed,
        batch_size=trace.batch_size,
        workers=workers,
        lr=trace.lr,
        status=status,
    )


def _against(
    found: Crossings, i: int, *, key: str, seed: int, batch_size: int, workers: int, lr: float, status: str
) -> Run:
    reached = bool(found.reached[i]) and status != "diverged"
    if reached:
        crossing, bracket = float(found.samples[i]), (float(found.low[i]), float(found.high[i]))
    else:
        # A last evaluation that meets the target unconfirmed says nothing yet: the bound is the last miss.
        crossing = float(found.last_miss[i])
        bracket = (crossing, math.inf)
    return Run(
        key=key,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        lr=lr,
        reached=reached,
        samples=crossing,
        bracket=bracket,
        status=status,
    )


def batch_points(
    runs: Iterable[Run], aggregate: Aggregate = "robust"
) -> tuple[tuple[BatchPoint, ...], tuple[tuple[int, str], ...]]:
    """Per batch size the best LR of its grid and the aggregate steps there; and why a batch size gives none.

    The best LR has the fewest median steps over seeds, a censored run counting as infinitely many: a median over
    seeds, because the best of seeds is biased low and favours LRs that were run more often.

    Args:
        runs: against one target.
        aggregate: over the seeds at the best LR, as `aggregate_steps` takes it.

    Returns:
        (points ascending in batch size, (batch_size, one sentence) for each batch size without a point).
    """
    points: list[BatchPoint] = []
    missing: list[tuple[int, str]] = []
    for batch_size, of_batch in groupby(
        sorted(runs, key=lambda r: (r.batch_size, r.lr, r.seed)), lambda r: r.batch_size
    ):
        grid = {lr: tuple(at_lr) for lr, at_lr in groupby(of_batch, lambda r: r.lr)}
        medians = {lr: median_steps(at_lr) for lr, at_lr in grid.items()}
        best = min(medians, key=lambda lr: medians[lr])
        if math.isinf(medians[best]):
            everything = [run for at_lr in grid.values() for run in at_lr]
            missing.append((batch_size, _no_point(batch_size, everything)))
            continue
        steps = aggregate_steps(grid[best], aggregate)
        points.append(
            BatchPoint(
                batch_size=batch_size,
                workers=grid[best][0].workers,
                lr=best,
                lr_optimum=_lr_optimum(list(medians.items()), best),
                lr_edge=_edge(list(medians), best),
                steps=steps,
                samples=steps * batch_size,
                runs=grid[best],
                lr_curve=tuple((lr, medians[lr], sum(r.reached for r in grid[lr]), len(grid[lr])) for lr in grid),
                aggregate=aggregate,
            )
        )
    return tuple(points), tuple(missing)


def median_steps(runs: Sequence[Run]) -> float:
    """Median steps over seeds, a run that did not reach the target counting as inf."""
    return float(median([run.steps if run.reached else math.inf for run in runs]))


def aggregate_steps(runs: Sequence[Run], aggregate: Aggregate = "robust") -> float:
    """Steps at one LR over seeds; the median when a run is censored, whatever was asked for.

    A censored run has no value to average, and dropping it would make the rest look fast; the median needs none of it.

    Args:
        runs: of one batch size at one LR.
        aggregate: "robust" is the geometric mean without named outliers, "mean" the arithmetic mean of all, "median"
            the median of all.
    """
    if aggregate == "median" or not all(run.reached for run in runs):
        return median_steps(runs)
    if aggregate == "mean":
        return float(np.mean([run.steps for run in runs]))
    log_steps = np.log([run.steps for run in runs])
    return float(np.exp(log_steps[~outlying(log_steps)].mean()))


def outlying(log_values: FloatArray) -> npt.NDArray[np.bool_]:
    """Which log values lie beyond max(5 MAD, log 1.5) of their median, or beyond log 5.

    Of fewer than three values none can be told to be the outlier.

    >>> outlying(np.log([100.0, 104.0, 97.0, 1100.0])).tolist()
    [False, False, False, True]
    """
    if log_values.size < 3:
        return np.zeros(log_values.size, dtype=np.bool_)
    distance = np.abs(log_values - median(log_values.tolist()))  # np.median takes ten times as long on a few values
    mads = OUTLIER_MADS * median(distance.tolist())
    limit = max(min(mads, math.log(OUTLIER_CERTAIN)), math.log(OUTLIER_RATIO))
    return np.asarray(distance > limit)


def outlier_runs(point: BatchPoint) -> tuple[Run, ...]:
    """The runs that `aggregate_steps` names, and leaves out of the robust aggregate."""
    if not all(run.reached for run in point.runs):
        return ()
    flags = outlying(np.log([run.steps for run in point.runs]))
    return tuple(run for run, flag in zip(point.runs, flags, strict=True) if flag)


def _edge(lrs: list[float], best: float) -> Literal["low", "high"] | None:
    # Runs that failed beyond the best LR are in the grid too: an optimum beside a failing LR is inside.
    if len(lrs) < 2 or lrs[0] < best < lrs[-1]:
        return None
    return "low" if best == lrs[0] else "high"


def _lr_optimum(curve: list[tuple[float, float]], best: float) -> float | None:
    """Vertex of the parabola of log steps in log LR through the best LR and its two neighbours."""
    at = [lr for lr, _ in curve].index(best)
    if at in (0, len(curve) - 1):
        return None
    lrs, steps = np.array(curve[at - 1 : at + 2]).T
    if not np.isfinite(steps).all():
        return None
    x, y = np.log(lrs / best), np.log(steps)
    curvature, slope, _ = np.polyfit(x, y, 2)
    # Three equal values have no vertex; otherwise the middle one is the least and the vertex lies between them.
    return None if curvature <= 0.0 else float(best * np.exp(-slope / (2.0 * curvature)))


def _no_point(batch_size: int, runs: Sequence[Run]) -> str:
    reached = sum(run.reached for run in runs)
    diverged = sum(run.status == "diverged" for run in runs)
    return (
        f"batch {batch_size}: no learning rate reached the target in more than half of its seeds "
        f"({reached} of {len(runs)} runs did, {diverged} diverged)."
    )
