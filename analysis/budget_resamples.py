"""What the best losses at a budget might have been with other seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from analysis.medians import present_median

FloatArray = npt.NDArray[np.float64]


def resampled_best(grids: Sequence[FloatArray], resamples: int, rng: np.random.Generator) -> FloatArray | None:
    """Best median over LRs of each batch in each resample, shape (R, J); None where no batch has a second seed.

    Args:
        grids: values of each batch, shape (LRs, seeds), lower being better, inf where diverged and nan where not run. A
            batch with one seed borrows the spread of the others.
        resamples: R.
        rng: of the draws.
    """
    if max(grid.shape[1] for grid in grids) < 2:
        return None
    rows = np.empty((resamples, len(grids)))
    pooled = pooled_deviations(map(_at_best, grids))
    for j, grid in enumerate(grids):
        seeds = grid.shape[1]
        picks = rng.integers(seeds, size=(resamples, max(seeds - 1, 1)))
        rows[:, j] = present_median(grid[:, picks]).min(0)
        if seeds == 1 and pooled.size:
            rows[:, j] += rng.choice(pooled, resamples)
    return rows


def _at_best(grid: FloatArray) -> FloatArray:
    """Values of the seeds that ended well at the LR with the best median."""
    values: FloatArray = grid[int(present_median(grid).argmin())]
    return values[np.isfinite(values)]


def pooled_deviations(batches: Iterable[FloatArray]) -> FloatArray:
    """Deviations of every batch's values from their mean, scaled to the variance of a single run.

    n values deviate from their own mean by (n - 1) / n of the variance; one alone says nothing.

    >>> pooled_deviations([np.array([1.0, 3.0]), np.array([7.0])]).round(4).tolist()
    [-1.4142, 1.4142]
    """
    found = [np.empty(0)]
    for values in batches:
        if values.size > 1:
            found.append((values - values.mean()) * math.sqrt(values.size / (values.size - 1)))
    return np.concatenate(found)
