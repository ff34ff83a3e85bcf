"""What communication and waiting cost, in closed form: collectives, their overlap with the backward pass, stragglers.

Everything broadcasts over arrays. Bytes, seconds, bytes per second; p ranks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

FloatArray = npt.NDArray[np.float64]
Numbers = float | npt.ArrayLike
Parallelism = Literal["ddp", "fsdp"]

_GRID = np.linspace(0.0, 9.0, 1801)
"""Standard deviations; the normal distribution has nothing beyond."""


def ring_all_reduce_s(size_bytes: Numbers, p: Numbers, bytes_per_s: Numbers, latency_s: Numbers = 0.0) -> FloatArray:
    """Ring all-reduce: 2 (p - 1) / p V / bandwidth + 2 (p - 1) latency (Patarasuk & Yuan 2009).

    >>> float(ring_all_reduce_s(1e9, 4, 1e9, 0.01))
    1.56
    """
    size, ranks, rate, wait = _arrays(size_bytes, p, bytes_per_s, latency_s)
    return 2 * (ranks - 1) / ranks * size / rate + 2 * (ranks - 1) * wait


def tree_all_reduce_s(size_bytes: Numbers, p: Numbers, bytes_per_s: Numbers, latency_s: Numbers = 0.0) -> FloatArray:
    """Pipelined double binary tree: 2 V / bandwidth + 2 log2(p) latency (Sanders et al. 2009; NCCL since 2.4).

    >>> float(tree_all_reduce_s(1e9, 4, 1e9, 0.01)), float(tree_all_reduce_s(1e9, 1, 1e9, 0.01))
    (2.04, 0.0)
    """
    size, ranks, rate, wait = _arrays(size_bytes, p, bytes_per_s, latency_s)
    return np.where(ranks > 1, 2 * size / rate, 0.0) + 2 * np.log2(ranks) * wait


def hierarchical_all_reduce_s(
    size_bytes: Numbers,
    p: Numbers,
    nodes: Numbers,
    inside_bytes_per_s: Numbers,
    between_bytes_per_s: Numbers,
    latency_s: Numbers = 0.0,
) -> FloatArray:
    """A ring inside each node, then one between nodes over what each rank of a node holds: V / (p / nodes).

    `between_bytes_per_s` is that of one rank's share of the network card; `latency_s` is per hop between nodes.

    >>> float(hierarchical_all_reduce_s(1e9, 8, 2, 1e10, 1e9))
    0.4
    """
    size, ranks, machines, inside, between, wait = _arrays(
        size_bytes, p, nodes, inside_bytes_per_s, between_bytes_per_s, latency_s
    )
    local = ranks / machines
    return ring_all_reduce_s(size, local, inside) + ring_all_reduce_s(size / local, machines, between, wait)


def volume_ratio(parallelism: Parallelism, accumulation_steps: Numbers = 1) -> FloatArray:
    """Bytes that a step moves, over those of one ring all-reduce of the gradients, 2 (p - 1) / p V.

    `fsdp` gathers the parameters for the forward and again for the backward pass and scatters the gradients, each
    (p - 1) / p V, in every micro-batch (Zhao et al. 2023, arXiv:2304.11277); `ddp` reduces once a step.

    >>> float(volume_ratio("fsdp", 2)), float(volume_ratio("ddp", 2))
    (3.0, 1.0)
    """
    steps = np.asarray(accumulation_steps, float)
    return 1.5 * steps if parallelism == "fsdp" else np.ones_like(steps)


def exposed_in_buckets_s(window_s: Numbers, communication_s: Numbers, buckets: Numbers) -> FloatArray:
    """Communication that outlasts a backward pass of `window_s`, reduced in equal buckets as they get ready.

    Bucket i of n is ready at i/n of the window and waits for the one before: the last ends at
    max over i of (i W + (n - i + 1) N) / n, which is linear in i, so max(W + N / n, W / n + N); less W.

    >>> float(exposed_in_buckets_s(1.0, 0.5, 10)), float(exposed_in_buckets_s(1.0, 2.0, 10))
    (0.05, 1.1)
    """
    window, moved, n = _arrays(window_s, communication_s, buckets)
    return np.maximum(moved / n, moved - window * (n - 1) / n)


def exposed_s(window_s: Numbers, communication_s: Numbers, sharpness: Numbers) -> FloatArray:
    """The same for overlap of any quality: (W^g + N^g)^(1/g) - W; g = 1 hides nothing, g -> inf all that fits.

    The smooth maximum of Pollux (Qiao et al. 2021, arXiv:2008.12260), here over the part of the computation that
    communication may hide behind.

    >>> float(exposed_s(1.0, 0.5, 1.0)), round(float(exposed_s(1.0, 0.5, 4.0)), 4)
    (0.5, 0.0153)
    """
    window, moved, g = _arrays(window_s, communication_s, sharpness)
    most = np.maximum(np.maximum(window, moved), 1e-300)
    return most * ((window / most) ** g + (moved / most) ** g) ** (1 / g) - window


def expected_maximum(p: Numbers) -> FloatArray:
    """Expected maximum of p independent standard normals: how far the slowest of p workers is behind the mean one.

    A step of p workers whose times are mean m and standard deviation s takes m + s E_p. By the integral
    E_p = int_0^inf (1 - F^p - (1 - F)^p) dz, F the normal distribution function (from E = int z dF^p, by parts).

    >>> [round(float(e), 4) for e in expected_maximum([1, 2, 4, 64])]
    [0.0, 0.5642, 1.0294, 2.3437]
    """
    ranks = np.asarray(p, float)
    distinct, where = np.unique(ranks, return_inverse=True)
    below = ndtr(_GRID)
    inside = 1 - below ** distinct[:, None] - (1 - below) ** distinct[:, None]
    found = (inside[:, 1:] + inside[:, :-1]).sum(axis=1) * (_GRID[1] / 2)
    return np.asarray(found[where].reshape(ranks.shape))


def _arrays(*numbers: Numbers) -> tuple[FloatArray, ...]:
    return tuple(np.asarray(x, float) for x in numbers)
