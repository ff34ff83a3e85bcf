"""The median over seeds where some were not run and some never arrived."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def present_median(values: FloatArray) -> FloatArray:
    """Median over the last axis; nan is absent, and nothing present is inf.

    >>> present_median(np.array([[3.0, np.nan, 1.0], [np.nan] * 3, [1.0, np.inf, np.inf]])).tolist()
    [2.0, inf, inf]
    """
    ordered = np.sort(values, axis=-1)  # nan last, inf before it
    present = (~np.isnan(values)).sum(-1, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(present - 1, 0) // 2, -1)
    high = np.take_along_axis(ordered, np.minimum(present // 2, values.shape[-1] - 1), -1)
    return np.asarray(np.where(present > 0, 0.5 * (low + high), np.inf)[..., 0])
