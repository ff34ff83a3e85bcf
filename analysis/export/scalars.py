"""A trial as named series of numbers over optimizer steps: what trackers of experiments store.

`train/loss`, `train/lr`, `train/samples` and `train/step_s` at every step; `train/grad_norm` (of the global batch) and
`train/shard_grad_norm` (root mean square over shards) where the log has them; `eval/METRIC` at every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.export.rows import trial_rows
from analysis.read import StudyLog, TrialLog

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class After:
    """Last step of a trial that was exported from each table; -1 before the first, for a start is evaluated too."""

    steps: int = -1
    evals: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Rows that all have the same scalars.

    Attributes:
        table: where the rows are from.
        step: optimizer steps taken, shape (N,).
        wall_s: Unix time [seconds], shape (N,): when the trial was first begun, plus the time that its steps took.
        values: name -> value at each step, shape (N,).
    """

    table: str
    step: IntArray
    wall_s: FloatArray
    values: dict[str, FloatArray]


def series(log: StudyLog, trial: TrialLog, after: After) -> Iterator[Series]:
    """Everything that was logged of a trial after what is exported, a segment at a time, steps before evaluations."""
    began = datetime.fromisoformat(trial.facts["created_utc"]).timestamp()
    steps, walls = [np.zeros(1, np.int64)], [np.array([began])]
    for rows in trial_rows(log, trial, "steps"):
        step = rows["step"].to_numpy()
        took = np.nan_to_num(_floats(rows, "step_s"))
        wall = walls[-1][-1] + np.cumsum(took)
        if step.size:
            steps.append(step)
            walls.append(wall)
        yield from _of_steps(rows, step, wall, after.steps)
    at, when = np.concatenate(steps), np.concatenate(walls)
    for rows in trial_rows(log, trial, "evals"):
        step = rows["step"].to_numpy()
        wall = when[np.searchsorted(at, step, side="right") - 1]
        yield from _of_evals(rows, step, wall, after.evals)


def _of_steps(rows: pa.Table, step: IntArray, wall: FloatArray, after: int) -> Iterator[Series]:
    named = {"loss": "loss", "lr": "step_lr", "samples": "samples", "step_s": "step_s"}
    every = {f"train/{name}": _floats(rows, column) for name, column in named.items()}
    if not np.isfinite(every["train/step_s"]).all():
        del every["train/step_s"]
    big, small = np.sqrt(_floats(rows, "grad_sq_big")), np.sqrt(_floats(rows, "grad_sq_small"))
    norms = {"train/grad_norm": big, "train/shard_grad_norm": small}
    new = step > after
    measured = new & ~np.isnan(big) & ~np.isnan(small)
    for mask, values in ((new, every), (measured, norms)):
        if mask.any():
            yield _picked("steps", mask, step, wall, values)


def _of_evals(rows: pa.Table, step: IntArray, wall: FloatArray, after: int) -> Iterator[Series]:
    metrics, values = np.array(rows["metric"].to_pylist(), dtype=object), _floats(rows, "value")
    for metric in dict.fromkeys(metrics.tolist()):
        mask = (metrics == metric) & (step > after)
        if mask.any():
            yield _picked("evals", mask, step, wall, {f"eval/{metric}": values})


def _picked(
    table: str, mask: npt.NDArray[np.bool_], step: IntArray, wall: FloatArray, values: dict[str, FloatArray]
) -> Series:
    return Series(table=table, step=step[mask], wall_s=wall[mask], values={name: v[mask] for name, v in values.items()})


def _floats(rows: pa.Table, column: str) -> FloatArray:
    """A column as floats, nan where it is null."""
    return np.asarray(rows[column].cast(pa.float64()).to_numpy(), dtype=np.float64)
