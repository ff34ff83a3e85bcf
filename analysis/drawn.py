"""The numbers of each figure, before anything is drawn: pure functions of an analysed study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite, isnan, sqrt

import numpy as np

from analysis.cbs import CurveFit
from analysis.lr_law import LrLaw, fit_lr_law
from analysis.noise import NoiseScale
from analysis.study import StudyAnalysis, constant_worker_batch
from analysis.targets import Run, outlier_runs
from scaleexp.laws import samples_to_target, steps_to_target

Pairs = tuple[tuple[float, float], ...]
CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCurve:
    """The fitted curve over the batches shown.

    Attributes:
        steps: (B [samples], fitted steps).
        trade_off: (fitted steps, fitted samples), in the same order.
        measured: (smallest, largest) measured batch; outside it the curve is extrapolated.
    """

    steps: Pairs
    trade_off: Pairs
    measured: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepsToTarget:
    """What the figure of steps against batch size shows; all pairs are (B [samples], steps), steps > 0.

    A run that ended before its first evaluation after the start bounds nothing and has no place on a logarithmic axis;
    `StudyAnalysis.left_out` counts such runs.

    Attributes:
        reached: runs at the best LR that reached the target, outliers apart.
        others: runs at other LRs that reached it.
        outliers: those that the aggregate names and leaves out.
        censored: runs at the best LR that had not reached it when they ended: at least so many steps.
        diverged: runs at the best LR that diverged: no bound on anything.
        never: the longest run of each batch where no run reached the target.
        aggregate: one per batch.
        worker_batch: samples per worker; None when it differs between batches.
        curve: None without a fit.
    """

    reached: Pairs
    others: Pairs
    outliers: Pairs
    censored: Pairs
    diverged: Pairs
    never: Pairs
    aggregate: Pairs
    worker_batch: float | None
    curve: FittedCurve | None


def steps_figure(study: StudyAnalysis) -> StepsToTarget:
    """Numbers of the figure of steps against batch size."""
    chosen = [r for p in study.points for r in p.runs]
    at_best = {r.key for r in chosen}
    outliers = [r for p in study.points for r in outlier_runs(p)]
    return StepsToTarget(
        reached=_pairs(r for r in chosen if r.reached and r not in outliers),
        others=_pairs(r for r in study.runs if r.reached and r.key not in at_best),
        outliers=_pairs(outliers),
        censored=_pairs(r for r in chosen if not r.reached and r.status != "diverged"),
        diverged=_pairs(r for r in chosen if not r.reached and r.status == "diverged"),
        never=_never_reached(study),
        aggregate=tuple((p.batch_size, p.steps) for p in study.points),
        worker_batch=constant_worker_batch(study),
        curve=fitted_curve(study),
    )


def _pairs(runs: Iterable[Run]) -> Pairs:
    return tuple((r.batch_size, r.steps) for r in runs if r.steps > 0)


def _never_reached(study: StudyAnalysis) -> Pairs:
    """Longest run that was evaluated after its start and did not diverge, for each batch size without a point."""
    pointed = {p.batch_size for p in study.points}
    longest: dict[int, float] = {}
    for r in study.runs:
        if r.batch_size not in pointed and r.status != "diverged" and r.steps > 0:
            longest[r.batch_size] = max(r.steps, longest.get(r.batch_size, 0.0))
    return tuple(sorted(longest.items()))


def is_drawable(fit: CurveFit) -> bool:
    """Whether every parameter is a positive finite number, so that it has a place on a logarithmic axis.

    Points that scale perfectly give B_crit = inf and S_min = 0, points that do not scale at all B_crit = 0.
    """
    return all(isfinite(x) and x > 0 for x in (fit.b_crit, fit.s_min, fit.e_min))


def fitted_curve(study: StudyAnalysis) -> FittedCurve | None:
    """The fitted curve over the measured batches, and on to B_crit where that lies within a factor 8 of them."""
    fit = study.fit
    if fit is None or not study.points or not is_drawable(fit):
        return None
    low, high = float(study.points[0].batch_size), float(study.points[-1].batch_size)
    first = min(low, fit.b_crit) if fit.b_crit > low / 8 else low
    last = max(high, fit.b_crit) if fit.b_crit < high * 8 else high
    batches = np.geomspace(first / 1.3, last * 1.3, CURVE_POINTS)
    steps = np.asarray(steps_to_target(batches, fit.s_min, fit.b_crit))
    samples = np.asarray(samples_to_target(batches, fit.e_min, fit.b_crit))
    return FittedCurve(
        steps=tuple(zip(batches.tolist(), steps.tolist(), strict=True)),
        trade_off=tuple(zip(steps.tolist(), samples.tolist(), strict=True)),
        measured=(low, high),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LrLine:
    """Steps to target against LR at one batch size.

    Attributes:
        batch_size: B [samples].
        reached: (lr, median steps) where at least half of the seeds reached the target.
        missed: LRs where fewer did.
        best: (lr, median steps) of the best LR of the grid.
        edge: "low" or "high" when the best LR is the end of the grid.
    """

    batch_size: int
    reached: Pairs
    missed: tuple[float, ...]
    best: tuple[float, float]
    edge: str | None


def lr_lines(study: StudyAnalysis) -> tuple[LrLine, ...]:
    """One line per batch size, ascending."""
    return tuple(
        LrLine(
            batch_size=p.batch_size,
            reached=tuple((lr, steps) for lr, steps, _, _ in p.lr_curve if steps < inf),
            missed=tuple(lr for lr, steps, _, _ in p.lr_curve if not steps < inf),
            best=(p.lr, next((steps for lr, steps, _, _ in p.lr_curve if lr == p.lr), p.steps)),
            edge=p.lr_edge,
        )
        for p in study.points
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LrGrid:
    """Every (B [samples], LR) of the batch sizes with a point, by whether at least half of its seeds reached."""

    reached: Pairs
    missed: Pairs


def lr_grid(study: StudyAnalysis) -> LrGrid:
    """The grid behind the best learning rates."""
    rows = [(p.batch_size, lr, steps) for p in study.points for lr, steps, _, _ in p.lr_curve]
    return LrGrid(
        reached=tuple((b, lr) for b, lr, steps in rows if steps < inf),
        missed=tuple((b, lr) for b, lr, steps in rows if not steps < inf),
    )


def lr_law(study: StudyAnalysis) -> tuple[LrLaw, Pairs] | None:
    """The power law of the optimal learning rate and (B [samples], LR) along it; None where it is not identified."""
    law = fit_lr_law(study.points, confidence=study.options.confidence)
    if law.status != "ok":
        return None
    known = [float(p.batch_size) for p in study.points if p.lr_optimum is not None]
    return law, tuple((b, law.coefficient * b**law.exponent) for b in known)


def has_learning_rates(study: StudyAnalysis) -> bool:
    """Whether the points were measured over learning rates; a table of points alone carries none."""
    return bool(study.points) and all(lr > 0 for p in study.points for lr, *_ in p.lr_curve)


def rule_path(study: StudyAnalysis, rule: str) -> Pairs:
    """(lr, steps) of a rule at each batch size, ascending in batch; steps are inf where it misses the target."""
    return tuple((p.lr, p.steps) for v in study.rules if v.rule == rule for p in v.points)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLine:
    """Noise scale over training at one batch size; x is the geometric middle of a window in samples seen.

    Attributes:
        batch_size: B [samples].
        resolved: (x, b_simple, low, high).
        bounds: (x, low) of unresolved windows whose interval is bounded below.
        unknown: x of unresolved windows without any bound.
        confidence: of the intervals.
    """

    batch_size: int
    resolved: tuple[tuple[float, float, float, float], ...]
    bounds: Pairs
    unknown: tuple[float, ...]
    confidence: float


def noise_lines(study: StudyAnalysis) -> tuple[NoiseLine, ...]:
    """One line per measured batch size."""
    return tuple(_noise_line(s.batch_size, s.windows) for s in study.noise_series if s.windows)


def _noise_line(batch_size: int, windows: tuple[NoiseScale, ...]) -> NoiseLine:
    resolved = [w for w in windows if w.status == "ok"]
    open_ = [w for w in windows if w.status != "ok"]
    return NoiseLine(
        batch_size=batch_size,
        resolved=tuple((_middle(w), w.b_simple, *w.interval) for w in resolved),
        bounds=tuple((_middle(w), w.interval[0]) for w in open_ if w.interval[0] > 0),
        unknown=tuple(_middle(w) for w in open_ if isnan(w.interval[0]) or w.interval[0] <= 0),
        confidence=windows[0].confidence,
    )


def _middle(window: NoiseScale) -> float:
    """Geometric middle of a window; its end where it starts at 0."""
    first, last = window.samples_range
    return sqrt(first * last) if first > 0 else last
