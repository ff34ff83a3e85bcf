"""How long what is left of a script's study may take, by the logs of its trials that have ended.

Nobody but the script knows how to take one of its steps, so none is timed before it runs: the first trial of a batch
size tells what the others will take.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from scaleexp import schema, segment
from scaleexp.at_once import each
from scaleexp.commits import bound_bytes, last_commits
from scaleexp.errors import CorruptError
from scaleexp.facts import usable_cores
from scaleexp.packing import makespan
from scaleexp.plan_rows import NOT_SEEN, Calibration, Estimate, Range

if TYPE_CHECKING:
    from scaleexp.config import Study
    from scaleexp.storage import Store
    from scaleexp.trial import Trial

MOST = 16
"""Trials of a batch size that are read: more would tell little more about its spread."""
_DISK = "what a script keeps is its own business, and no log says it."


def calibrated(study: Study, store: Store, trials: Sequence[Trial], left: Mapping[str, int]) -> Calibration | None:
    """What is left of a plan would take, every trial run to its sample limit; None where no trial has ended.

    Args:
        study: of a user's own script.
        store: where it lives.
        trials: of the plan.
        left: steps to its limit of every trial that has not ended, by key.
    """
    over = [trial for trial in trials if trial.key not in left]
    if not over:
        return None
    commits = last_commits(store, [trial.key for trial in over])
    slots, kind = _slots()
    batches, timed, unknown = {}, 0, []
    for batch_size in sorted({t.batch_size for t in trials if left.get(t.key)}):
        own = [c for t in over if t.batch_size == batch_size and (c := commits[t.key]) is not None][:MOST]
        step_s = [s for s in each(lambda commit: step_seconds(store, commit), own) if s is not None]
        timed += len(step_s)
        if not step_s:
            unknown.append(batch_size)
            continue
        waiting = [t for t in trials if t.batch_size == batch_size and left.get(t.key)]
        at_once = max(1, slots // (waiting[0].workers * (study.cpus_per_worker if kind == "CPU core" else 1)))
        ends = (min(step_s) * (1 - NOT_SEEN), statistics.median(step_s), max(step_s) * (1 + NOT_SEEN))
        steps = makespan(sorted((float(left[t.key]) for t in waiting), reverse=True), at_once)
        batches[batch_size] = Estimate(seconds=Range(*(s * steps for s in ends)), disk_bytes=None)
    said = {"seconds": _said(study, timed, unknown), "disk_bytes": _DISK} if batches or unknown else {}
    return Calibration(batches=batches, workers=slots, kind=kind, repeats=timed, said=said)


def step_seconds(store: Store, commit: schema.Commit) -> float | None:
    """Mean seconds of a step in a trial's log, its evaluations counted in; None where it says nothing or is damaged."""
    with suppress(CorruptError):  # `scaleexp doctor --verify` tells of it
        seconds = _column(store, commit, "steps", "step_s")
        _, first = np.unique(_column(store, commit, "evals", "step"), return_index=True)  # a row for each metric
        seconds, evaluating = seconds[np.isfinite(seconds)], _column(store, commit, "evals", "eval_s")[first]
        if seconds.size:
            return float((seconds.sum() + np.nansum(evaluating)) / seconds.size)
    return None


def _column(
    store: Store, commit: schema.Commit, table: schema.Table, name: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of all segments that a commit binds; what is null is nan."""
    parts = [
        segment.rows(bound_bytes(store, commit["key"], bound), bound, [name], bound["file"])[name]
        for bound in commit["segments"]
        if bound["table"] == table
    ]
    return np.concatenate([np.zeros(0), *(part.to_numpy(zero_copy_only=False).astype(float) for part in parts)])


def _slots() -> tuple[int, str]:
    """GPUs of this machine, or its cores if it has none."""
    import torch

    gpus = torch.cuda.device_count()
    return (gpus, "GPU") if gpus else (usable_cores(), "CPU core")


def _said(study: Study, timed: int, unknown: Sequence[int]) -> str:
    """What the times rest on."""
    trials = f"{timed} trial{'s' if timed > 1 else ''} of this study that {'have' if timed > 1 else 'has'} ended"
    sentences = (
        []
        if not timed
        else [
            f"the logs of {trials}: steps and evaluations as long as they took there, as many trials at a time as this "
            f"machine can hold; the interval is from the fastest trial of a batch to the slowest, and {NOT_SEEN:.0%} "
            "beyond. The start of a script's processes and of Ray comes on top."
        ]
    )
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        sentences.append("The cluster of RAY_ADDRESS was not asked how many it can hold.")
    if study.targets:
        sentences.append("Trials end at their target, so that it usually takes less.")
    if unknown:
        of_batch = f"batch {unknown[0]}" if len(unknown) == 1 else f"batches {', '.join(map(str, unknown))}"
        sentences.append(f"No trial of {of_batch} has ended, so that its time, and that of the whole, is not known.")
    return " ".join(sentences)
