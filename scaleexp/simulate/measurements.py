"""Measured step times: what the fit eats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.simulate.collectives import Parallelism
from scaleexp.simulate.forms import Rows

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Step times of one group.

    Attributes:
        rows: configurations, one dimension.
        step_time_s: of one optimizer step each.
        sync_time_s: of it communication that no computation hid, and waiting for slower workers; nan where it was not
            measured.
        grad_bytes: bytes of gradients of a volume of 1; None where it is not known.
        parallelism: of it.
        expected: (form, two nodes apart) -> seconds that each of its terms should cost, of a hardware profile.
    """

    rows: Rows
    step_time_s: FloatArray
    sync_time_s: FloatArray | None = None
    grad_bytes: float | None = None
    parallelism: Parallelism = "ddp"
    expected: Mapping[tuple[str, bool], FloatArray] | None = None

    def __getitem__(self, kept: npt.NDArray[np.bool_]) -> Measurements:
        return Measurements(
            rows=self.rows[kept],
            step_time_s=self.step_time_s[kept],
            sync_time_s=None if self.sync_time_s is None else self.sync_time_s[kept],
            grad_bytes=self.grad_bytes,
            parallelism=self.parallelism,
            expected=self.expected,
        )


def measurements(
    workers: npt.ArrayLike,
    nodes: npt.ArrayLike,
    worker_batch: npt.ArrayLike,
    step_time_s: npt.ArrayLike,
    accumulation_steps: npt.ArrayLike = 1.0,
) -> Measurements:
    """Measurements from arrays, all of one data-parallel job.

    >>> len(measurements([1, 2], 1, 8, [0.1, 0.12]).step_time_s)
    2
    """
    asked = (workers, nodes, worker_batch, step_time_s, accumulation_steps)
    p, n, batch, step, k = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in asked))
    rows = Rows(workers=p, nodes=n, worker_batch=batch, accumulation_steps=k, volume=np.ones(p.shape))
    return Measurements(rows=rows, step_time_s=step)
