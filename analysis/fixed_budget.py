"""The critical batch size of a fixed budget: the largest batch that loses nothing at equal samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.budget_resamples import resampled_best
from analysis.defaults import FitStatus
from analysis.equal_samples import Trace, budget_of, loss_grids
from analysis.jsonable import json_interval, json_safe
from analysis.medians import present_median
from analysis.wording import level, listed, number, percent
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
EPSILONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetLoss:
    """One batch size at the budget, at its best LR.

    Attributes:
        batch_size: B [samples].
        lr: of the grid, with the best median over seeds; nan where most seeds diverged at every LR.
        lr_edge: whether it is the smallest or largest of its grid, or the only one.
        value: that median, a diverged seed counting as the worst; nan where there is none.
        gap: by how much it is worse than the best over all batches, in the unit of the metric; inf where there is none.
        seeds: seeds run at any LR.
        probability: share of the resamples in which this batch and all smaller ones are within epsilon; None where no
            batch has a second seed.
    """

    batch_size: int
    lr: float
    lr_edge: bool
    value: float
    gap: float
    seeds: int
    probability: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedBudget:
    """Largest B whose best loss at equal samples is within epsilon of the best over B, as for every smaller B.

    Attributes:
        batch: that B [samples], a lower end of the critical batch size; nan where even the smallest is not within.
        bracket: (B, next measured B) [samples]; the upper end is inf where every batch is within.
        interval: (low, high) [samples] of the two ends of the bracket over a bootstrap over seeds; (0, inf) without.
        confidence: of the interval.
        samples: the budget, the same for every batch [samples].
        epsilon: tolerance; a share of |best loss| where `relative`, else in the unit of the metric.
        relative: which of the two.
        losses: one per batch, ascending.
        sensitivity: (epsilon, B, next B) of other tolerances of the same kind; nan and inf as above.
        status: ok | not_identified; ok only with an interval that is bounded on both sides, so never with one seed.
        reason: one sentence.
        warnings: one sentence each.
    """

    batch: float
    bracket: tuple[float, float]
    interval: tuple[float, float]
    confidence: float
    samples: float
    epsilon: float
    relative: bool
    losses: tuple[BudgetLoss, ...]
    sensitivity: tuple[tuple[float, float, float], ...]
    status: FitStatus
    reason: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is unbounded or unknown is None."""
        return json_safe(asdict(self) | {"interval": json_interval(self.interval)})  # type: ignore[no-any-return]


def fixed_budget(
    traces: Sequence[Trace],
    direction: Literal["min", "max"],
    *,
    epsilon: float = 0.01,
    relative: bool = True,
    samples: float | None = None,
    confidence: float,
    resamples: int = 1000,
    seed: int = 0,
) -> FixedBudget:
    """The critical batch size that a token budget asks for.

    Every run is read at the same number of samples, interpolated between two evaluations. The best LR of each batch
    has the best median over seeds. Seeds are resampled n - 1 of n, for all LRs of a batch together, and the LR is
    chosen anew in every resample. Where no batch has a second seed nothing says how far a loss moves by chance: there
    is no curve whose residuals could stand in, so there is no interval, and the answer is not identified.

    Args:
        traces: every run of the LR grid of every batch.
        direction: how the metric gets better.
        epsilon: how much worse than the best over B still counts as equal.
        relative: whether epsilon is a share of |best| or in the unit of the metric.
        samples: the budget [samples]; the largest that every run which did not diverge holds if None.
        confidence: of the interval, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ConfigError: no runs, an epsilon that is not positive, or a budget that some run does not hold.
    """
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"epsilon must be above 0, got {epsilon:g}; 0.01 is usual.")
    budget, notes = budget_of(traces, samples)
    grids = loss_grids(traces, budget, 1.0 if direction == "min" else -1.0)
    batches = np.array([grid.batch_size for grid in grids], dtype=np.float64)
    best = np.array([[present_median(grid.values).min() for grid in grids]])
    if relative and best.min() == 0.0:
        raise ConfigError("the best loss is 0, of which no share can be taken: give an absolute epsilon.")
    ends = bracket(batches, within(best, epsilon, relative))[0]
    drawn = resampled_best([grid.values for grid in grids], resamples, np.random.default_rng(seed))
    inside = None if drawn is None else within(drawn, epsilon, relative)
    interval = (0.0, math.inf) if inside is None else interval_of(bracket(batches, inside), confidence)
    losses = tuple(
        BudgetLoss(
            batch_size=grid.batch_size,
            lr=grid.lrs[grid.chosen] if math.isfinite(best[0, j]) else math.nan,
            lr_edge=grid.at_edge,
            value=(1.0 if direction == "min" else -1.0) * best[0, j] if math.isfinite(best[0, j]) else math.nan,
            gap=float(best[0, j] - best.min()),
            seeds=grid.values.shape[1],
            probability=None if inside is None else float(inside[:, j].mean()),
        )
        for j, grid in enumerate(grids)
    )
    status, reason = _judge(losses, ends, epsilon, relative)
    if status == "ok":
        status, reason = _judge_interval(None if inside is None else interval, confidence, reason)
    return FixedBudget(
        batch=float(ends[0]) if ends[0] else math.nan,
        bracket=(float(ends[0]), float(ends[1])),
        interval=interval,
        confidence=confidence,
        samples=budget,
        epsilon=epsilon,
        relative=relative,
        losses=losses,
        sensitivity=tuple(_at(batches, best, e, relative) for e in EPSILONS),
        status=status,
        reason=reason,
        warnings=(*notes, *_warnings(losses, float(ends[1]))),
    )


