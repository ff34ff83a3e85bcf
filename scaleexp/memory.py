"""What did not fit into memory, and the next smaller way to compute the same.

A process that runs out of memory notes how many samples it held, in the study, and ends or begins again; what begins
next passes fewer samples through the model at once and accumulates their gradients, on every process alike. The global
batch never changes, nor does any statistic: where examples are coupled, nothing smaller is the same.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress

from scaleexp import schema
from scaleexp.facts import utc_now
from scaleexp.storage import Store

MOST_TRIES = 16
"""Times that a group of processes may run out of memory: more halvings than any batch has."""

_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc", "STATUS_ALLOC_FAILED")


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out, of this machine or of its GPU.

    >>> exhausted(MemoryError()), exhausted(RuntimeError("CUDA out of memory")), exhausted(ValueError("out of range"))
    (True, True, False)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text.lower() in str(error).lower() for text in _SAID)


def killed(cause: str) -> bool:
    """Whether Ray says that it has killed a process for lack of memory.

    >>> killed("1 worker(s) were killed due to the node running low on memory. Memory on the node ...")
    True
    """
    return "running low on memory" in cause


def told(cause: str) -> str:
    """What Ray says of a process that it has killed for lack of memory, in one sentence; any other cause as it is.

    >>> told("ValueError: 3")
    'ValueError: 3'
    >>> told("1 worker(s) were killed due to the node running low on memory. Memory on the node ...")[:34]
    'killed because its node ran out of'
    """
    if killed(cause):
        return (
            "killed because its node ran out of memory: give Ray fewer CPUs, so that fewer trials run at once, or set "
            "accumulation_steps, so that fewer samples are held at once"
        )
    return cause


def refuse(store: Store, engine: str, processes: int, samples: int, error: BaseException) -> None:
    """Note that a process of an engine could not hold so many samples; several may say so.

    Args:
        store: the study.
        engine: of the trial.
        processes: that it ran on.
        samples: of all trials of a process that passed through their models together.
        error: what said so.
    """
    with suppress(FileExistsError):
        store.write_json(
            f"{schema.MEMORY_DIR}/{engine}-{processes}-{samples}.json",
            {
                "schema_version": schema.SCHEMA_VERSION,
                "samples": samples,
                "cause": f"{type(error).__name__}: {error}",
                "host": socket.gethostname(),
                "noted_utc": utc_now(),
            },
        )


def least_refused(store: Store, engine: str, processes: int) -> int | None:
    """The fewest samples that a process of an engine could not hold; None while all went well."""
    pattern = re.compile(rf"{engine}-{processes}-(\d+)\.json")
    matches = (pattern.fullmatch(name) for name in store.names(schema.MEMORY_DIR))
    return min((int(m.group(1)) for m in matches if m), default=None)


def fitting(wanted: int, micro_batch: int, refused: int | None, *, trials: int = 1, group: int = 1) -> int | None:
    """Samples of a trial that pass through its model at once: as many as wanted, or fewer than did not fit.

    They are whole micro-batches, or a whole fraction of one, so that B = micro_batch x accumulation_steps x workers
    holds: half, if the micro-batch is even.

    Args:
        wanted: a multiple of the micro-batch, or a whole fraction of it.
        micro_batch: of the plan.
        refused: samples of all trials that did not fit; None if none were refused.
        trials: in the process.
        group: samples that must stay together.

    Returns:
        None where nothing smaller is the same computation.

    >>> [fitting(64, 16, refused) for refused in (None, 64, 32, 16, 2, 1)]
    [64, 32, 16, 8, 1, None]
    >>> fitting(9, 9, 9), fitting(64, 16, 256, trials=8), fitting(16, 16, 16, group=8), fitting(64, 16, 64, group=64)
    (3, 16, 8, None)
    """
    found: int | None = wanted
    while found is not None and refused is not None and found * trials >= refused:
        found = _smaller(found, micro_batch, group)
    return found


def _smaller(samples: int, micro_batch: int, group: int) -> int | None:
    if samples > micro_batch:
        half = max(micro_batch, samples // 2 // micro_batch * micro_batch)
        return half if half % group == 0 else None
    fractions = (n for n in range(samples // 2, 0, -1) if micro_batch % n == 0 and n % group == 0)
    return next(fractions, None)
