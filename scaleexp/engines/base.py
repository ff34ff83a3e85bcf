"""What an engine is: it steps a pack of K >= 1 trials together; one training loop drives them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseMeasurement:
    """Gradient norms of one step.

    Attributes:
        small: mean over shards of |g_s|^2, shape (K,).
        big: |mean over shards of g_s|^2, shape (K,).
        shard_size: samples per shard.
        shards: shards per global batch.
    """

    small: FloatArray
    big: FloatArray
    shard_size: int
    shards: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One optimizer step of K trials.

    Attributes:
        loss: mean loss over the global batch before the update, shape (K,).
        noise: gradient norms, where this step measured them.
        data_s: seconds to find and gather the samples.
        compute_s: seconds of forward, backward and update, communication that they hide included.
        sync_s: seconds of gradient synchronisation that nothing hid.
    """

    loss: FloatArray
    noise: NoiseMeasurement | None
    data_s: float
    compute_s: float
    sync_s: float


class Engine(Protocol):
    """K trials that share model, batch size and optimizer and differ in learning rate and seed.

    Attributes:
        realisation: everything chosen before step 0 that can move a last bit: engine, kernel, threads, device, ...
        n_parameters: of one trial's model.
        leader: whether this process writes the rows (rank 0).
    """

    realisation: dict[str, Any]
    n_parameters: int
    leader: bool

    def step(self, start: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """Train every trial on samples [start, start + B) at its learning rate, shape (K,)."""
        ...

    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric on the whole held-out set, shape (K,) each."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every trial but these rows; their order is kept."""
        ...
