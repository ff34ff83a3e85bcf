"""Every run in one row: what it was, what became of it, what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from analysis.histories import History
from analysis.study import StudyAnalysis


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One trial, or a further realisation of it.

    Attributes:
        key: trial key.
        batch_size: B [samples].
        workers, lr, seed: of the trial.
        realised: how it was run: the engine, and the name of a further realisation.
        status: of its last commit; running where there is none.
        steps, samples: as far as it is committed.
        to_target: samples to this study's target; nan where it was not reached.
        final: the metric at its last evaluation; nan without one.
        seconds: its steps, summed; nan where none was timed.
    """

    key: str
    batch_size: int
    workers: int
    lr: float
    seed: int
    realised: str
    status: str
    steps: int
    samples: int
    to_target: float
    final: float
    seconds: float


def run_rows(study: StudyAnalysis, found: Mapping[str, History]) -> tuple[RunRow, ...]:
    """One per trial that has begun, by batch size, learning rate and seed."""
    crossing = {r.key: r.samples for r in study.runs if r.reached}
    rows = [_row(history, study.metric, crossing.get(key, nan)) for key, history in found.items()]
    return tuple(sorted(rows, key=lambda r: (r.batch_size, r.lr, r.seed, r.key)))


def _row(history: History, metric: str, to_target: float) -> RunRow:
    facts, commit = history.trial.facts, history.trial.commit
    _, values = history.evals.get(metric, (np.empty(0), np.empty(0)))
    timed = history.step_s[np.isfinite(history.step_s)]
    return RunRow(
        key=history.trial.key,
        batch_size=facts["batch_size"],
        workers=facts["workers"],
        lr=facts["lr"],
        seed=facts["seed"],
        realised=realised(history),
        status=commit["status"] if commit else "running",
        steps=commit["step"] if commit else 0,
        samples=commit["samples"] if commit else 0,
        to_target=to_target,
        final=float(values[-1]) if values.size else nan,
        seconds=float(timed.sum()) if timed.size else nan,
    )


def realised(history: History) -> str:
    """How a trial was run, such as `packed` or `ddp (ddp-2)`."""
    commit, name = history.trial.commit, history.trial.facts["realisation"]
    engine = str(commit["realisation"].get("engine", "")) if commit else ""
    return f"{engine} ({name})".strip() if name else engine or "not begun"
