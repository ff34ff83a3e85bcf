"""How many samples a process holds at once: what the plan asks for, or what fits into memory.

Fewer at once are accumulated, which computes the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaleexp import memory
from scaleexp.errors import TrialsFailedError

if TYPE_CHECKING:
    from scaleexp.resume import Standing
    from scaleexp.trial import Trial
    from scaleexp.workloads.base import Workload


def packed_at_once(
    workload: Workload, trials: Sequence[Trial], refused: int | None, record: Mapping[str, Any] | None = None
) -> int | None:
    """Samples of each trial of a pack; None where no number of them fits that computes the same.

    Args:
        workload: of the study.
        trials: of one batch size.
        refused: samples of all trials that did not fit; None if none were refused.
        record: choices by which they began; not more at once than those.
    """
    one = trials[0]
    group = one.batch_size if workload.couples_examples else one.statistics_group or 1
    found = memory.fitting(wanted_at_once(one), one.micro_batch, refused, trials=len(trials), group=group)
    return _as_on_record(found, record)


def split(
    workload: Workload, group: Sequence[Standing], refused: int | None, record: Mapping[str, Any] | None
) -> list[tuple[Sequence[Standing], int]]:
    """A pack as it fits into memory, with the samples of each trial at once; where nothing else helps, in two.

    Raises:
        TrialsFailedError: one trial alone does not fit.
    """
    trials = [standing.trial for standing in group]
    at_once = packed_at_once(workload, trials, refused, record)
    if at_once is not None:
        return [(group, at_once)]
    if len(group) == 1:
        raise TrialsFailedError(too_large(trials, refused))
    halves = (group[: len(group) // 2], group[len(group) // 2 :])
    return [part for half in halves for part in split(workload, half, refused, record)]


def real_at_once(workload: Workload, trial: Trial, refused: int | None, record: Mapping[str, Any] | None) -> int | None:
    """Samples of each process of a real-worker trial, likewise; not more than those on record."""
    own = trial.batch_size // trial.processes
    coupled = workload.couples_examples or (trial.statistics_group or 1) > own
    group = own if coupled else trial.statistics_group or 1
    found = memory.fitting(wanted_at_once(trial), trial.micro_batch, refused, group=group)
    return _as_on_record(found, record)


def _as_on_record(found: int | None, record: Mapping[str, Any] | None) -> int | None:
    return min(found, int(record["samples_at_once"])) if found and record else found


def wanted_at_once(trial: Trial) -> int:
    """Samples of a process that pass through the model together: who accumulates does it for memory."""
    if trial.engine == "packed":
        return trial.batch_size // trial.accumulation_steps
    return trial.micro_batch * (trial.workers // trial.processes if trial.accumulation_steps == 1 else 1)


def evaluated_at_once(trial: Trial, at_once: int | None, record: Mapping[str, Any] | None) -> int:
    """Held-out samples that pass together: fewer in the measure in which those that are trained on are.

    Args:
        trial: which.
        at_once: samples of it that pass together in training; None for as many as are wanted.
        record: choices by which it began, if it goes on: what fits as it did then stays as it was.
    """
    from scaleexp.engines.packed import EVALUATED_AT_ONCE

    most, wanted = EVALUATED_AT_ONCE, wanted_at_once(trial)
    if record and "evaluated_at_once" in record:
        most, wanted = int(record["evaluated_at_once"]), int(record["samples_at_once"])
    return min(most, max(1, most * (at_once or wanted) // wanted))


def too_large(trials: Sequence[Trial], refused: int | None) -> str:
    """That nothing smaller is the same computation."""
    what = f"{len(trials)} trial{'s' if len(trials) > 1 else ''} of batch size {trials[0].batch_size}"
    return (
        f"out of memory: {what} does not fit into a process with fewer than {refused} samples at once, and no smaller "
        "micro-batch computes the same; give more memory, a smaller model or batch-norm statistics of fewer samples. "
        "What did not fit is noted in memory/ of the study: remove it on a larger machine"
    )


def micro_batch_of(trial: Trial, at_once: int) -> int:
    """That of the plan, or what is left of it where fewer samples fit."""
    return min(trial.micro_batch, at_once)