def within(best: FloatArray, epsilon: float, relative: bool) -> npt.NDArray[np.bool_]:
    """Whether each batch and every smaller one is within epsilon of the best over batches, lower being better.

    >>> within(np.array([[3.0, 3.1, 2.99, 3.02]]), 0.02, False).tolist()
    [[True, False, False, False]]
    """
    lowest = best.min(1, keepdims=True)
    limit = lowest + epsilon * (np.abs(lowest) if relative else 1.0)
    return np.asarray(np.logical_and.accumulate(best <= limit, axis=1))


def bracket(batches: FloatArray, inside: npt.NDArray[np.bool_]) -> FloatArray:
    """(largest batch within, next one) of each row, shape (R, 2): 0 where none is, and inf where all are."""
    ladder = np.concatenate([[0.0], batches, [math.inf]])
    count = inside.sum(1)
    return np.stack([ladder[count], ladder[count + 1]], 1)


def interval_of(ends: FloatArray, confidence: float) -> tuple[float, float]:
    """(low, high) of brackets (low, high) over resamples, shape (R, 2), with measured batches for ends."""
    tail = (1.0 - confidence) / 2.0
    low = np.quantile(ends[:, 0], tail, method="inverted_cdf")
    high = np.quantile(ends[:, 1], 1.0 - tail, method="inverted_cdf")
    return float(low), float(high)


def _at(batches: FloatArray, best: FloatArray, epsilon: float, relative: bool) -> tuple[float, float, float]:
    low, high = bracket(batches, within(best, epsilon, relative))[0]
    return epsilon, float(low) or math.nan, float(high)


def _judge(losses: Sequence[BudgetLoss], ends: FloatArray, epsilon: float, relative: bool) -> tuple[FitStatus, str]:
    edges = [loss.batch_size for loss in losses if loss.lr_edge and loss.batch_size <= ends[1]]
    if edges:
        return "not_identified", (
            f"the best learning rate is the smallest, largest or only one of its grid at batch {listed(edges)}, so a "
            "better loss may be possible there; widen the learning-rate grid."
        )
    how = f"{percent(epsilon)} of the best loss" if relative else f"{number(epsilon)} of the best loss"
    if not ends[0]:
        return (
            "not_identified",
            f"even the smallest batch, {losses[0].batch_size:,}, is not within {how}: add smaller ones.",
        )
    if not losses[0].gap and ends[0] == losses[0].batch_size:
        return (
            "not_identified",
            f"the smallest batch, {losses[0].batch_size:,}, is the best and {ends[1]:,.0f} is not within {how}: add "
            "smaller ones, which may be better still.",
        )
    if math.isinf(ends[1]):
        return "not_identified", f"every batch is within {how}, so it is {ends[0]:,.0f} or more: add larger ones."
    return "ok", f"batches up to {ends[0]:,.0f} are within {how} at equal samples, and {ends[1]:,.0f} is not."


def _judge_interval(interval: tuple[float, float] | None, confidence: float, reason: str) -> tuple[FitStatus, str]:
    """`ok` and its reason, or why the interval says too little."""
    if interval is None:
        return (
            "not_identified",
            "no batch was run with a second seed, so nothing says how far its loss moves by chance; run at least two.",
        )
    low, high = interval
    if low == 0.0 or math.isinf(high):
        side = "below the smallest" if low == 0.0 else "above the largest"
        return (
            "not_identified",
            f"the {level(confidence)} interval reaches {side} batch; measure more seeds, or more batch sizes there.",
        )
    return "ok", reason


def _warnings(losses: Sequence[BudgetLoss], upper: float) -> list[str]:
    notes = []
    beyond = [loss.batch_size for loss in losses if loss.lr_edge and loss.batch_size > upper]
    if beyond:
        notes.append(f"the best learning rate is at the edge of its grid at batch {listed(beyond)}.")
    single = [loss.batch_size for loss in losses if loss.seeds == 1]
    if len(single) == len(losses):
        notes.append("one seed only at every batch, so there is no interval.")
    elif single:
        notes.append(
            f"one seed only at batch {listed(single)}: its loss is taken to move as far as that of the others."
        )
    return notes
