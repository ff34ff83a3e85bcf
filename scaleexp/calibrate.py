"""How long a plan may take here, and how much disk: a few steps of each batch size timed, and a log of each written."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleexp import memory, schema
from scaleexp.errors import InfeasibleError
from scaleexp.execute import Assignment, noise_cadence, packed_engine, trial_facts
from scaleexp.facts import usable_cores
from scaleexp.held import packed_at_once, too_large
from scaleexp.log_bytes import LogBytes, evaluations, measured, times_written
from scaleexp.packing import last_end, packs
from scaleexp.plan_rows import NOT_SEEN, Calibration, Estimate, Range

if TYPE_CHECKING:
    from scaleexp.config import Study
    from scaleexp.engines.base import NoiseMeasurement
    from scaleexp.engines.packed import PackedEngine
    from scaleexp.trial import Trial
    from scaleexp.workloads.base import Workload

REPEATS = 5
"""Of each timing: their spread is the interval."""
_TIMED_S, _MOST_STEPS = 0.02, 20
"""A timing is of so many steps that it takes about this long [seconds], and of no more than these."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Of one batch size.

    Attributes:
        size: trials of the pack that was timed.
        prepare_s: to choose what is chosen before step 0 [seconds].
        step_s: of the pack's steps, those that measure noise counted in [seconds]; None of real workers.
        eval_s: of its evaluations [seconds].
        noise_every: steps from one measurement of noise to the next.
        layers: whose gradient norms are logged.
        log: of one trial.
    """

    size: int = 1
    prepare_s: float = 0.0
    step_s: Range | None = None
    eval_s: Range | None = None
    noise_every: int = 1
    layers: int = 0
    log: LogBytes


def calibrate(
    study: Study, workload: Workload, trials: Sequence[Trial], left: Mapping[str, int], *, study_bytes: float = 0.0
) -> Calibration:
    """What is left of a plan, every trial run to its sample limit, would take on this machine.

    Packs of virtual workers are timed as they would run, on one engine for each batch size. Real workers are not timed,
    because that means launching them; their logs are measured like those of virtual ones.

    Args:
        study: the study.
        workload: its workload.
        trials: of the plan.
        left: steps to its limit of every trial that has not ended, by key.
        study_bytes: of what is written once for the study.
    """
    gpus = torch.cuda.device_count()
    slots = gpus or usable_cores()
    to_run = [trial for trial in trials if left.get(trial.key)]
    virtual = [trial for trial in to_run if trial.engine == "packed"]
    chosen = packs(virtual, slots=slots)
    threads = 1 if study.deterministic else max(1, usable_cores() // max(1, min(len(chosen), slots)))
    before = torch.get_num_threads()
    found: dict[int, _Measured] = {}
    for batch_size in sorted({trial.batch_size for trial in to_run}):
        own = max((p for p in chosen if p[0].batch_size == batch_size), key=len, default=())
        one = own or tuple(t for t in to_run if t.batch_size == batch_size)[:1]
        try:
            found[batch_size] = _fitting(study, workload, one, threads if own else 0, "cuda" if gpus else "cpu", left)
        finally:
            torch.set_num_threads(before)
    seconds = [_pack_s(study, pack, found[pack[0].batch_size], left) for pack in chosen]
    usual = [s.usual for s in seconds]
    spread = last_end(usual, slots) / sum(usual) if seconds else 0.0
    packed = list(zip(chosen, seconds, strict=True))
    return Calibration(
        batches={b: _estimate(study, b, m, to_run, packed, left, spread) for b, m in found.items()},
        workers=slots,
        kind="GPU" if gpus else "CPU core",
        repeats=REPEATS if chosen else 0,
        elsewhere=os.environ.get("RAY_ADDRESS", "local") not in ("", "local"),
        passing_bytes=_passing_bytes(study, packed, found, left, slots),
        study_bytes=study_bytes,
    )


def _fitting(
    study: Study, workload: Workload, trials: Sequence[Trial], threads: int, device: str, left: Mapping[str, int]
) -> _Measured:
    """With as many samples at once as fit into memory, as the study itself does it.

    Raises:
        InfeasibleError: none do.
    """
    refused: int | None = None
    while True:
        at_once = packed_at_once(workload, [replace(t, engine="packed") for t in trials], refused)
        if at_once is None:
            raise InfeasibleError(too_large(trials, refused))
        try:
            return _measure(study, workload, trials, threads, device, left, at_once)
        except Exception as error:
            if not memory.exhausted(error):
                raise
            refused = at_once * len(trials)


def _measure(
    study: Study,
    workload: Workload,
    trials: Sequence[Trial],
    threads: int,
    device: str,
    left: Mapping[str, int],
    at_once: int,
) -> _Measured:
    """A pack and the log of its first trial; `threads` is 0 for real workers, of which only the log is measured."""
    begin = time.perf_counter()
    if not threads:  # whatever the batch, the state is the same
        small = trials[0].statistics_group or max(2, trials[0].micro_batch)
        trials = [replace(trials[0], batch_size=small, workers=1, accumulation_steps=1)]
    engine = packed_engine(study, workload, trials, threads=threads or 1, device=device, at_once=at_once)
    trial = trials[0]
    every, cost = noise_cadence(study, engine, trial.batch_size) if threads else (1, {})
    prepare_s = time.perf_counter() - begin
    noise = engine.step(0, trial.batch_size, np.zeros(len(trials)), measure=True).noise
    log = _log_of(study, workload, engine, trial, max(1, left[trial.key]), noise, every, cost)
    layers = len(noise.layers) if noise and noise.layers else 0
    if not threads:
        return _Measured(layers=layers, log=log)
    plain, measuring, evaluating = _timings(engine, trial.batch_size, len(trials))
    step_s = [p + (m - p) / every + len(trials) * log.row_s for p, m in zip(plain, measuring, strict=True)]
    return _Measured(
        size=len(trials),
        prepare_s=prepare_s,
        step_s=_range(step_s),
        eval_s=_range(evaluating),
        noise_every=every,
        layers=layers,
        log=log,
    )


def _log_of(
    study: Study,
    workload: Workload,
    engine: PackedEngine,
    trial: Trial,
    steps: int,
    noise: NoiseMeasurement | None,
    every: int,
    cost: Mapping[str, float],
) -> LogBytes:
    """What the log of a trial of so many steps takes."""
    nobody = Assignment(study=study, targets=(), root="", git_sha="0" * 40, deadline=None, deadline_cause="")
    return measured(
        trial_facts(nobody, workload, engine, trial),
        engine.realisation
        | {"noise_every_steps": every, "deterministic": study.deterministic, "processes": trial.processes},
        {**engine.timings, **cost},
        {target.metric: target.values[-1] for target in study.targets},
        engine.states([0])[0],
        metrics=[*workload.metrics, schema.DISTANCE],
        rows=steps,
        evaluated=evaluations(0, steps, trial.batch_size, study.evaluation.every_samples),
        noise=noise,
        noise_every=every,
    )


def _timings(engine: PackedEngine, batch_size: int, trials: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of a plain step, a measuring one and an evaluation, `REPEATS` of each in turn."""
    rates = np.zeros(trials)
    kinds: list[Callable[[], object]] = [
        lambda: engine.step(0, batch_size, rates, measure=False),
        lambda: engine.step(0, batch_size, rates, measure=True),
        lambda: (engine.evaluate(), engine.distances()),
    ]
    counts = [max(1, min(_MOST_STEPS, int(_TIMED_S / _seconds(kind, 1)))) for kind in kinds]  # and warm
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(REPEATS):
        for times, kind, count in zip(found, kinds, counts, strict=True):
            times.append(_seconds(kind, count))
    return found


