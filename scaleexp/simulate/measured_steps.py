"""Step times of a study that was not run to measure them: its virtual workers, and its real ones where it has some."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from scaleexp.errors import NotEnoughDataError
from scaleexp.simulate.asked import Times
from scaleexp.simulate.fitting import fit_groups
from scaleexp.simulate.step_time import StepTimeModel
from scaleexp.simulate.study_rows import study_rows
from scaleexp.simulate.tables import grouped


class Measured(Protocol):
    """Steps of one engine and one split of the batch."""

    @property
    def engine(self) -> str:
        """Packed for virtual workers, ddp for real ones."""

    @property
    def workers(self) -> int:
        """Of the trials."""

    @property
    def micro_batch(self) -> int:
        """Samples at once."""

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of a step."""

    @property
    def step_s(self) -> float:
        """Median seconds of a step."""

    @property
    def sync_s(self) -> float:
        """Median seconds of exposed communication in it; nan where none was timed."""


def fitted_times(directory: str) -> Times | None:
    """A model of step times fitted to a study's real workers; None where it has too few of them.

    What passed through a worker at once is all that is known to fit. Where every trial gave its workers as many
    samples, nothing tells what fewer or more would take, so that no other worker batch is looked at.

    Raises:
        StorageError: a study that cannot be read.
    """
    try:
        rows = study_rows(directory)
        groups = fit_groups(grouped(rows, ()))
    except NotEnoughDataError:
        return None
    batches = {int(row.numbers["worker_batch"]) for row in rows}
    micro_batch = max(int(row.numbers["worker_batch"] / row.numbers["accumulation_steps"]) for row in rows)
    return Times(
        times=StepTimeModel(groups=groups),
        name="the study's own real workers",
        worker_batches=tuple(batches) if len(batches) == 1 else (),
        max_micro_batch=micro_batch,
        workers_per_node=max(int(row.numbers["workers"] / row.numbers["nodes"]) for row in rows),
    )


def own_times(rows: Sequence[Measured]) -> Times | None:
    """Step times from what a study logged; None where it logged too little.

    Virtual workers share a machine, so a step of theirs at batch B is one of a single worker with all of it: t = a +
    c B. Real workers give the time that a step takes beside that, and the communication, which is carried to other
    numbers of workers as a ring of the same speed, 2 (p - 1) / p V / bandwidth.
    """
    virtual = [(r.workers * r.micro_batch * r.accumulation_steps, r.step_s) for r in rows if r.engine == "packed"]
    real = [r for r in rows if r.engine == "ddp" and r.workers > 1 and isfinite(r.sync_s)]
    if len({batch for batch, _ in virtual}) < 2:
        return None
    fixed, each = _line(virtual)
    if not real:
        model = StepTimeModel.by_hand(compute_fixed_s=fixed, compute_per_sample_s=each)
        why = "virtual workers alone were timed, on one machine, so that no communication is counted"
        return Times(times=model, name="the study's own virtual workers, on its machine", unmeasured=why)
    most = max(real, key=lambda r: r.workers)
    beside = float(np.median([r.step_s - r.sync_s - each * r.micro_batch * r.accumulation_steps for r in real]))
    transfer = most.sync_s * most.workers / (2 * (most.workers - 1))
    model = StepTimeModel.by_hand(
        compute_fixed_s=max(beside, 0.0), compute_per_sample_s=each, transfer_s=max(transfer, 0.0)
    )
    why = f"measured on {most.workers} workers alone, and carried to other numbers as a ring of the same speed"
    return Times(times=model, name=f"the study's own steps on {most.workers} real workers", unmeasured=why)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, c), neither negative, of t = a + c B with the least relative residuals.

    >>> [round(x, 6) for x in _line([(10.0, 2.0), (20.0, 3.0), (40.0, 5.0)])]
    [1.0, 0.1]
    """
    batch, seconds = np.array(points, dtype=np.float64).T
    (fixed, each), _ = nnls(np.stack([1.0 / seconds, batch / seconds], axis=1), np.ones(len(points)))
    return float(fixed), float(each)
