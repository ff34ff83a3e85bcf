"""Peak memory of a step against worker batch, extrapolated to what there is, and a step there to check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    rows: Sequence[Row]
    limit_bytes: float
    free_bytes: float
    on_gpu: bool
    growth: Growth
    at_most: int | None
    checks: Sequence[Check]


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
    held = _growth(rows)
    checks = _checked(study, rows, held, limit["limit_bytes"], at_most)
    return Memory(rows=rows, growth=held, at_most=at_most, checks=checks, **limit)


def _growth(rows: Sequence[Row]) -> Growth:
    return growth([row["worker_batch"] for row in rows], [row["peak_bytes"] for row in rows])


def _checked(study: Study, rows: Sequence[Row], held: Growth, limit_bytes: float, at_most: int | None) -> list[Check]:
    """Steps in fresh processes at what should just fit, smaller after each that did not."""
    group = study.batch_norm if isinstance(study.batch_norm, int) else 1
    last = rows[-1]
    in_time = int(last["worker_batch"] * _LONGEST_CHECK_S / last["step_time_s"])
    fits = held.largest(limit_bytes)[0] if held.identified else last["worker_batch"]
    wanted = min(fits, in_time, at_most or fits) // group * group
    done: list[Check] = []
    while wanted > 0 and len(done) < _CHECKS and not (done and done[-1].peak_bytes is not None):
        done.append(_held(study, wanted, limit_bytes))
        wanted = int(wanted * _SMALLER) // group * group
    return done


def _held(study: Study, worker_batch: int, limit_bytes: float) -> Check:
    """One step in a process of its own."""
    arguments = {"study": study, "worker_batch": worker_batch}
    try:
        ((row,),) = on_workers(1, worker.hold_memory, arguments)
    except OutOfMemoryError:
        return Check(worker_batch=worker_batch, peak_bytes=None)
    return Check(worker_batch=worker_batch, peak_bytes=float(row["peak_bytes"]))