def _seconds(run: Callable[[], object], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - begin) / times


def _range(values: Sequence[float]) -> Range:
    return Range(min(values), statistics.median(values), max(values))


def _pack_s(study: Study, pack: Sequence[Trial], found: _Measured, left: Mapping[str, int]) -> Range:
    """Seconds of a pack from its first step to its last."""
    assert found.step_s is not None
    assert found.eval_s is not None
    steps = max(left[trial.key] for trial in pack)
    looks = max(_evaluations(study, trial, left) for trial in pack)
    share = len(pack) / found.size
    ends = (share * (steps * s + looks * e) + found.prepare_s for s, e in zip(found.step_s, found.eval_s, strict=True))
    least, usual, most = ends
    return Range(least * (1 - NOT_SEEN), usual, most * (1 + NOT_SEEN))


def _evaluations(study: Study, trial: Trial, left: Mapping[str, int]) -> int:
    """That a trial has before it."""
    first = trial.limit_steps - left[trial.key]
    return evaluations(first, trial.limit_steps, trial.batch_size, study.evaluation.every_samples)


def _estimate(
    study: Study,
    batch_size: int,
    found: _Measured,
    trials: Sequence[Trial],
    packed: Sequence[tuple[tuple[Trial, ...], Range]],
    left: Mapping[str, int],
    spread: float,
) -> Estimate:
    """Of the trials of one batch size; `spread` is the wall time of all packs as a share of their seconds in a row."""
    own = [(pack, seconds) for pack, seconds in packed if pack[0].batch_size == batch_size]
    real = [t for t in trials if t.batch_size == batch_size and t.engine != "packed"]
    none = Range(0.0, 0.0, 0.0)
    logs = [_log_range(study, t, found, left, seconds) for pack, seconds in own for t in pack]
    logs += [_log_range(study, t, found, left, none) for t in real]
    in_a_row = Range(*(sum(s[end] for _, s in own) for end in range(3)))
    return Estimate(
        seconds=in_a_row.times(spread) if own else None,
        disk_bytes=Range(*(sum(log[end] for log in logs) for end in range(3))),
        not_timed=len(real),
    )


