"""What an engine is: it steps a pack of K >= 1 trials together; one training loop drives them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

FloatArray = npt.NDArray[np.float64]

TrialState = dict[str, Tensor]
"""One trial between two steps, the same from every engine: `model.NAME` for parameters and buffers,
`optimizer.SLOT.NAME` for what the optimizer keeps of a parameter, `optimizer.steps`. Sample order and dropout have no
state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseMeasurement:
    """Gradient norms of one step.

    Attributes:
        small: mean over shards, weighted by size, of |g_s|^2, shape (K,).
        big: |mean over samples|^2, the squared norm of the global-batch gradient, shape (K,).
        shards: n, shards per global batch, of B // n or B // n + 1 samples each.
        layers: the same two by parameter name, where they were asked for.
    """

    small: FloatArray
    big: FloatArray
    shards: int
    layers: Mapping[str, tuple[FloatArray, FloatArray]] | None = None


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
    """K trials that share model, batch size and optimizer and differ in seed, learning rate and other scalars.

    Attributes:
        realisation: everything chosen before step 0 that can move a last bit: engine, kernel, threads, device, ...
        timings: what those choices rest on [seconds]; measured, so no two runs have the same.
        n_parameters: trained parameters of one trial's model.
        leader: whether this process writes the rows (rank 0).
    """

    realisation: dict[str, Any]
    timings: dict[str, float]
    n_parameters: int
    leader: bool

    def step(self, start: int, stop: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """Train every trial on samples [start, stop), a global batch, at its learning rate, shape (K,)."""
        ...

    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric on the whole held-out set, shape (K,) each."""
        ...

    def distances(self) -> FloatArray:
        """Distance of every trial's trained parameters from their initialisation, after a resume too, shape (K,)."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every trial but these rows; their order is kept."""
        ...

    def states(self, rows: Sequence[int] | None = None) -> list[TrialState]:
        """Copies of the state of these trials, or of all; every process of a trial calls this."""
        ...

    def restore(self, states: Sequence[TrialState]) -> None:
        """Go on from these states, one per trial, whichever engine and however many workers they came from."""
        ...

    def seconds(self, batch_size: int) -> tuple[float, float]:
        """Seconds of the gradients of a plain step and of a measuring one; trains nothing."""
        ...
