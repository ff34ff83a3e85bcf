"""The evaluations of one metric of a whole study, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis.crossings import in_order, run_bounds
from analysis.read import StudyLog, TrialLog, of_segments


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """Every committed evaluation of one metric, by trial and within it by samples; every array has the shape (N,).

    Attributes:
        trial: index into `StudyLog.trials`.
        samples: samples seen.
        values: of the metric.
    """

    trial: npt.NDArray[np.int64]
    samples: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def by_trial(self) -> dict[int, slice]:
        """Rows of each trial that has any, by its index."""
        starts, ends = run_bounds(self.trial)
        bounds = zip(self.trial[starts].tolist(), starts.tolist(), ends.tolist(), strict=True)
        return {trial: slice(start, end) for trial, start, end in bounds}


def evaluations(log: StudyLog, metric: str) -> Evaluations:
    """Read them, only the columns that are needed; a metric is read once, because no committed row ever changes.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    if metric not in log.evaluated:
        log.evaluated[metric] = _read(log, metric)
    found: Evaluations = log.evaluated[metric]
    return found


def _read(log: StudyLog, metric: str) -> Evaluations:
    index = {trial.key: i for i, trial in enumerate(log.trials)}
    name = pa.scalar(metric, pa.string())

    def rows(trial: TrialLog, table: pa.Table) -> tuple[int, pa.Table]:
        same = pc.equal(table["metric"], name)
        kept = table if pc.all(same).as_py() else table.filter(same)
        return index[trial.key], kept.select(["samples", "value"])

    found = of_segments(log, "evals", ["samples", "metric", "value"], None, rows)
    trials = np.repeat(np.array([i for i, _ in found], np.int64), [table.num_rows for _, table in found])
    parts = [table for _, table in found]
    samples, values = _column(parts, "samples", np.int64), _column(parts, "value", np.float64)
    trials, samples, values = in_order(trials, samples, values)
    return Evaluations(trial=trials, samples=samples, values=values)


def _column(tables: Sequence[pa.Table], name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    chunks = [chunk.to_numpy(zero_copy_only=False) for table in tables for chunk in table[name].chunks]
    return np.concatenate(chunks, dtype=dtype) if chunks else np.empty(0, dtype)
