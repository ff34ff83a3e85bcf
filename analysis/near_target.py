"""What the model was like when it met the target: gap, gradient norm and distance from the start, by batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from analysis.histories import History
from analysis.noise import WINDOW, measurements
from analysis.noise_ratio import noise_scale
from analysis.study import StudyAnalysis
from analysis.targets import Run
from scaleexp.schema import DISTANCE

HELD_OUT_LOSSES = ("val_loss", "eval_loss", "valid_loss", "validation_loss", "test_loss")
"""Metrics that are the training loss on held-out data, so that the difference of the two is a generalisation gap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearTarget:
    """One run at the best LR of its batch size that reached the target.

    Attributes:
        key: trial key.
        batch_size: B [samples].
        seed: of the trial.
        gap: held-out minus training loss, mean over the last third of the samples before the crossing; nan where the
            log does not hold both.
        grad_sq: mean squared norm of the gradient of the global batch, there; nan where it was not measured.
        distance: of the parameters from their initialisation, at the crossing; nan where it was not logged.
    """

    key: str
    batch_size: int
    seed: int
    gap: float
    grad_sq: float
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueGradient:
    """|G|^2 without the noise of the batch, over all seeds of one batch size and the same window.

    Attributes:
        batch_size: B [samples].
        g_sq: unbiased estimate; may be lost in the noise.
        resolved: whether its interval leaves 0 out.
    """

    batch_size: int
    g_sq: float
    resolved: bool


def near_target(study: StudyAnalysis, found: Mapping[str, History]) -> tuple[NearTarget, ...]:
    """One per run that reached at the best LR, ascending in batch size."""
    metric = held_out_loss(study, found)
    return tuple(
        NearTarget(
            key=r.key,
            batch_size=r.batch_size,
            seed=r.seed,
            gap=gap(found[r.key], r, metric) if metric else nan,
            grad_sq=_grad_sq(found[r.key], r.samples),
            distance=distance(found[r.key], r.samples),
        )
        for p in study.points
        for r in p.runs
        if r.reached and r.key in found
    )


def held_out_loss(study: StudyAnalysis, found: Mapping[str, History]) -> str | None:
    """The study's metric where that is a held-out loss, else the first such that was logged beside it, else None."""
    logged = dict.fromkeys(m for h in found.values() for m in h.evals)
    return next((m for m in (study.metric, *logged) if m in HELD_OUT_LOSSES and m in logged), None)


def gap(history: History, run: Run, metric: str) -> float:
    """Mean of held-out minus training loss over the last third of the samples before the crossing.

    A step's training loss is that of the model before its update, after samples - B samples; the held-out loss is
    interpolated to there, so that both are the loss of one model. One evaluation alone would be compared with the few
    steps beside it, whose loss is mostly noise at a small batch.
    """
    if metric not in history.evals:
        return nan
    before = history.samples - run.batch_size
    inside = (before > (1.0 - WINDOW) * run.samples) & (before <= run.samples) & np.isfinite(history.loss)
    if not inside.any():
        return nan
    return float((np.interp(before[inside], *history.evals[metric]) - history.loss[inside]).mean())


def _grad_sq(history: History, crossing: float) -> float:
    inside = (history.samples > (1.0 - WINDOW) * crossing) & (history.samples <= crossing)
    measured = history.grad_sq[inside & np.isfinite(history.grad_sq)]
    return float(measured.mean()) if measured.size else nan


def distance(history: History, crossing: float) -> float:
    """Distance from the initialisation after `crossing` samples, on the straight line between two evaluations."""
    samples, values = history.evals.get(DISTANCE, (np.empty(0), np.empty(0)))
    if not samples.size or not samples[0] <= crossing <= samples[-1]:
        return nan  # a study that went on with this version has it from there on
    return float(np.interp(crossing, samples, values))


def true_gradients(study: StudyAnalysis) -> tuple[TrueGradient, ...]:
    """One per batch size whose shards' norms were measured near the target."""
    made = []
    for point in study.points:
        crossing = {r.key: r.samples for r in point.runs if r.reached}
        measured = measurements(study.log, crossing)
        near = [m.within((1.0 - WINDOW) * crossing[key], crossing[key]) for key, m in measured.items()]
        near = [m for m in near if m.samples.size]
        if near:
            scale = noise_scale(near)
            made.append(
                TrueGradient(
                    batch_size=point.batch_size, g_sq=scale.g_sq, resolved=scale.status == "ok" and scale.g_sq > 0
                )
            )
    return tuple(made)