def _log_range(study: Study, trial: Trial, found: _Measured, left: Mapping[str, int], seconds: Range) -> Range:
    """Bytes of a trial's log and its last state, in one commit and those that the clock adds while its pack runs."""
    log, rows = found.log, _rows(study, trial, found, left)
    kept = log.state if study.checkpoint.keep_finished else 0.0
    begun = left[trial.key] < trial.limit_steps
    return Range(*(log.of_log(rows, _commits(study, s), begun=begun) + kept for s in seconds))


def _rows(study: Study, trial: Trial, found: _Measured, left: Mapping[str, int]) -> dict[str, int]:
    """By table, that a trial has before it."""
    steps = left[trial.key]
    evals = len(found.log.metrics) * _evaluations(study, trial, left)
    return {"steps": steps, "evals": evals, "layers": -(-steps // found.noise_every) * found.layers}


def _commits(study: Study, seconds: float) -> int:
    """Of a trial whose pack runs so long: by the clock, and as it ends."""
    return 1 + int(seconds // study.checkpoint.every_s)


def _passing_bytes(
    study: Study,
    packed: Sequence[tuple[tuple[Trial, ...], Range]],
    found: Mapping[int, _Measured],
    left: Mapping[str, int],
    slots: int,
) -> float:
    """On disk only while trials run, if the packs with the most run at the same time.

    A trial under way has the state of its last commit and the one before, and for a moment that of the next; and its
    rows in segments, in those that were merged from them, and for a moment in the file of them all.
    """
    kept = int(study.checkpoint.keep_finished)
    held = []
    for pack, seconds in packed:
        own, commits = found[pack[0].batch_size], _commits(study, seconds.most)
        states = max(0, min(3, kept + commits - 1) - kept) * own.log.state
        rows = sum(own.log.of_rows(_rows(study, trial, own, left)) for trial in pack)
        held.append(states * len(pack) + (times_written(commits) - 1) * rows)
    return float(sum(sorted(held, reverse=True)[:slots]))
