"""A number of workers with its batch, what it is limited by, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

CAUSES = ("statistics", "compute", "communication", "stragglers", "failures")
"""Of lost worker time, in the order in which it is lost."""
Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """What fails, and what it costs.

    Attributes:
        node_mtbf_s: mean seconds between failures or preemptions of one node; inf for none.
        checkpoint_s: to save a checkpoint, during which no step is taken.
        restart_s: from a failure to the next step.
    """

    node_mtbf_s: float = inf
    checkpoint_s: float = 60.0
    restart_s: float = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a configuration has to keep to.

    Attributes:
        workers_per_node: that share a machine.
        max_micro_batch: samples that fit into a worker's memory at once; None if that is not known.
        worker_batches: the only ones to look at; powers of two if empty.
    """

    workers_per_node: int = 1
    max_micro_batch: int | None = None
    worker_batches: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The best that some number of workers can do; every interval at the confidence that was asked for.

    Attributes:
        workers, nodes, worker_batch, micro_batch, accumulation_steps, batch_size: the configuration.
        steps, samples: to the goal.
        step_time_s: of one step.
        seconds: expected, from start to end, failures included; steps_interval and so on are theirs.
        usd: dollars, None without a price.
        useful: share of the worker time that the fewest samples at the best rate of one worker would take.
        lost: cause -> share; together with `useful` they are 1.
        failures: expected number of them.
        checkpoint_every_s: recommended work between checkpoints; None where none pays.
        work_s: (estimate, low, high) seconds of steps alone.
        status, reason: interpolated | extrapolated, of the step time or of the curve.
        on_front: whether no other row is both faster and cheaper.
    """

    workers: int
    nodes: int
    worker_batch: int
    micro_batch: int
    accumulation_steps: int
    batch_size: int
    steps: float
    steps_interval: Ends
    samples: float
    step_time_s: float
    step_time_interval: Ends
    seconds: float
    seconds_interval: Ends
    usd: float | None
    usd_interval: Ends | None
    useful: float
    lost: dict[str, float]
    failures: float
    checkpoint_every_s: float | None
    work_s: tuple[float, float, float]
    status: str
    reason: str
    on_front: bool
