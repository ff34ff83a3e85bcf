"""The runs of a study with their evaluations, as a comparison at equal samples takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from analysis.read import StudyLog, read_evals
from scaleexp.schema import trial_key

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
    table = read_evals(log, metric)
    trials, realisations = table["trial_id"].to_pylist(), table["realisation"].to_pylist()
    samples, values = table["samples"].to_numpy().astype(np.float64), table["value"].to_numpy()
    rows: dict[str, list[int]] = {}
    for row, (trial, realisation) in enumerate(zip(trials, realisations, strict=True)):
        rows.setdefault(trial_key(trial, realisation), []).append(row)
    traces = []
    for run in log.trials:
        if run.facts["realisation"] or run.key not in rows:
            continue
        index = np.array(rows[run.key], dtype=np.int64)
        order = index[np.argsort(samples[index], kind="stable")]
        traces.append(
            StudyTrace(
                key=run.key,
                batch_size=run.facts["batch_size"],
                lr=run.facts["lr"],
                seed=run.facts["seed"],
                samples=samples[order],
                values=values[order],
                status=run.commit["status"] if run.commit else "running",
            )
        )
    return tuple(traces)
