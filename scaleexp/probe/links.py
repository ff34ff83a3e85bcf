"""All-reduce times -> bandwidth and latency of the link between workers of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from scaleexp.probe.repeats import FloatArray, resampled
from scaleexp.simulate.collectives import ring_all_reduce_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """All-reduce = 2 (p - 1) latency_s + 2 (p - 1) / p bytes / bytes_per_s, as of a ring.

    Attributes:
        bytes_per_s: inf where more bytes took no longer.
        bytes_per_s_interval, latency_s_interval: at the probe's confidence.
        worst_error: largest relative deviation of the line from a median that was measured.
    """

    bytes_per_s: float
    bytes_per_s_interval: tuple[float, float]
    latency_s: float
    latency_s_interval: tuple[float, float]
    worst_error: float


def link(workers: Sequence[int], size_bytes: Sequence[float], seconds: FloatArray) -> Link:
    """Relative least squares, no coefficient negative.

    Args:
        workers: p of each configuration.
        size_bytes: likewise.
        seconds: shape (rounds, configurations).

    >>> found = link([2, 2], [1e3, 1e6], np.array([[0.0011, 0.0110]] * 5))
    >>> round(found.latency_s, 7), round(found.bytes_per_s / 1e6, 1)
    (0.000545, 100.9)
    """
    p, size = np.asarray(workers, float), np.asarray(size_bytes, float)

    def fitted(rounds: npt.NDArray[np.int_]) -> tuple[float, float]:
        medians = np.median(seconds[rounds], axis=0)
        columns = np.stack([2 * (p - 1), 2 * (p - 1) / p * size / size.max()]) / medians
        (latency, transfer), _ = nnls(columns.T, np.ones(len(p)))
        return float(latency), float(size.max() / transfer) if transfer > 0 else float("inf")

    n = len(seconds)
    latency, rate = fitted(np.arange(n))
    line = ring_all_reduce_s(size, p, rate, latency)
    return Link(
        bytes_per_s=rate,
        bytes_per_s_interval=resampled(n, lambda rounds: fitted(rounds)[1]),
        latency_s=latency,
        latency_s_interval=resampled(n, lambda rounds: fitted(rounds)[0]),
        worst_error=float(np.max(np.abs(line / np.median(seconds, axis=0) - 1))),
    )
