"""What every run of a sweep reached after one number of samples, the same for all batch sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from analysis.medians import present_median
from analysis.wording import count
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
_UNFINISHED = ("running", "stopped", "failed")


class Trace(Protocol):
    """One run with its evaluations; whatever has these attributes is one."""

    @property
    def batch_size(self) -> int:
        """Global batch [samples]."""

    @property
    def lr(self) -> float:
        """Learning rate."""

    @property
    def seed(self) -> int:
        """The same in two runs of a batch if they share their randomness."""

    @property
    def samples(self) -> FloatArray:
        """At each evaluation, ascending, shape (N,)."""

    @property
    def values(self) -> FloatArray:
        """Of the metric, shape (N,)."""

    @property
    def status(self) -> str:
        """Whether it is "diverged", or anything else."""

    def with_seed(self, seed: int) -> Self:
        """The same run under another seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGrid:
    """One batch size at the budget.

    Attributes:
        batch_size: B [samples].
        lrs: ascending, shape (L,).
        values: shape (L, seeds), lower being better, inf where diverged and nan where not run.
        chosen: index of the LR with the best median.
    """

    batch_size: int
    lrs: tuple[float, ...]
    values: FloatArray
    chosen: int

    @property
    def at_edge(self) -> bool:
        """Whether the best LR has no LR beyond it on some side, so that the optimum may lie outside.

        An LR at which runs diverge is one beyond. Where nothing converged there is no best LR.
        """
        return bool(np.isfinite(self.values).any()) and self.chosen in (0, len(self.lrs) - 1)


def budget_of(traces: Sequence[Trace], asked: float | None) -> tuple[float, tuple[str, ...]]:
    """The number of samples at which runs are compared, and what was left out, one sentence each.

    A run without an evaluation after its start says nothing of its LR and is left out.

    Raises:
        ConfigError: nothing to compare, or more samples asked for than every run holds.
    """
    ends = sorted((float(t.samples[-1]), t.batch_size, t.lr) for t in traces if not _lost(t) and _counts(t))
    if not ends:
        raise ConfigError("every run diverged or has no evaluation after its start: there is no loss to compare.")
    shortest, batch, lr = ends[0]
    if asked is not None and not 0.0 < asked <= shortest:
        raise ConfigError(
            f"a budget must be above 0 and held by every run, got {count(asked)}; the run of batch {batch} at LR "
            f"{lr:g} ends at {count(shortest)}, which is the most."
        )
    idle = sum(not _lost(t) and not _began(t) for t in traces)
    cut = sum(t.status in _UNFINISHED and _began(t) for t in traces)
    notes = [f"{idle} of {len(traces)} runs have no evaluation after their start and are left out."] if idle else []
    if cut:
        notes.append(f"{cut} of {len(traces)} runs are unfinished or failed and are left out.")
    if asked is None and ends[-1][0] > 2.0 * shortest:
        notes.append(
            f"runs are compared at {count(shortest)} samples, where the run of batch {batch} at LR {lr:g} ends; others "
            f"go on to {count(ends[-1][0])}."
        )
    return (shortest if asked is None else asked), tuple(notes)


def loss_grids(traces: Sequence[Trace], budget: float, sign: float) -> tuple[LossGrid, ...]:
    """One grid per batch size, ascending.

    Args:
        traces: runs.
        budget: [samples], as `budget_of` has it.
        sign: 1 where a lower value is better, -1 where a higher one is.
    """
    grids = []
    kept = sorted((t for t in traces if _lost(t) or _counts(t)), key=lambda t: t.batch_size)
    for batch_size, runs in groupby(kept, lambda t: t.batch_size):
        of_batch = list(runs)
        lrs, seeds = sorted({t.lr for t in of_batch}), sorted({t.seed for t in of_batch})
        values = np.full((len(lrs), len(seeds)), np.nan)
        for t in of_batch:
            value = math.inf if _lost(t) else sign * value_at(t.samples, t.values, budget)
            values[lrs.index(t.lr), seeds.index(t.seed)] = value
        chosen = int(present_median(values).argmin())
        grids.append(LossGrid(batch_size=batch_size, lrs=tuple(lrs), values=values, chosen=chosen))
    return tuple(grids)


def value_at(samples: FloatArray, values: FloatArray, budget: float) -> float:
    """The metric after so many samples, on the straight line between two evaluations.

    Interpolated, because the last evaluation before the budget is earlier for a large batch than for a small one, and
    would make it look worse.

    >>> value_at(np.array([0.0, 100.0, 200.0]), np.array([4.0, 3.0, 2.0]), 150.0)
    2.5
    """
    return float(np.interp(budget, samples, values))


def _counts(trace: Trace) -> bool:
    """One that was cut short says nothing of what its batch and LR come to, and would cut the budget of all."""
    return _began(trace) and trace.status not in _UNFINISHED


def _lost(trace: Trace) -> bool:
    return trace.status == "diverged" or not bool(np.isfinite(trace.values).all())


def _began(trace: Trace) -> bool:
    return bool(trace.samples.size) and float(trace.samples[-1]) > 0.0
