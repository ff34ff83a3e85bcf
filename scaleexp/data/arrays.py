"""A labelled data set held in memory, already split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledArrays:
    """Training and held-out examples.

    Attributes:
        x_train: inputs, shape (D, ...), float32, standardised by the training set's mean and deviation.
        y_train: class numbers, shape (D,), int64.
        x_eval: held-out inputs, shape (M, ...).
        y_eval: held-out class numbers, shape (M,).
        classes: number of classes.
        sha256: of the stored bytes and of everything done to them (split, shuffling).
    """

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_eval: npt.NDArray[np.float32]
    y_eval: npt.NDArray[np.int64]
    classes: int
    sha256: str
