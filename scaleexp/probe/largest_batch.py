"""Peak memory against worker batch -> a line -> the largest batch under a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.probe.repeats import CONFIDENCE, FloatArray

_ABOVE = 0.1
"""Of the growth seen: a peak less above the lowest one was held in what the process had already, and says nothing."""
_SURE = 0.995
"""Growth is only called growth where so many draws have it."""
_RESAMPLES = 400
_NOT_SEEN = 0.05
"""Of the memory: what the line leaves out, such as what allocators keep, and another algorithm at another size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Peak bytes = fixed_bytes + bytes_per_sample x worker batch.

    Attributes:
        fixed_bytes: of parameters, optimizer, and on the host everything else that the process holds.
        bytes_per_sample: of inputs, activations and their gradients.
        draws: of both, shape (n, 2), by resampled residuals.
    """

    fixed_bytes: float
    bytes_per_sample: float
    draws: FloatArray

    @property
    def identified(self) -> bool:
        """Whether memory was seen to grow."""
        return bool(self.bytes_per_sample > 0 and np.quantile(self.draws[:, 1], 1 - _SURE) > 0)

    def per_sample_interval(self) -> tuple[float, float]:
        """Of bytes_per_sample, at `CONFIDENCE`."""
        low, high = np.quantile(self.draws[:, 1], [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
        return max(float(low), 0.0), float(high)

    def peak_bytes(self, worker_batch: int) -> tuple[float, tuple[float, float]]:
        """(Peak, its interval) of a batch."""
        drawn = self.draws @ [1.0, worker_batch]
        low, high = np.quantile(drawn, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
        return self.fixed_bytes + self.bytes_per_sample * worker_batch, (
            float(low) * (1 - _NOT_SEEN),
            float(high) * (1 + _NOT_SEEN),
        )

    def largest(self, limit_bytes: float) -> tuple[int, tuple[int, int]]:
        """(Samples that just fit, their interval) under a limit.

        >>> growth([10, 20, 40], [110.0, 120.0, 140.0]).largest(500.0)[0]
        400
        """
        assert self.identified, "without growth there is no largest batch"
        usual = (limit_bytes - self.fixed_bytes) / self.bytes_per_sample
        slopes = np.maximum(self.draws[:, 1], 1e-9 * self.bytes_per_sample)
        ends = np.quantile(
            (limit_bytes - self.draws[:, 0]) / slopes, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]
        ) + _NOT_SEEN * limit_bytes / self.bytes_per_sample * np.array([-1, 1])
        low, high = (max(int(np.floor(end + 1e-6)), 0) for end in ends)
        return max(int(np.floor(usual + 1e-6)), 0), (low, high)


def growth(worker_batch: Sequence[int], peak_bytes: Sequence[float]) -> Growth:
    """Least squares through the batches that show growth: two sizes at least, the largest.

    Args:
        worker_batch: samples, with repeats.
        peak_bytes: of each.

    >>> growth([1, 10, 20, 40], [100.0, 110.0, 120.0, 140.0]).bytes_per_sample
    1.0
    """
    sizes, peaks = np.asarray(worker_batch, float), np.asarray(peak_bytes, float)
    kept = np.isin(sizes, _growing(sizes, peaks))
    sizes, peaks = sizes[kept], peaks[kept]
    fixed, slope = _line(sizes, peaks)
    residuals = peaks - fixed - slope * sizes
    # Residuals of a fit are smaller than those of the truth: two numbers were fitted.
    residuals = residuals * np.sqrt(len(sizes) / max(len(sizes) - 2, 1))
    rng = np.random.default_rng(0)
    drawn = [_line(sizes, fixed + slope * sizes + rng.choice(residuals, len(sizes))) for _ in range(_RESAMPLES)]
    return Growth(fixed_bytes=round(fixed, 6), bytes_per_sample=round(slope, 6), draws=np.array(drawn))


def _growing(sizes: FloatArray, peaks: FloatArray) -> FloatArray:
    """Sizes above the plateau of what was held anyway."""
    each = np.unique(sizes)
    medians = np.array([np.median(peaks[sizes == size]) for size in each])
    above = medians - medians.min() > _ABOVE * (medians[-1] - medians.min())
    flat = np.flatnonzero(~above)
    first = min(flat[-1] + 1 if flat.size else 0, max(len(each) - 2, 0))
    return each[first:]


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread if spread else 0.0
    return float(y.mean() - slope * x.mean()), slope
