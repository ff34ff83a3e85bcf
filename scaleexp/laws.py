"""The laws that a fit or a simulator rests on, as pure functions of numbers or arrays.

Symbols: B global batch [samples], S optimizer steps to target, E = B S samples to target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatOrArray = float | npt.NDArray[np.float64]


def steps_to_target(batch_size: FloatOrArray, s_min: FloatOrArray, b_crit: FloatOrArray) -> FloatOrArray:
    """Steps to target, S = S_min (1 + B_crit / B) (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.11).

    Args:
        batch_size: B [samples].
        s_min: steps needed by an unboundedly large batch.
        b_crit: critical batch size [samples].

    >>> steps_to_target(64.0, s_min=100.0, b_crit=64.0)
    200.0
    """
    return s_min * (1.0 + b_crit / batch_size)


def samples_to_target(batch_size: FloatOrArray, e_min: FloatOrArray, b_crit: FloatOrArray) -> FloatOrArray:
    """Samples to target, E = E_min (1 + B / B_crit), the same curve with E_min = S_min B_crit.

    >>> samples_to_target(64.0, e_min=6400.0, b_crit=64.0)
    12800.0
    """
    return e_min * (1.0 + batch_size / b_crit)


def statistical_efficiency(batch_size: FloatOrArray, b_crit: FloatOrArray) -> FloatOrArray:
    """Share of the samples that a run at batch B would need at B -> 0: E_min / E = 1 / (1 + B / B_crit).

    >>> statistical_efficiency(100.0, b_crit=300.0)
    0.75
    """
    return 1.0 / (1.0 + batch_size / b_crit)


def overhead_batch(delta: float, reference_batch: float, b_crit: FloatOrArray) -> FloatOrArray:
    """Batch at which steps exceed linear scaling from a reference batch by the share `delta`.

    The definition is Zhang et al.'s (2024, arXiv:2410.21676). On the curve above it is exactly
    (1 + delta) B_ref + delta B_crit.

    >>> round(overhead_batch(0.2, 4.0, 100.0), 9)
    24.8
    """
    return (1.0 + delta) * reference_batch + delta * b_crit


def first_confirmed(values: Sequence[float], target: float, direction: Literal["min", "max"]) -> int | None:
    """Index of the first evaluation that meets the target and is confirmed by the next one; None if there is none.

    A single lucky evaluation does not end a run. NaN meets nothing.

    >>> first_confirmed([2.0, 0.9, 1.1, 0.8, 0.7], target=1.0, direction="min")
    3
    >>> first_confirmed([2.0, 0.9], target=1.0, direction="min") is None
    True
    """
    v = np.asarray(values, dtype=np.float64)
    met = v <= target if direction == "min" else v >= target
    confirmed = np.flatnonzero(met[:-1] & met[1:])
    return int(confirmed[0]) if confirmed.size else None


def interpolated_crossing(before: tuple[float, float], after: tuple[float, float], target: float) -> float:
    """Samples at which the straight line between two evaluations meets the target.

    Args:
        before: (samples, value) of the last evaluation that missed it.
        after: (samples, value) of the evaluation that met it.
        target: the value looked for, between the two.

    >>> interpolated_crossing((100.0, 2.0), (200.0, 1.0), 1.5)
    150.0
    """
    (x0, y0), (x1, y1) = before, after
    if not np.isfinite(y0) or y0 == y1:
        return x1
    return x0 + (x1 - x0) * float(np.clip((target - y0) / (y1 - y0), 0.0, 1.0))
