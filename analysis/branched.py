"""The local critical batch size at one checkpoint, from branches at multiples of the batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchedBatch:
    """Largest multiple k whose loss stays within epsilon of the base, for all smaller k too.

    Merrill et al. 2025 (arXiv:2505.23971): from one checkpoint at batch B, branches at k B with the LR scaled (k for
    SGD, sqrt(k) for Adam) are trained for the same window of samples.

    Attributes:
        multiple: k; 1 where no larger branch keeps up.
        next_multiple: the next branch measured, which no longer keeps up; inf where every branch does.
        base_batch: B of the checkpoint [samples].
        bracket: (k B, next k B) [samples]: the local critical batch size lies between.
        epsilon: how far above the base a loss may lie, in the unit of the loss.
        gaps: (k, loss - loss of the base) of every branch, ascending.
        reason: one sentence.
    """

    multiple: float
    next_multiple: float
    base_batch: float
    bracket: tuple[float, float]
    epsilon: float
    gaps: tuple[tuple[float, float], ...]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is not bounded, or was lost, is None."""

        def safe(x: float) -> float | None:
            return x if math.isfinite(x) else None

        return asdict(self) | {
            "next_multiple": safe(self.next_multiple),
            "bracket": [safe(end) for end in self.bracket],
            "gaps": [[k, safe(gap)] for k, gap in self.gaps],
        }


def branched_batch(
    multiples: npt.ArrayLike, losses: npt.ArrayLike, *, base_batch: float, epsilon: float
) -> BranchedBatch:
    """The local critical batch size of one checkpoint.

    Args:
        multiples: k of every branch, shape (N,), 1 for the base; a multiple given several times (seeds) is averaged.
        losses: smoothed loss at the end of the window, shape (N,), lower is better; nan or inf for a diverged branch.
        base_batch: B of the checkpoint [samples].
        epsilon: tolerance in the unit of the loss; a loss may be this much above that of k = 1.

    Raises:
        ConfigError: no base branch (k = 1) with a finite loss, a multiple below 1, or a tolerance that is not positive.

    >>> found = branched_batch([1, 2, 4, 8, 16], [3.0, 2.995, 3.004, 3.02, 3.001], base_batch=256, epsilon=0.01)
    >>> found.multiple, found.next_multiple, found.bracket
    (4.0, 8.0, (1024.0, 2048.0))
    """
    k, loss = np.asarray(multiples, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if k.ndim != 1 or k.shape != loss.shape:
        raise ConfigError(f"multiples and losses must be two columns of one length, got {k.shape} and {loss.shape}.")
    if not (np.isfinite(k).all() and (k >= 1.0).all() and np.isfinite(loss[k == 1.0]).all() and (k == 1.0).any()):
        raise ConfigError(
            "multiples must be 1 or more, and the base branch (k = 1) needs a loss: branch the base like the others."
        )
    if not (0.0 < epsilon < math.inf and 0.0 < base_batch < math.inf):
        raise ConfigError(f"epsilon and the base batch must be above 0, got {epsilon:g} and {base_batch:g}.")
    distinct = np.unique(k)
    means = np.array([_mean(loss[k == each]) for each in distinct])
    gaps = means - means[0]
    worse = np.flatnonzero(gaps > epsilon)
    last = int(worse[0]) - 1 if worse.size else distinct.size - 1
    multiple = float(distinct[last])
    beyond = float(distinct[last + 1]) if worse.size else math.inf
    if worse.size:
        gap = f"is {gaps[last + 1]:.3g} above it" if math.isfinite(gaps[last + 1]) else "diverged"
        reason = f"up to k = {multiple:g} the loss stays within {epsilon:g} of the base; at k = {beyond:g} it {gap}."
    else:
        reason = f"every branch stays within {epsilon:g} of the base: branch at multiples above {multiple:g}."
    return BranchedBatch(
        multiple=multiple,
        next_multiple=beyond,
        base_batch=base_batch,
        bracket=(multiple * base_batch, beyond * base_batch),
        epsilon=epsilon,
        gaps=tuple(zip(distinct.tolist(), gaps.tolist(), strict=True)),
        reason=reason,
    )


def smoothed_end(samples: Sequence[float], losses: Sequence[float], *, half_life: float) -> float:
    """Exponentially weighted mean of a window's losses, as seen from its end.

    The half-life is in samples, so that branches with few large steps and many small ones are smoothed alike.

    Args:
        samples: at each loss, shape (N,), ascending.
        losses: shape (N,).
        half_life: distance [samples] at which a loss counts half of the last one.

    Raises:
        ConfigError: shapes differ, nothing to average, or a half-life that is not positive.

    >>> smoothed_end([0.0, 100.0], [3.0, 2.4], half_life=100.0)
    2.6
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ConfigError(f"samples and losses must be two columns of one length, got {x.shape} and {y.shape}.")
    if not half_life > 0.0:
        raise ConfigError(f"the half-life must be above 0 samples, got {half_life:g}.")
    weights = np.exp2((x - x[-1]) / half_life)
    return float((weights * y).sum() / weights.sum())


def _mean(losses: FloatArray) -> float:
    """A multiple at which any branch was lost did not keep up."""
    return float(losses.mean()) if np.isfinite(losses).all() else math.inf
