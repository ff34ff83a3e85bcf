"""From evaluations to steps to target: crossings with their brackets, censored runs, best LR per batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run against one target.

    Attributes:
        key: trial key.
        seed, batch_size, workers, lr: of the trial.
        reached: whether the target was met and confirmed.
        samples: interpolated samples to target; for a run that did not reach it, the samples at which it is censored.
        bracket: (last evaluation that missed, first that met) [samples]; (samples, inf) for a censored run.
        status: the trial's status in the log (reached | limit | diverged | stopped | failed | running).
    """

    key: str
    seed: int
    batch_size: int
    workers: int
    lr: float
    reached: bool
    samples: float
    bracket: tuple[float, float]
    status: str

    @property
    def steps(self) -> float:
        """Samples over batch size."""
        return self.samples / self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPoint:
    """One batch size at its best learning rate.

    Attributes:
        batch_size: B [samples].
        workers: workers of these trials.
        lr: the grid LR with the fewest median steps.
        lr_optimum: vertex of the parabola in log LR through the best three; None at an edge of the grid.
        lr_edge: "low" or "high" when the best LR is the smallest or largest of the grid, so that the truth may lie outside.
        steps: aggregate over seeds of the steps to target at `lr`.
        samples: the same in samples.
        runs: every run at `lr`, censored ones included.
        lr_curve: (lr, median steps over seeds, seeds that reached, seeds run) for every LR, ascending; inf when fewer than half reached.
    """

    batch_size: int
    workers: int
    lr: float
    lr_optimum: float | None
    lr_edge: Literal["low", "high"] | None
    steps: float
    samples: float
    runs: tuple[Run, ...]
    lr_curve: tuple[tuple[float, float, int, int], ...]
