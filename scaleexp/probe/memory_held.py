"""Peak memory of a step against worker batch, extrapolated to what there is, and a step there to check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaleexp.errors import InfeasibleError
from scaleexp.probe import worker
from scaleexp.probe.largest_batch import Growth, growth
from scaleexp.probe.processes import OutOfMemoryError, on_workers

if TYPE_CHECKING:
    from scaleexp.config import Study

_LONGEST_S, _LONGEST_CHECK_S = 2.0, 20.0
"""Seconds of a step up to which memory is measured, the extrapolation checked."""
_MOST_SIZES = 40
_CHECKS = 4
_SMALLER = 0.9
"""A batch that did not fit is followed by one so many times as large."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A step at a batch that should just fit.

    Attributes:
        worker_batch: samples.
        peak_bytes: measured; None where memory ran out.
    """

    worker_batch: int
    peak_bytes: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peak memory against worker batch, of one process.

    Attributes:
        rows: {"worker_batch", "peak_bytes", "step_time_s"}, repeats one by one.
        limit_bytes: that a process may take.
        free_bytes: that were free.
        on_gpu: whose memory it is.
        growth: the line through the larger batches.
        at_most: samples there are for one worker; None for a stream without end.
        checks: of the largest batch, the last one being what holds.
        exhausted_at: the batch at which memory ran out while it was measured; None where it did not.
    """

    rows: Sequence[Row]
    limit_bytes: float
    free_bytes: float
    on_gpu: bool
    growth: Growth
    at_most: int | None
    checks: Sequence[Check]
    exhausted_at: int | None = None

    @property
    def most(self) -> tuple[int | None, str]:
        """(Samples that cannot be exceeded, what sets that bound: memory or data)."""
        if self.exhausted_at is not None:
            return self.exhausted_at - 1, "memory"
        return self.at_most, "data"

    def fits(self, check: Check) -> bool:
        """Whether a step stayed under the limit."""
        return check.peak_bytes is not None and check.peak_bytes <= self.limit_bytes


def measure_memory(
    study: Study, sizes: Sequence[int], at_most: int | None, limit_bytes: float | None, sharing: int
) -> Memory:
    """Growth, its extrapolation to the limit, and a step there.

    Args:
        study: whose steps.
        sizes: worker batches to try, ascending.
        at_most: samples there are for one worker; None for a stream without end.
        limit_bytes: that a process may take; None for a part of what is free.
        sharing: processes that share the memory of the host.

    Raises:
        InfeasibleError: not one step fits.
    """
    rows: list[Row] = []
    limit: Row = {}
    exhausted_at: int | None = None
    sizes = sizes if not study.batch_norm else [b for b in sizes if b > 1]
    arguments = {
        "study": study,
        "sizes": tuple(sizes[:_MOST_SIZES]),
        "limit_bytes": limit_bytes,
        "sharing": sharing,
        "longest_s": _LONGEST_S,
    }
    try:
        for message in on_workers(1, worker.grow_memory, arguments):
            if isinstance(message, list):
                rows += message
            else:
                limit = message
    except OutOfMemoryError:
        if not rows:
            raise InfeasibleError(
                "not one step fits into memory: give the probe more, or take a smaller model."
            ) from None
        exhausted_at = next((b for b in sizes if b > rows[-1]["worker_batch"]), None)
    held = _growth(rows)
    made = Memory(rows=rows, growth=held, at_most=at_most, checks=(), exhausted_at=exhausted_at, **limit)
    return replace(made, checks=_checked(study, made))


def _growth(rows: Sequence[Row]) -> Growth:
    return growth([row["worker_batch"] for row in rows], [row["peak_bytes"] for row in rows])


def _checked(study: Study, memory: Memory) -> list[Check]:
    """Steps in fresh processes at what should just fit, smaller after each that did not."""
    group = study.batch_norm if isinstance(study.batch_norm, int) else 1
    last, held, (most, by) = memory.rows[-1], memory.growth, memory.most
    in_time = int(last["worker_batch"] * _LONGEST_CHECK_S / last["step_time_s"])
    beyond = last["worker_batch"] if most is None or by == "memory" else most  # where memory was not seen to grow
    fits = held.largest(memory.limit_bytes)[0] if held.identified else beyond
    wanted = min(fits, in_time, most or fits) // group * group
    done: list[Check] = []
    while wanted > 0 and len(done) < _CHECKS and not any(memory.fits(check) for check in done):
        done.append(_held(study, wanted))
        wanted = int(wanted * _SMALLER) // group * group
    return done


def _held(study: Study, worker_batch: int) -> Check:
    """One step in a process of its own."""
    arguments = {"study": study, "worker_batch": worker_batch}
    try:
        ((row,),) = on_workers(1, worker.hold_memory, arguments)
    except OutOfMemoryError:
        return Check(worker_batch=worker_batch, peak_bytes=None)
    return Check(worker_batch=worker_batch, peak_bytes=float(row["peak_bytes"]))
