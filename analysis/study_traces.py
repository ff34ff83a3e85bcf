"""The runs of a study with their evaluations, as a comparison at equal samples takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from analysis.evaluations import evaluations
from analysis.read import StudyLog

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTrace:
    """One run of a study; see `analysis.equal_samples.Trace`.

    Attributes:
        key: trial key.
        batch_size, lr, seed: of the trial.
        samples: at each evaluation, ascending, shape (N,).
        values: of the metric, shape (N,).
        status: the trial's status in the log, "running" without one.
    """

    key: str
    batch_size: int
    lr: float
    seed: int
    samples: FloatArray
    values: FloatArray
    status: str

    def with_seed(self, seed: int) -> Self:
        """The same run under another seed."""
        return replace(self, seed=seed)


def study_traces(log: StudyLog, metric: str) -> tuple[StudyTrace, ...]:
    """Every first realisation that has an evaluation of the metric, in plan order."""
    evals = evaluations(log, metric)
    traces = []
    for trial, rows in evals.by_trial().items():
        run = log.trials[trial]
        if run.facts["realisation"]:
            continue
        traces.append(
            StudyTrace(
                key=run.key,
                batch_size=run.facts["batch_size"],
                lr=run.facts["lr"],
                seed=run.facts["seed"],
                samples=evals.samples[rows].astype(np.float64),
                values=evals.values[rows],
                status=run.commit["status"] if run.commit else "running",
            )
        )
    return tuple(traces)
