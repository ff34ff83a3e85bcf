"""The local critical batch size at one point of training, with its interval over seeds and its status."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.branched import branched_batch
from analysis.defaults import FitStatus
from analysis.fixed_budget import EPSILONS, bracket, interval_of
from analysis.jsonable import json_interval, json_safe
from analysis.wording import count, number
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """One branch: its global batch [samples], its seed, and its smoothed loss at the end; nan or inf if it diverged."""

    batch_size: int
    seed: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchLoss:
    """All branches of one batch size.

    Attributes:
        batch_size: B [samples].
        multiple: k = B over the smallest batch.
        value: mean loss over seeds; inf where one diverged.
        gap: that minus the loss of the smallest batch.
        seeds: branches.
        probability: share of the resamples in which it and all smaller ones keep up; None where no batch has two seeds.
    """

    batch_size: int
    multiple: float
    value: float
    gap: float
    seeds: int
    probability: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalBatch:
    """Largest B whose branches lose at most epsilon to those of the smallest batch, as all smaller ones do.

    Merrill et al. 2025 (arXiv:2505.23971).

    Attributes:
        branch_samples: where all branches begin [samples].
        batch: that B [samples]; nan where it is only bounded.
        base_batch: the smallest batch, against which all are held [samples].
        bracket: (B, next measured B) [samples]; low is 0 where no larger batch than the smallest keeps up, high is inf
            where all do.
        interval: (low, high) [samples] of the two ends of the bracket over a bootstrap over seeds; (0, inf) without.
        confidence: of the interval.
        epsilon: tolerance, in the unit of the loss.
        window: samples for which the branches were trained before they are compared; None where the source has the
            end alone.
        half_life: of the smoothing over the window [samples]; None without one.
        losses: one per batch, ascending.
        sensitivity: (epsilon, B, next B) of other tolerances; nan and inf as above.
        status: ok | not_identified.
        reason: one sentence.
        warnings: one sentence each.
    """

    branch_samples: float
    batch: float
    base_batch: int
    bracket: tuple[float, float]
    interval: tuple[float, float]
    confidence: float
    epsilon: float
    window: float | None
    half_life: float | None
    losses: tuple[BranchLoss, ...]
    sensitivity: tuple[tuple[float, float, float], ...]
    status: FitStatus
    reason: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is unbounded or unknown is None."""
        ends = {name: json_interval(getattr(self, name)) for name in ("interval", "bracket")}
        return json_safe(asdict(self) | ends)  # type: ignore[no-any-return]


