"""The metric of every trial over training, as far as it is committed: what a page shows while a study runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.read import StudyLog, read_evals
from scaleexp.schema import trial_key

Pairs = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCurve:
    """One trial.

    Attributes:
        key: of the trial.
        batch_size: B [samples].
        status: of its last commit.
        points: (samples seen, value of the metric), ascending, finite, without the one before the first step.
    """

    key: str
    batch_size: int
    status: str
    points: Pairs


def training_curves(log: StudyLog, metric: str) -> tuple[TrainingCurve, ...]:
    """Every trial with an evaluation after its start, in the order of the plan."""
    table = read_evals(log, metric)
    found: dict[str, list[tuple[float, float]]] = {}
    columns = (table[name].to_pylist() for name in ("trial_id", "realisation", "samples", "value"))
    for trial_id, realisation, samples, value in zip(*columns, strict=True):
        if samples > 0 and value is not None and np.isfinite(value):
            found.setdefault(trial_key(trial_id, realisation), []).append((float(samples), float(value)))
    return tuple(
        TrainingCurve(
            key=trial.key,
            batch_size=trial.facts["batch_size"],
            status=trial.commit["status"] if trial.commit else "waiting",
            points=tuple(sorted(found[trial.key])),
        )
        for trial in log.trials
        if trial.key in found
    )
