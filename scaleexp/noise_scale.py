"""What a step measures for the gradient noise scale; the estimates themselves are the analysis's.

A global batch of B samples is cut into n shards of b = B / n samples. With g_s the gradient of shard s,
m = mean_s |g_s|^2 and M = |mean_s g_s|^2 are logged, and (McCandlish et al. 2018, arXiv:1812.06162, appendix A)

    |G|^2 = (B M - b m) / (B - b),      tr(Sigma) = (m - M) / (1/b - 1/B)

are unbiased. Both are averaged over steps before they are divided. Squares are taken before averaging over shards,
and before clipping, weight decay and momentum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shard_count(batch_size: int, *, at_most: int, processes: int = 1) -> int | None:
    """Number of shards a batch is cut into: the most that divide it evenly, whole per process; None if none do.

    >>> shard_count(1024, at_most=8), shard_count(6, at_most=8), shard_count(9, at_most=8), shard_count(1, at_most=8)
    (8, 6, 3, None)
    >>> shard_count(12, at_most=8, processes=4)
    4
    """
    fitting = [n for n in range(2, max(at_most, processes) + 1) if batch_size % n == 0 and n % processes == 0]
    return max(fitting, default=None)


def squared_norms(grads: Sequence[Tensor]) -> Tensor:
    """Squared norm over all parameters of stacked gradients (K, ...), in float64; shape (K,)."""
    total = torch.zeros(grads[0].shape[0], dtype=torch.float64, device=grads[0].device)
    for g in grads:
        total += torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) ** 2
    return total


def estimates(small: float, big: float, *, shard_size: int, batch_size: int) -> tuple[float, float]:
    """Unbiased (|G|^2, tr(Sigma)) of one step from its mean squared shard norm m and squared mean norm M.

    >>> estimates(3.0, 2.0, shard_size=1, batch_size=2)
    (1.0, 2.0)
    """
    g_sq = (batch_size * big - shard_size * small) / (batch_size - shard_size)
    tr_sigma = (small - big) / (1.0 / shard_size - 1.0 / batch_size)
    return g_sq, tr_sigma
