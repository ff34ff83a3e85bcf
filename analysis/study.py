"""One study, analysed: everything that a figure, a report or `--json` shows is in here, computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis.agreements import Agreement, agreements
from analysis.answers import answer_text
from analysis.cbs import CurveFit, fit_curve
from analysis.defaults import CONFIDENCE, Aggregate, Loss
from analysis.evaluations import evaluations
from analysis.fit_options import DEFAULTS, FitOptions
from analysis.judge import MIN_BATCHES
from analysis.losses import LossCurve, loss_curves
from analysis.noise import NoiseScale, NoiseSeries, measurements, noise_at_target, noise_by_layer, noise_series
from analysis.read import StudyLog, load
from analysis.rules import RuleVerdict, judge_rules
from analysis.targets import BatchPoint, Run, batch_points, runs_to_target
from analysis.wording import interval, number, samples_each, sign
from scaleexp.errors import ConfigError
from scaleexp.schema import FINAL_STATUSES, Target

__all__ = ["Agreement", "StudyAnalysis", "analyse", "answer", "goals"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAnalysis:
    """A study at one target.

    Attributes:
        log: what was read.
        metric, target, direction, unit: what the steps are steps to.
        runs: every run (second realisations left out), censored ones included.
        points: one per batch size with at least one run that reached, ascending.
        missing: (batch_size, one sentence) for each batch size that gave no point.
        loss_curves: the metric against LR at equal samples, one per batch size, whether or not it reached the target.
        fit: the curve; None when fewer than 3 batches gave a point, then `fit_reason` says why.
        noise: noise scale over the runs at the best LR up to the target; None when none was measured.
        noise_series: the same over training, per batch size.
        noise_layers: the first by parameter; empty unless the study logged it.
        rules: one verdict per rule.
        agreements: one per second realisation.
        left_out: one sentence for each thing not used, and why.
        options: how it was fitted.
    """

    log: StudyLog
    metric: str
    target: float
    direction: str
    unit: str
    runs: tuple[Run, ...]
    points: tuple[BatchPoint, ...]
    missing: tuple[tuple[int, str], ...]
    loss_curves: tuple[LossCurve, ...]
    fit: CurveFit | None
    fit_reason: str
    noise: NoiseScale | None
    noise_series: tuple[NoiseSeries, ...]
    noise_layers: Mapping[str, NoiseScale] = field(default_factory=dict)
    rules: tuple[RuleVerdict, ...]
    agreements: tuple[Agreement, ...]
    left_out: tuple[str, ...]
    options: FitOptions = DEFAULTS


def analyse(
    source: str | Path | StudyLog,
    *,
    target: float | None = None,
    metric: str | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    aggregate: Aggregate = "robust",
    loss: Loss = "linear",
) -> StudyAnalysis:
    """Read a study, find its steps to one target and everything that rests on them.

    Args:
        source: a study directory, or one already loaded.
        target: value of the metric; the hardest planned one if None, because the critical batch size grows as the
            target hardens and the hardest is what the study was run for.
        metric: one that the plan has a target for; its first if None.
        confidence: of every interval.
        seed: of the bootstrap.
        aggregate: how the seeds of one batch become one number of steps, as in `targets.aggregate_steps`.
        loss: of the curve, as in `cbs.fit_curve`.

    Raises:
        ConfigError: a metric without a target, a target that is not finite, or one that is met before the first step.
        StorageError: not a readable study directory.
    """
    options = FitOptions(aggregate=aggregate, loss=loss, confidence=confidence, seed=seed)
    log = source if isinstance(source, StudyLog) else load(source, metric)
    ((planned, goal),) = goals(log, () if target is None else (target,), metric)
    runs = runs_to_target(log, planned["metric"], goal, planned["direction"])
    points, missing = batch_points(runs, aggregate)
    enough = len(points) >= MIN_BATCHES
    measured = measurements(log, {run.key for point in points for run in point.runs})
    return StudyAnalysis(
        log=log,
        metric=planned["metric"],
        target=goal,
        direction=planned["direction"],
        unit=log.plan["unit"],
        runs=runs,
        points=points,
        missing=missing,
        loss_curves=loss_curves(log, planned["metric"], planned["direction"]),
        fit=fit_curve(points, runs, confidence=confidence, seed=seed, loss=loss) if enough else None,
        fit_reason="" if enough else _not_enough(log, planned, goal, runs, points),
        noise=noise_at_target(log, points, confidence=confidence, measured=measured),
        noise_series=noise_series(log, points, confidence=confidence, measured=measured),
        noise_layers=noise_by_layer(log, points, confidence=confidence),
        rules=judge_rules(log.plan, runs, points),
        agreements=agreements(log),
        left_out=_left_out(log, planned["metric"], runs, missing),
        options=options,
    )


def answer(study: StudyAnalysis) -> str:
    """The study's answer in one sentence: B_crit with its interval, target and definition, or that the data do not say.

    Report, quickstart and `fit` all print this sentence.
    """
    asked = f"the critical batch size for {study.metric} {sign(study.direction)} {number(study.target, 6)}"
    fit = study.fit
    workers = _in_workers(study, *fit.b_crit_interval) if fit is not None else ""
    says = answer_text(asked, fit, study.fit_reason, study.unit, workers=workers)
    if fit is None or fit.status in ("misfit", "not_identified"):
        return says
    left = _unfinished(study.log)
    planned = sum(not t["realisation"] for t in study.log.plan["trials"])
    return f"{says} The study is unfinished: {left} of {planned} trials have not ended." if left else says


def _in_workers(study: StudyAnalysis, low: float, high: float) -> str:
    """The same interval counted in workers, where they all eat the same number of samples."""
    each = constant_worker_batch(study)
    if each is None or math.isinf(high):
        return ""
    return f", {interval(low / each, high / each)} workers of {samples_each(each, study.unit)} each"


def constant_worker_batch(study: StudyAnalysis) -> float | None:
    """Samples per worker and step where it is the same in every run, so that batch size counts workers."""
    sizes = {r.batch_size / r.workers for r in study.runs}
    return sizes.pop() if len(sizes) == 1 else None


def goals(log: StudyLog, targets: Sequence[float], metric: str | None) -> list[tuple[Target, float]]:
    """(planned target, value) for each value asked for; for the hardest planned one if none is.

    Raises:
        ConfigError: a metric without a target, or a value that is not finite.
    """
    planned = _planned_target(log, metric)
    for value in targets:
        if not math.isfinite(value):
            raise ConfigError(f"a target must be a finite value of {planned['metric']}, got {value:g}.")
    return [(planned, value) for value in targets or (planned["values"][-1],)]


def _planned_target(log: StudyLog, metric: str | None) -> Target:
    targets = log.plan["targets"]
    if not targets:
        raise ConfigError(
            f"the plan of {log.path} has no target, so there is nothing to count steps to: add one under `targets` in "
            "the study file and run the study again, which goes on with what is finished; a script recorded alone "
            "gives targets= to scaleexp.track, with another storage=."
        )
    for target in targets:
        if metric in (None, target["metric"]):
            return target
    known = ", ".join(target["metric"] for target in targets)
    raise ConfigError(f"the study has no target for the metric {metric!r}; it has one for {known}.")


def _not_enough(log: StudyLog, planned: Target, goal: float, runs: Sequence[Run], points: Sequence[BatchPoint]) -> str:
    """How far the runs came, and what to do, in two sentences."""
    metric, direction = planned["metric"], planned["direction"]
    reached = sum(run.reached for run in runs)
    diverged = sum(run.status == "diverged" for run in runs)
    evals = evaluations(log, metric)
    seen = evals.values[evals.samples > 0]
    seen = seen[np.isfinite(seen)]
    best = f"; the best value seen was {number(seen.min() if direction == 'min' else seen.max())}" if seen.size else ""
    easier = [v for v in planned["values"] if (v > goal if direction == "min" else v < goal)]
    enough = [
        v for v in reversed(easier) if len(batch_points(runs_to_target(log, metric, v, direction))[0]) >= MIN_BATCHES
    ]
    missed = len(runs) - reached
    if seen.size and missed and (seen.min() <= goal if direction == "min" else seen.max() >= goal):
        best += ", but a target counts only when the next evaluation confirms it"
    if _unfinished(log):
        hint = "finish the study: the same `scaleexp run` goes on with it"
    elif missed and 2 * diverged > missed:
        hint = "lower base.lr, for most runs diverged"
    elif not missed:
        hint = "add batch sizes"
    elif enough:
        hint = f"take the easier target {enough[0]:g}, which enough runs reached"
    else:
        hint = "choose an easier target, raise limits.samples or widen the learning rates"
    return (
        f"{reached} of {len(runs)} runs reached {metric} {sign(direction)} {number(goal, 6)} ({diverged} diverged), "
        f"which gives {len(points)} of the {MIN_BATCHES} batch sizes that a curve needs{best}. To go on: {hint}."
    )


def _unfinished(log: StudyLog) -> int:
    """Planned trials that no commit has ended, second realisations left out."""
    ended = {t.key for t in log.trials if t.commit and t.commit["status"] in FINAL_STATUSES}
    return sum(not t["realisation"] and t["trial_id"] not in ended for t in log.plan["trials"])


def _left_out(log: StudyLog, metric: str, runs: Sequence[Run], missing: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    said = list(log.problems)
    first = [trial for trial in log.trials if not trial.facts["realisation"]]
    silent = len(first) - len(runs)
    if silent:
        said.append(f"{silent} of {len(first)} trials have no evaluation of {metric} yet.")
    unfinished = sum(run.status in ("running", "stopped", "failed") and not run.reached for run in runs)
    if unfinished:
        said.append(f"{unfinished} of {len(runs)} runs stopped short of the target and of their limit; they may go on.")
    unseen = sum(run.samples == 0.0 for run in runs)
    if unseen:
        said.append(
            f"{unseen} of {len(runs)} runs ended with no evaluation after their start that missed the target; they "
            "bound nothing, and no figure of steps shows them."
        )
    diverged = sum(run.status == "diverged" for run in runs)
    censored = sum(not run.reached for run in runs) - diverged - unfinished
    if censored:
        said.append(
            f"{censored} of {len(runs)} runs met their limit before the target; they count as slower than that."
        )
    if diverged:
        said.append(f"{diverged} of {len(runs)} runs diverged; they count as never reaching the target.")
    return (*said, *(sentence for _, sentence in missing))
