"""All measurements of a probe, each in processes of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scaleexp.errors import ConfigError, InfeasibleError
from scaleexp.facts import usable_cores
from scaleexp.probe import worker
from scaleexp.probe.memory_held import Memory, Row, measure_memory
from scaleexp.probe.processes import OutOfMemoryError, on_workers
from scaleexp.probe.sizes import powers, with_neighbours

if TYPE_CHECKING:
    from scaleexp.config import Study

ROUNDS = 11
"""Of every timing; the interval of a median of 11 is from the third to the ninth, which holds it in 93 of 100 cases."""
LARGEST = 2**14
"""No larger worker batch is timed where nothing else ends the list."""
_LONGEST_S = 0.5
"""Seconds of a step up to which a batch is timed."""
_ALL_REDUCED = tuple(4096 * 4**k for k in range(7))
"""Bytes, 4 KiB to 16 MiB; those of the model's gradients are added."""
_MOST_REDUCED = 2**28

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a probe measured.

    Attributes:
        facts: of the engine: n_parameters, grad_bytes, backend, threads, device, kernel.
        group: samples that a worker batch is a multiple of.
        visits: workers -> rows of `worker.Visit`.
        all_reduce: {"workers", "round", "bytes", "seconds"}.
        memory: of one worker.
        notes: what was left out and why, a sentence each.
    """

    facts: Row
    group: int
    visits: dict[int, list[Row]]
    all_reduce: Sequence[Row]
    memory: Memory
    notes: Sequence[str] = field(default_factory=list)


def measure(
    study: Study,
    n_train: int | None,
    *,
    workers: int = 1,
    rounds: int = ROUNDS,
    largest: int = LARGEST,
    memory_bytes: float | None = None,
    say: Say = lambda line: None,
) -> Measured:
    """Measure a study's step on this machine.

    Args:
        study: whose model, loss, optimizer and precision are taken.
        n_train: size of its training set; None for a stream.
        workers: the most real workers, each with a core or a GPU of its own.
        rounds: times that every configuration is visited.
        largest: worker batch up to which steps are timed.
        memory_bytes: that a worker may take; None for a part of what is free.
        say: is told what goes on.

    Raises:
        ConfigError: a study whose loss this cannot step, or more workers than samples.
        InfeasibleError: more workers than cores or GPUs, or memory for not one batch.
    """
    check_room(workers)
    group = study.batch_norm if isinstance(study.batch_norm, int) else 1
    at_most = None if n_train is None else n_train // workers
    sizes = tuple(b for b in powers(min(largest, at_most or largest), group) if b > 1 or not study.batch_norm)
    if not sizes:
        raise ConfigError(
            f"no worker batch is left to try: {workers} workers share {n_train} samples, up to {largest} each, in "
            f"multiples of {group}; give fewer workers or a larger --up-to."
        )
    notes: list[str] = []
    tried = with_neighbours(sizes, sizes[-1] if at_most is None else min(at_most, sizes[-1] + group), group)
    say(f"timing steps of 1 worker at {len(tried)} worker batches, up to {tried[-1]}")
    facts, rows = time_workers(study, 1, tried, rounds, notes)
    visits = {1: rows}
    counts = [n for n in powers(workers) if n > 1] + ([workers] if workers & (workers - 1) else [])
    reached = {row["worker_batch"] for row in rows}
    reduced: list[Row] = []
    for count in counts:
        say(f"timing steps and all-reduces of {count} workers")
        visits[count] = time_workers(study, count, [b for b in sizes if b in reached], rounds, notes)[1]
        reduced += _all_reduce(count, facts["grad_bytes"], rounds)
    say("measuring memory")
    memory = measure_memory(study, powers(at_most or 2**40, group), at_most, memory_bytes, workers)
    return Measured(facts=facts, group=group, visits=visits, all_reduce=reduced, memory=memory, notes=notes)


def check_room(workers: int) -> None:
    """Workers that share a core or a GPU measure each other.

    Raises:
        InfeasibleError: there are more than places.
    """
    import torch

    gpus = torch.cuda.device_count()
    places, kind = (gpus, "GPU") if gpus else (usable_cores(), "core")
    if workers > places:
        raise InfeasibleError(
            f"{workers} workers need a {kind} each and this machine has {places}: workers that share one would measure "
            "each other; give a smaller --workers."
        )


def time_workers(
    study: Study, workers: int, sizes: Sequence[int], rounds: int, notes: list[str]
) -> tuple[Row, list[Row]]:
    """(Facts of the engine, visits), at all of the sizes that fit into memory.

    Args:
        study: whose steps.
        workers: processes.
        sizes: worker batches, ascending.
        rounds: visits of each.
        notes: where to say what was left out.

    Raises:
        InfeasibleError: none does.
    """
    while True:
        facts: Row = {}
        rows: list[Row] = []
        fits: list[int] = []
        arguments = {"study": study, "sizes": tuple(sizes), "rounds": rounds, "longest_s": _LONGEST_S}
        try:
            for message in on_workers(workers, worker.time_steps, arguments):
                if isinstance(message, list):
                    rows += message
                elif "fits" in message:
                    fits.append(message["fits"])
                else:
                    facts = message
            return facts, rows
        except OutOfMemoryError as error:
            left = [b for b in sizes if b in fits] if not rows else list(sizes[: len(sizes) // 2])
            if not left:
                raise InfeasibleError(f"not one step of {workers} workers fits into memory: {error}.") from None
            notes.append(
                f"{workers} worker{'s' * (workers > 1)} of {sizes[min(len(fits), len(sizes) - 1)]} samples ran out of "
                f"memory ({error}): larger worker batches were not timed"
            )
            sizes = left


def _all_reduce(workers: int, grad_bytes: int, rounds: int) -> list[Row]:
    sizes = sorted({*_ALL_REDUCED, *([grad_bytes // 4 * 4] if 4 <= grad_bytes <= _MOST_REDUCED else [])})
    arguments = {"sizes": tuple(sizes), "rounds": rounds}
    return [
        {"workers": workers, **row}
        for message in on_workers(workers, worker.time_all_reduce, arguments)
        for row in message
    ]
