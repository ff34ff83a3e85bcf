"""Which trials one engine steps together, and in which order packs start.

A packed pack shares its shapes and B and differs in LR and seed; a ddp pack is a list of trials that one live group
of worker processes runs one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from math import ceil
from typing import TypeVar

from scaleexp.trial import Trial

T = TypeVar("T")

STEP_OVERHEAD_SAMPLES = 64
"""What a step costs besides its samples, in samples: dispatch and the optimizer. Right to an order of magnitude for
small models on a CPU; it only decides how packs are split and ordered, never what a trial computes."""


def packs(trials: Sequence[Trial], *, slots: int) -> list[tuple[Trial, ...]]:
    """Group trials into packs, the dearest first.

    Packed trials of one batch go together and share the overhead of each step. Where a pack would cost more than
    1 / `slots` of everything, it is split by seeds, and where that is not enough by LRs, so that the last slot to
    finish is not left alone with it. The LRs of one seed stay together as long as possible: they are compared.
    Starting the longest first keeps the end within 4/3 of the best possible (Graham 1969, doi:10.1137/0117039).

    Args:
        trials: of any engine.
        slots: packs that run at the same time, >= 1.

    Raises:
        ValueError: if slots is below 1.
    """
    if slots < 1:
        raise ValueError(f"slots must be 1 or more; got {slots}")
    shapes = _grouped(trials)
    share = sum(cost(group) for group in shapes) / slots
    pieces = [piece for group in shapes for piece in _split(group, share)]
    return sorted(pieces, key=cost, reverse=True)


def cost(pack: Sequence[Trial]) -> float:
    """Upper bound on the work of a pack [samples]: to the limit, the overhead of a step counted in samples.

    A packed step pays the overhead once for all of its trials; a ddp group runs its trials in turn.
    """
    if pack[0].engine == "ddp":
        return float(sum(t.limit_steps * (STEP_OVERHEAD_SAMPLES + t.batch_size) for t in pack))
    steps = max(trial.limit_steps for trial in pack)
    return float(steps * STEP_OVERHEAD_SAMPLES + sum(trial.limit_steps * trial.batch_size for trial in pack))


def _shape(trial: Trial) -> tuple[str, int, int, int, int]:
    """What the trials of a pack have in common."""
    if trial.engine == "ddp":
        return ("ddp", trial.processes, 0, 0, 0)
    return ("packed", trial.batch_size, trial.workers, trial.micro_batch, trial.accumulation_steps)


def _grouped(trials: Sequence[Trial]) -> list[tuple[Trial, ...]]:
    return [tuple(group) for _, group in groupby(sorted(trials, key=_shape), key=_shape)]


def _split(group: tuple[Trial, ...], share: float) -> Iterator[tuple[Trial, ...]]:
    """Pieces of a packed group that cost at most `share` where seeds and LRs allow; a ddp group stays whole."""
    if group[0].engine == "ddp" or cost(group) <= share:
        yield group
        return
    seeds = sorted({trial.seed for trial in group})
    for chosen in _chunks(seeds, ceil(cost(group) / share)):
        piece = tuple(sorted((t for t in group if t.seed in chosen), key=lambda t: (t.seed, t.lr)))
        if len(chosen) > 1 or cost(piece) <= share:
            yield piece
        else:
            yield from _chunks(piece, ceil(cost(piece) / share))


def _chunks(items: Sequence[T], count: int) -> Iterator[tuple[T, ...]]:
    """`items` in at most `count` runs whose lengths differ by at most one."""
    count = min(count, len(items))
    edges = [len(items) * i // count for i in range(count + 1)]
    for low, high in pairwise(edges):
        yield tuple(items[low:high])
