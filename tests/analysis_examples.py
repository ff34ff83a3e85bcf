"""Analysed studies with a known curve, built by hand: what figures and reports are tested on.

Steps follow S(B) = S_min (1 + B_crit / B) times log-normal seed noise, and rise away from the best LR as a parabola in
log LR; the fit is the truth itself, so every drawn number has a closed form.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import exp, inf, log, nan
from pathlib import Path
from typing import Any

import numpy as np

from analysis.cbs import CurveFit
from analysis.losses import LossCurve, LossPoint
from analysis.noise import NoiseScale, NoiseSeries
from analysis.read import StudyLog, TrialLog
from analysis.rules import RulePoint, RuleVerdict
from analysis.study import Agreement, StudyAnalysis
from analysis.targets import BatchPoint, Run
from scaleexp.laws import steps_to_target
from scaleexp.schema import RuleLabel

WORKER_BATCH = 16
BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048)
S_MIN, B_CRIT = 120.0, 180.0
GRID = tuple(float(lr) for lr in np.geomspace(0.002, 2.0, 10))


def curve_fit(**changes: Any) -> CurveFit:
    """The true curve as a fit, with an interval of a factor 1.25 either way."""
    batches = np.geomspace(BATCHES[0], BATCHES[-1], 40)
    band = tuple(
        (float(b), float(s) / (1 + 0.6 / (1 + b / 60)), float(s) * (1 + 0.2 / (1 + 60 / b)))
        for b, s in zip(batches, steps_to_target(batches, S_MIN, B_CRIT), strict=True)
    )
    fit = CurveFit(
        b_crit=B_CRIT,
        b_crit_interval=(B_CRIT / 1.25, B_CRIT * 1.25),
        s_min=S_MIN,
        s_min_interval=(S_MIN / 1.2, S_MIN * 1.2),
        e_min=S_MIN * B_CRIT,
        e_min_interval=(S_MIN * B_CRIT / 1.1, S_MIN * B_CRIT * 1.1),
        confidence=0.9,
        band=band,
        n_batches=len(BATCHES),
        n_runs=3 * len(BATCHES),
        n_censored=0,
        rms_log_residual=0.041,
        seed_noise=0.06,
        status="ok",
        reason="The critical batch size lies inside the measured batches and its interval is bounded.",
        warnings=(),
    )
    return replace(fit, **changes)


def best_lr(batch_size: int) -> float:
    return float(min(GRID, key=lambda lr: abs(log(lr / (0.05 * (batch_size / 16) ** 0.5)))))


def lr_curve(batch_size: int, steps: float, seeds: int) -> tuple[tuple[float, float, int, int], ...]:
    best = best_lr(batch_size)
    rows = []
    for lr in GRID:
        median = steps * exp(0.25 * log(lr / best) ** 2)
        rows.append((lr, median, seeds, seeds) if lr / best < 8 and best / lr < 30 else (lr, inf, 0, seeds))
    return tuple(rows)


def run(batch_size: int, seed: int, steps: float, *, reached: bool = True, status: str = "reached") -> Run:
    samples = steps * batch_size
    bracket = (samples - batch_size, samples + batch_size) if reached else (samples, inf)
    return Run(
        key=f"b{batch_size}s{seed}",
        seed=seed,
        batch_size=batch_size,
        workers=max(1, batch_size // WORKER_BATCH),
        lr=best_lr(batch_size),
        reached=reached,
        samples=samples,
        bracket=bracket,
        status=status,
    )


def point(batch_size: int, seeds: int, rng: np.random.Generator) -> BatchPoint:
    true_steps = float(steps_to_target(batch_size, S_MIN, B_CRIT))
    runs = tuple(run(batch_size, s, true_steps * exp(0.06 * rng.standard_normal())) for s in range(seeds))
    steps = exp(float(np.mean([log(r.steps) for r in runs])))
    return BatchPoint(
        batch_size=batch_size,
        workers=max(1, batch_size // WORKER_BATCH),
        lr=best_lr(batch_size),
        lr_optimum=best_lr(batch_size) * 1.05,
        lr_edge=None,
        steps=steps,
        samples=steps * batch_size,
        runs=runs,
        lr_curve=lr_curve(batch_size, steps, seeds),
    )


def rule_verdict(rule: str, power: float, points: tuple[BatchPoint, ...], holds_up_to: int | None) -> RuleVerdict:
    base = points[len(points) // 2]
    rows = []
    for p in points:
        lr = base.lr * (p.batch_size / base.batch_size) ** power
        ratio = exp(0.25 * log(lr / p.lr) ** 2)
        lost = lr / p.lr > 8
        rows.append(
            RulePoint(
                batch_size=p.batch_size,
                lr=lr,
                steps=inf if lost else p.steps * ratio,
                ratio=inf if lost else ratio,
                holds=not lost and ratio <= 1.1,
            )
        )
    return RuleVerdict(
        rule=rule,
        base_batch_size=base.batch_size,
        base_lr=base.lr,
        tolerance=0.1,
        holds_up_to=holds_up_to,
        holds_down_to=base.batch_size,
        points=tuple(rows),
        sentence=f"{rule} holds from batch {base.batch_size} up to {holds_up_to}, within 10 % of the tuned steps.",
    )


def rule_labels(rules: tuple[RuleVerdict, ...]) -> list[RuleLabel]:
    return [
        {"rule": v.rule, "batch_size": p.batch_size, "kappa": p.batch_size / v.base_batch_size, "lr": p.lr}
        | {"trial_ids": []}  # type: ignore[misc]
        for v in rules
        for p in v.points
    ]


def loss_curve(batch_size: int, seeds: int, rules: tuple[RuleVerdict, ...]) -> LossCurve:
    """Loss 0.4 at the best LR, rising as a parabola in log LR; the largest LR of all diverged in every seed."""
    lrs = sorted({*GRID, *(p.lr for v in rules for p in v.points if p.batch_size == batch_size)})
    best = best_lr(batch_size)
    points = tuple(
        LossPoint(
            lr=lr,
            value=nan if lr == lrs[-1] else 0.4 * exp(0.1 * log(lr / best) ** 2),
            seeds=0 if lr == lrs[-1] else seeds,
            diverged=seeds if lr == lrs[-1] else 0,
        )
        for lr in lrs
    )
    return LossCurve(batch_size=batch_size, samples=20.0 * batch_size + 4000.0, points=points, best=best)


def noise_scale(first: float, last: float, b_simple: float, *, resolved: bool = True, low: float = 0.0) -> NoiseScale:
    return NoiseScale(
        b_simple=b_simple if resolved else nan,
        interval=(b_simple / 1.3, b_simple * 1.4) if resolved else (low, inf),
        g_sq=1.0 / b_simple if resolved else 1e-6,
        tr_sigma=1.0,
        n_measurements=24,
        samples_range=(first, last),
        confidence=0.9,
        status="ok" if resolved else "unresolved",
        reason="" if resolved else "The interval of |G|^2 includes 0.",
    )


def noise_series(batch_size: int) -> NoiseSeries:
    edges = np.geomspace(500.0, 40000.0, 8)
    windows = []
    for i, (first, last) in enumerate(pairwise(edges)):
        grown = 12.0 * 1.6**i * (1 + 0.1 * (batch_size % 3))
        resolved = i < 5
        windows.append(noise_scale(float(first), float(last), grown, resolved=resolved, low=grown / 2 if i == 5 else 0))
    return NoiseSeries(batch_size=batch_size, lr=best_lr(batch_size), windows=tuple(windows))


def trial_log(r: Run) -> TrialLog:
    return TrialLog(
        key=r.key,
        facts={
            "schema_version": 1,
            "trial_id": r.key,
            "realisation": "",
            "seed": r.seed,
            "batch_size": r.batch_size,
            "workers": r.workers,
            "micro_batch": WORKER_BATCH,
            "accumulation_steps": 1,
            "lr": r.lr,
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "workload": {"name": "classifier", "data": "digits", "hidden": [64, 64]},
            "dtype": "float32",
            "unit": "example",
            "n_train": 4000,
            "n_parameters": 54410,
            "data_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "limit_samples": 80000,
            "versions": {"python": "3.11.9", "torch": "2.6.0", "ray": "2.50.0"},
            "git_sha": "0123456789abcdef",
            "hardware": {"cpu": "example CPU", "cores": 8},
            "created_utc": "2025-01-01T00:00:00Z",
        },
        commit=None,
    )


def study(*, seeds: int = 3, batches: tuple[int, ...] = BATCHES, name: str = "digits", **changes: Any) -> StudyAnalysis:
    """A study where all is well; `changes` replace fields of the result."""
    rng = np.random.default_rng(7)
    points = tuple(point(b, seeds, rng) for b in batches)
    runs = tuple(r for p in points for r in p.runs)
    trials = tuple(trial_log(r) for r in runs)
    rules = (
        rule_verdict("none", 0.0, points, None),
        rule_verdict("sqrt", 0.5, points, batches[-1]),
        rule_verdict("linear", 1.0, points, batches[-2]),
    )
    result = StudyAnalysis(
        log=StudyLog(
            path=Path("studies") / "digits",
            plan={
                "schema_version": 1,
                "study": name,
                "question": "How many workers can one classifier use before adding more stops paying?",
                "targets": [{"metric": "eval_loss", "values": [0.5, 0.35], "direction": "min"}],
                "base_batch_size": batches[len(batches) // 2],
                "base_lr": best_lr(batches[len(batches) // 2]),
                "unit": "example",
                "trials": [],
                "rules": rule_labels(rules),
            },
            trials=trials,
            problems=(),
        ),
        metric="eval_loss",
        target=0.35,
        direction="min",
        unit="example",
        runs=runs,
        points=points,
        missing=(),
        loss_curves=tuple(loss_curve(b, seeds, rules) for b in batches),
        fit=curve_fit(),
        fit_reason="",
        noise=noise_scale(0.0, 40000.0, 64.0),
        noise_series=(noise_series(batches[0]), noise_series(batches[-1])),
        rules=rules,
        agreements=(
            Agreement(
                key="b16s0",
                other_key="b16s0@ddp-2",
                steps=200,
                loss_difference=3.1e-7,
                value_difference=2.2e-7,
                step_s=0.0021,
                other_step_s=0.0063,
                agrees=True,
                tolerance=1e-3,
            ),
        ),
        left_out=(),
    )
    return replace(result, **changes)


def ok() -> StudyAnalysis:
    return study()


def misfit() -> StudyAnalysis:
    return study(
        fit=curve_fit(
            status="misfit",
            rms_log_residual=0.31,
            reason="Residuals of 31 % are 5.2 times the seed noise: the curve does not describe the points.",
        )
    )


def extrapolated() -> StudyAnalysis:
    return study(
        batches=(8, 16, 32, 64),
        fit=curve_fit(
            b_crit_interval=(110.0, 420.0),
            n_batches=4,
            band=tuple(row for row in curve_fit().band if row[0] <= 64),
            status="extrapolated",
            reason="B_crit = 180 lies outside the measured batches, 8 to 64: measure larger batches.",
        ),
    )


def not_identified() -> StudyAnalysis:
    return study(
        batches=(16, 32, 64),
        fit=curve_fit(
            b_crit=950.0,
            b_crit_interval=(75.0, inf),
            s_min=28.0,
            s_min_interval=(0.0, 160.0),
            n_batches=3,
            band=tuple(row for row in curve_fit().band if row[0] <= 64),
            status="not_identified",
            reason="The interval of B_crit has no upper end: the batches measured still scale almost perfectly.",
        ),
    )


def perfect_scaling() -> StudyAnalysis:
    """The fit ran to the end of its range: no minimum of steps in sight."""
    return study(
        batches=(16, 32, 64),
        fit=curve_fit(
            b_crit=inf,
            b_crit_interval=(300.0, inf),
            s_min=0.0,
            s_min_interval=(0.0, 40.0),
            band=(),
            status="not_identified",
            reason="Steps fall as 1/B over all batches: there is no sign of a critical batch size.",
        ),
    )


def no_fit() -> StudyAnalysis:
    return study(
        batches=(64, 128),
        fit=None,
        fit_reason="2 batch sizes gave a point and a curve needs 3: add batch sizes, or raise the limit.",
        missing=((1024, "Batch 1,024: none of 6 runs reached the target before the limit of 80,000 samples."),),
    )


def no_points() -> StudyAnalysis:
    lost = tuple(run(b, s, 80000 / b, reached=False, status="limit") for b in (16, 64) for s in range(2))
    full = study(batches=(16, 64))
    return replace(
        full,
        runs=lost,
        points=(),
        missing=tuple((b, f"Batch {b}: none of 2 runs reached the target.") for b in (16, 64)),
        fit=None,
        fit_reason="No batch size reached the target: choose an easier target or raise the limit.",
        noise=None,
        noise_series=(),
        rules=(),
        agreements=(),
    )


def censored() -> StudyAnalysis:
    """One batch has a censored and a diverged seed, another never reached the target."""
    full = study()
    b = full.points[2].batch_size
    limit = run(b, 3, full.points[2].steps * 1.5, reached=False, status="limit")
    diverged = run(b, 4, full.points[2].steps * 0.4, reached=False, status="diverged")
    hurt = replace(full.points[2], runs=(*full.points[2].runs, limit, diverged))
    points = (*full.points[:2], hurt, *full.points[3:-1])
    never = tuple(run(BATCHES[-1], s, 70.0, reached=False, status="limit") for s in range(3))
    return replace(
        full,
        points=points,
        runs=(*(r for p in points for r in p.runs), *never),
        missing=((BATCHES[-1], "Batch 2,048: none of 3 runs reached the target before the limit of 143,360 samples."),),
        fit=curve_fit(n_censored=1, warnings=("1 of 23 runs at the best LR is censored; it enters as a bound.",)),
        left_out=(f"b{b}s4 diverged at step 40 and is not fitted.",),
    )


def lr_edge() -> StudyAnalysis:
    full = study()
    points = (replace(full.points[0], lr_optimum=None, lr_edge="low"), *full.points[1:])
    points = (*points[:-1], replace(points[-1], lr_optimum=None, lr_edge="high"))
    return replace(full, points=points)


def no_noise() -> StudyAnalysis:
    return study(noise=None, noise_series=())


def one_seed() -> StudyAnalysis:
    return study(seeds=1, fit=curve_fit(seed_noise=None, n_runs=8, warnings=("One run per batch size.",)))


CASES = {
    f.__name__: f
    for f in (
        ok,
        misfit,
        extrapolated,
        not_identified,
        perfect_scaling,
        no_fit,
        no_points,
        censored,
        lr_edge,
        no_noise,
        one_seed,
    )
}
