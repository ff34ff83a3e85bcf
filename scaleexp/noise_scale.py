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


def shard_count(batch_size: int, *, at_most: int, workers: int = 1, real: bool = False) -> int | None:
    """Number of shards that a batch is cut into where its gradient norms are measured; None if none is fit.

    Shards are whole workers or whole parts of one: the most up to `at_most`, or else the fewest beyond it, up to eight
    times as many. Real and virtual workers get the same shards as long as there are no more workers than `at_most`;
    beyond, virtual workers share a shard, and a real one is a shard, for its gradient exists on its own process.

    >>> shard_count(1024, at_most=8), shard_count(24, at_most=8, workers=3), shard_count(1, at_most=8)
    (8, 6, None)
    >>> shard_count(64, at_most=8, workers=16), shard_count(64, at_most=8, workers=16, real=True)
    (8, 16)
    >>> shard_count(11, at_most=8)
    11
    """
    whole = [n for n in range(2, min(batch_size, 8 * at_most) + 1) if batch_size % n == 0]
    fit = [n for n in whole if n % workers == 0 or (not real and workers % n == 0)]
    small = [n for n in fit if n <= at_most]
    return max(small) if small else min(fit, default=None)


def squared_norms(grads: Sequence[Tensor]) -> Tensor:
    """Squared norm over all parameters of stacked gradients (K, ...), in float64; shape (K,)."""
    total = torch.zeros(grads[0].shape[0], dtype=torch.float64, device=grads[0].device)
    for g in grads:
        total += torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) ** 2
    return total
