"""Which trials one engine steps together, and in which order packs start.

A packed pack shares its shapes and B and differs in LR and seed; a ddp or entrypoint pack is a list of trials that one
live group of worker processes runs one after another; a command runs one trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace
from itertools import groupby

from scaleexp.trial import Trial

STEP_OVERHEAD_SAMPLES = 64
"""What a step costs besides its samples, in samples: dispatch and the optimizer. Right to an order of magnitude for
small models on a CPU; it only decides how packs are split and ordered, never what a trial computes."""

MIN_GAIN = 0.1
"""Packs are cut for an end this much earlier, not for less: every cut costs work."""


def packs(trials: Sequence[Trial], *, slots: int) -> list[tuple[Trial, ...]]:
    """Group trials into packs, the dearest first, so that `slots` of them at a time end early.

    Packed trials of one batch start together and share the overhead of each step. Cutting a pack in two (between
    seeds; within one seed between LRs) gives idle slots work, but the halves no longer share. So all packs are cut
    to ever smaller sizes, and the coarsest cut wins whose end is within `MIN_GAIN` of the earliest. Started longest
    first, packs end within 4/3 of the best schedule (Graham 1969, doi:10.1137/0117039).

    Args:
        trials: of any engine.
        slots: packs that run at the same time, >= 1.

    Raises:
        ValueError: if slots is below 1.
    """
    if slots < 1:
        raise ValueError(f"slots must be 1 or more; got {slots}")
    whole = [tuple(group) for _, group in groupby(sorted(trials, key=_shape), key=_shape)]
    dearest = max(map(cost, whole), default=0.0)
    cuts = [_longest_first(whole)]
    for power in range(1, 4 * slots.bit_length()):
        cuts.append(_longest_first(_cut_to(cuts[-1], dearest * 2 ** (-power / 4))))
    ends = [makespan(cut, slots) for cut in cuts]
    return next(cut for cut, end in zip(cuts, ends, strict=True) if end * (1 - MIN_GAIN) <= min(ends))


def spread(trials: Sequence[Trial], groups: int) -> list[tuple[Trial, ...]]:
    """Real-worker trials over groups of processes that run side by side, the dearest first, each to the freest group.

    Args:
        trials: of one number of processes, in the order in which they may start.
        groups: at most; those that would stay empty are left out.
    """
    own: list[list[Trial]] = [[] for _ in range(max(1, min(groups, len(trials))))]
    for trial in sorted(trials, key=lambda t: cost([t]), reverse=True):
        min(own, key=lambda held: sum(cost([t]) for t in held)).append(trial)
    order = {t.key: i for i, t in enumerate(trials)}
    return [tuple(sorted(held, key=lambda t: order[t.key])) for held in own]


def makespan(pieces: Sequence[tuple[Trial, ...]], slots: int) -> float:
    """When the last slot ends if whoever is free takes the next pack in order [samples, as `cost`]."""
    return last_end([cost(pack) for pack in pieces], slots)


def last_end(lengths: Sequence[float], slots: int) -> float:
    """When the last of these ends if whoever of the slots is free takes the next.

    >>> last_end([3.0, 2.0, 2.0], 2)
    4.0
    """
    free = [0.0] * slots
    for length in lengths:
        heapreplace(free, free[0] + length)
    return max(free)


def cost(pack: Sequence[Trial]) -> float:
    """Upper bound on the work of a pack [samples]: to the limit, the overhead of a step counted in samples.

    A packed step pays the overhead once for all of its trials; a group of real workers runs its trials in turn.
    """
    if pack[0].real:
        return float(sum(t.limit_steps * (STEP_OVERHEAD_SAMPLES + t.batch_size) for t in pack))
    steps = max(trial.limit_steps for trial in pack)
    return float(steps * STEP_OVERHEAD_SAMPLES + sum(trial.limit_steps * trial.batch_size for trial in pack))


def _shape(trial: Trial) -> tuple[str, int, int, int, int]:
    """What the trials of a pack have in common."""
    if trial.real:
        return (trial.engine, trial.processes, 0, 0, 0)
    return ("packed", trial.batch_size, trial.workers, trial.micro_batch, trial.accumulation_steps)


def _longest_first(pieces: Sequence[tuple[Trial, ...]]) -> list[tuple[Trial, ...]]:
    return sorted(pieces, key=cost, reverse=True)


def _cut_to(pieces: Sequence[tuple[Trial, ...]], most: float) -> list[tuple[Trial, ...]]:
    """The packs, those dearer than `most` cut in two and again, as long as both halves are `MIN_GAIN` cheaper."""
    done: list[tuple[Trial, ...]] = []
    waiting = list(pieces)
    while waiting:
        pack = waiting.pop()
        halves = _halves(pack) if cost(pack) > most else []
        if halves and max(map(cost, halves)) <= cost(pack) * (1 - MIN_GAIN):
            waiting += halves
        else:
            done.append(pack)
    return done


def _halves(pack: tuple[Trial, ...]) -> list[tuple[Trial, ...]]:
    """A pack in two, the LRs of one seed together as long as possible: they are compared. Empty if it cannot be cut."""
    if pack[0].real or len(pack) == 1:
        return []
    seeds = sorted({trial.seed for trial in pack})
    ordered = sorted(pack, key=lambda trial: (trial.seed, trial.lr))
    if len(seeds) == 1:
        middle = (len(ordered) + 1) // 2
    else:
        middle = sum(trial.seed < seeds[(len(seeds) + 1) // 2] for trial in ordered)
    return [tuple(ordered[:middle]), tuple(ordered[middle:])]
