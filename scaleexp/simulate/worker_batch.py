"""Samples of a worker in a step: those that are looked at, and the best of them for every number of workers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scaleexp.simulate.configuration import Limits
from scaleexp.simulate.given_curve import FloatArray, GivenCurve
from scaleexp.simulate.step_sources import StepTimes

_LARGEST = 64.0
"""Batches are looked for up to this many times B_crit, where nothing is left to gain (1.6 % of the steps)."""


def worker_batches(curve: GivenCurve, limits: Limits) -> FloatArray:
    """Samples of a worker in a step that are looked at, ascending, shape (K,)."""
    if limits.worker_batches:
        return np.array(sorted(limits.worker_batches), dtype=np.float64)
    largest = max(_LARGEST * curve.usual_batch, curve.measured[1] if curve.measured else 1.0, 1.0)
    return np.asarray(2.0 ** np.arange(int(np.log2(min(largest, 2.0**40))) + 1))


def accumulation(worker_batch: FloatArray, limits: Limits) -> FloatArray:
    """Micro-batches of a step: as few as fit into memory; powers of two divide powers of two."""
    most = limits.max_micro_batch
    if most is None:
        return np.ones_like(worker_batch)
    steps = np.ceil(worker_batch / most)
    while (worker_batch % steps != 0).any():
        steps = np.where(worker_batch % steps != 0, steps + 1, steps)
    return steps


def best_batches(
    curve: GivenCurve, times: StepTimes, p: FloatArray, batches: FloatArray, limits: Limits
) -> tuple[npt.NDArray[np.int64], list[str], float]:
    """The best worker batch of every number of workers.

    Returns:
        Index of it, -1 where there is none; why there is none, in sentences; and the fewest seconds of computation that
        a worker spends on a sample, over all batches.
    """
    nodes = np.ceil(p / limits.workers_per_node)
    found = times.predict(p[:, None], nodes[:, None], batches, accumulation(batches, limits))
    grid = p[:, None] * batches
    seconds = curve.steps(grid) * found.step_time_s
    ceiling = max(_LARGEST * curve.usual_batch, curve.measured[1] if curve.measured else 0.0)
    seconds = np.where((grid <= ceiling) | (batches == batches[0]), seconds, np.nan)
    seconds = np.where(np.isnan(seconds), np.inf, seconds)
    best = np.where(np.isfinite(seconds).any(1), seconds.argmin(1), -1)
    without = best < 0
    reasons = dict.fromkeys(str(reason) for reason in found.reason[without, 0])
    left_out = [line for r in reasons for line in left_out_for(p[without & (found.reason[:, 0] == r)], r)]
    per_sample = found.parts["compute"] / batches
    rate = float(np.nanmin(per_sample)) if np.isfinite(per_sample).any() else np.nan
    return best, left_out, rate


def left_out_for(workers: FloatArray, reason: str) -> list[str]:
    """A sentence on these numbers of workers, if there are any.

    >>> left_out_for(np.array([512.0, 1024.0]), "they are too many")
    ['512 and 1,024 workers are left out: they are too many']
    """
    names = [f"{n:,.0f}" for n in workers]
    told = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return [f"{told} workers are left out: {reason}"] if names else []