def local_batch(
    branches: Sequence[Branch],
    *,
    branch_samples: float,
    epsilon: float,
    confidence: float,
    window: float | None = None,
    half_life: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> LocalBatch:
    """The local critical batch size of branches that begin at one checkpoint, or at one of each seed.

    Seeds are resampled n - 1 of n: for all batches together where every batch has the same ones, so that what they
    share (a checkpoint, the data) is no noise, and within each batch otherwise.

    Args:
        branches: of every batch; the smallest batch is the base.
        branch_samples: where they begin [samples].
        epsilon: tolerance in the unit of the loss.
        confidence: of the interval, in (0, 1).
        window: samples over which the losses were made, to be told; see `LocalBatch`.
        half_life: of their smoothing, likewise.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ConfigError: no branch, two of one batch size and seed, or a base branch that diverged.

    >>> losses = [(64, 3.0), (128, 3.004), (256, 3.02), (512, 3.05)]
    >>> found = local_batch(
    ...     [Branch(batch_size=b, seed=0, loss=loss) for b, loss in losses],
    ...     branch_samples=1e6, epsilon=0.01, confidence=0.95,
    ... )
    >>> found.batch, found.bracket, found.status
    (128.0, (128.0, 256.0), 'ok')
    """
    where = f"the branches from {count(branch_samples)} samples"
    _refuse_twice(branches, where)
    sizes = sorted({b.batch_size for b in branches})
    by_batch = [sorted((b for b in branches if b.batch_size == size), key=lambda b: b.seed) for size in sizes]
    values = [np.array([b.loss if math.isfinite(b.loss) else math.inf for b in of]) for of in by_batch]
    if not np.isfinite(values[0]).all():
        raise ConfigError(f"{where} have lost a base branch, of batch {sizes[0]:,}: without its loss there is no base.")
    paired = len({tuple(b.seed for b in of) for of in by_batch}) == 1
    found = branched_batch(
        [b.batch_size / sizes[0] for of in by_batch for b in of],
        np.concatenate(values),
        base_batch=float(sizes[0]),
        epsilon=epsilon,
    )
    means = np.array([v.mean() for v in values])
    inside = _resampled(values, paired, epsilon, resamples, np.random.default_rng(seed))
    batches = np.array(sizes, dtype=np.float64)
    ends = _known(bracket(batches, _keeps_up(means[None], epsilon)), sizes[0])[0]
    losses = tuple(
        BranchLoss(
            batch_size=size,
            multiple=size / sizes[0],
            value=float(means[j]),
            gap=float(means[j] - means[0]),
            seeds=values[j].size,
            probability=None if inside is None else float(inside[:, j].mean()),
        )
        for j, size in enumerate(sizes)
    )
    interval = (0.0, math.inf)
    if inside is not None:
        interval = interval_of(_known(bracket(batches, inside), sizes[0]), confidence)
    made = LocalBatch(
        branch_samples=branch_samples,
        batch=float(ends[0]) if ends[0] and math.isfinite(ends[1]) else math.nan,
        base_batch=sizes[0],
        bracket=(float(ends[0]), float(ends[1])),
        interval=interval,
        confidence=confidence,
        epsilon=epsilon,
        window=window,
        half_life=half_life,
        losses=losses,
        sensitivity=tuple(_at(batches, means, e) for e in EPSILONS),
        status="ok",
        reason=found.reason,
        warnings=tuple(_warnings(losses, ends, epsilon, paired)),
    )
    doubt = _doubt(made)
    return replace(made, status="not_identified", reason=doubt) if doubt else made


def _refuse_twice(branches: Sequence[Branch], where: str) -> None:
    often = Counter((b.batch_size, b.seed) for b in branches)
    twice = [key for key, n in often.items() if n > 1]
    if not branches:
        raise ConfigError("there is no branch to compare: give one row or one curve for each.")
    if twice:
        raise ConfigError(
            f"{where} have batch {twice[0][0]:,} with seed {twice[0][1]} more than once: give one for each batch and "
            "seed, at the learning rate that its batch is to have, or group by what differs."
        )


def _keeps_up(means: FloatArray, epsilon: float) -> npt.NDArray[np.bool_]:
    """Whether each batch and every smaller one is within epsilon of the first; shape (R, J)."""
    return np.asarray(np.logical_and.accumulate(means - means[:, :1] <= epsilon, axis=1))


def _known(ends: FloatArray, base: int) -> FloatArray:
    """Brackets, their low end 0 where it is the base itself: that it keeps up with itself says nothing."""
    return np.stack([np.where(ends[:, 0] > base, ends[:, 0], 0.0), ends[:, 1]], 1)


def _resampled(
    values: Sequence[FloatArray], paired: bool, epsilon: float, resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """Whether each batch keeps up in each resample, shape (R, J); None where no batch has two seeds."""
    if max(v.size for v in values) < 2:
        return None

    def picks(seeds: int) -> npt.NDArray[np.int64]:
        return rng.integers(seeds, size=(resamples, max(seeds - 1, 1)))

    shared = picks(values[0].size) if paired else None
    means = [v[picks(v.size) if shared is None else shared].mean(1) for v in values]
    return _keeps_up(np.stack(means, 1), epsilon)


def _at(batches: FloatArray, means: FloatArray, epsilon: float) -> tuple[float, float, float]:
    low, high = _known(bracket(batches, _keeps_up(means[None], epsilon)), int(batches[0]))[0]
    return epsilon, float(low) or math.nan, float(high)


def _doubt(found: LocalBatch) -> str | None:
    """Why the data do not say; None where they do."""
    (low, high), base = found.bracket, found.base_batch
    near = f"{number(found.epsilon)} of the loss of batch {base:,}"
    if len(found.losses) < 2:
        return f"there is one batch size, {base:,}, and nothing to compare it with: branch at larger ones."
    if math.isinf(high):
        return f"every batch up to {found.losses[-1].batch_size:,} is within {near}: branch at larger ones."
    if not low:
        return f"not even batch {high:,.0f} is within {near}, and smaller ones were not tried: branch at some between."
    if len([loss for loss in found.losses if loss.seeds > 1]) and (
        not found.interval[0] or math.isinf(found.interval[1])
    ):
        side = "upper" if math.isinf(found.interval[1]) else "lower"
        return f"seeds differ by more than the tolerance, so that the interval has no {side} end: branch more seeds."
    return None


def _warnings(losses: Sequence[BranchLoss], ends: FloatArray, epsilon: float, paired: bool) -> list[str]:
    notes = []
    again = [loss.batch_size for loss in losses if loss.batch_size > ends[1] and loss.gap <= epsilon]
    if again:
        notes.append(
            f"batch {', '.join(f'{b:,}' for b in again)} keeps up behind one that does not, and does not count: seed "
            "noise, or a learning rate that was not scaled."
        )
    single = [loss.batch_size for loss in losses if loss.seeds == 1]
    if single:
        which = "every batch" if len(single) == len(losses) else f"batch {', '.join(f'{b:,}' for b in single)}"
        notes.append(f"one seed only at {which}: its loss is taken as exact.")
    if not paired:
        notes.append("the batches were not branched with the same seeds: what seeds share counts as noise.")
    return notes
