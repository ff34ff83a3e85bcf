"""The evaluations of one metric of a whole study, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.crossings import in_order, run_bounds
from analysis.read import StudyLog, read_evaluations

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluations:
    """Every committed evaluation of one metric, by trial and within it by samples; every array has the shape (N,).

    Attributes:
        trial: index into `StudyLog.trials`.
        samples: samples seen.
        values: of the metric.
    """

    trial: IntArray
    samples: IntArray
    values: FloatArray

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
        log.decoded.pop(metric, None)
    found: Evaluations = log.evaluated[metric]
    return found


def _read(log: StudyLog, metric: str) -> Evaluations:
    found = [(i, samples, values) for i, (samples, values) in read_evaluations(log, metric)]
    trials = np.repeat(np.array([i for i, _, _ in found], np.int64), [s.size for _, s, _ in found])
    samples = np.concatenate([np.empty(0, np.int64), *(s for _, s, _ in found)])
    values = np.concatenate([np.empty(0), *(v for _, _, v in found)])
    trials, samples, values = in_order(trials, samples, values)
    return Evaluations(trial=trials, samples=samples, values=values)
