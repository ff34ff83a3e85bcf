"""The training loop: steps a pack of trials on an engine, evaluates, stops each at its target, and writes the log.

One loop serves every engine. All that ends a trial early is a function of what was trained (the target confirmed by the
next evaluation, the sample limit, divergence), so two runs of a study cut the same trials. The clock decides only when
rows and states are committed in between, and when a study's deadline leaves trials `stopped`, to go on later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaleexp import memory, schema
from scaleexp.engines.base import Engine, FloatArray, StepResult, TrialState
from scaleexp.errors import StorageError
from scaleexp.goals import Goals
from scaleexp.runlog import TrialLog

_OF_A_LOST_PEER = ("by peer", "gloo/transport", "NCCL communicator was aborted", "Broken pipe")
"""What gloo and NCCL say in a process whose neighbour died."""

Schedule = Callable[[int, int], float]
"""(start, stop) samples -> multiplier of the peak LR."""


class Signal(NamedTuple):
    """What the clock says after a step: why to stop now (empty to go on), and whether to commit."""

    stop: str = ""
    commit: bool = False


Clock = Callable[[], Signal]
"""Asked after every step; every process of a trial is told the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What every trial of a pack is put through.

    Attributes:
        batch_size: B [samples].
        limit_samples: a trial that has not reached its target by then is censored there.
        evaluate_every: cadence [samples]: at the first step boundary past each multiple.
        noise_every: cadence of the gradient norms [steps].
        targets: what ends a trial: the hardest value of every metric, each confirmed.
        schedule: multiplier of the learning rate.
        keep_finished: whether the last commit of a trial at its target or limit binds its state.
    """

    batch_size: int
    limit_samples: int
    evaluate_every: int
    noise_every: int
    targets: Sequence[schema.Target]
    schedule: Schedule
    keep_finished: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a pack goes on.

    Attributes:
        step: optimizer steps that its trials have taken.
        values: every evaluation of each trial so far by metric, shape (K,); empty at the beginning.
        committed: whether the choices that it trains by are in a commit already.
    """

    step: int = 0
    values: Sequence[Mapping[str, Sequence[float]]] = ()
    committed: bool = False


@dataclass(slots=True)
class _Active:
    """A trial under way: its log (None where another process writes), and what its evaluations have shown."""

    lr: float
    log: TrialLog | None
    goals: Goals


@dataclass(slots=True)
class _Pack:
    """The trials still under way and how far they have come."""

    active: list[_Active]
    step: int = 0
    samples: int = 0


def train_pack(
    engine: Engine,
    lrs: Sequence[float],
    logs: Sequence[TrialLog | None],
    recipe: Recipe,
    clock: Clock = Signal,
    start: Start | None = None,
) -> None:
    """Train a pack to the end of each of its trials, committing them before step 0, by the clock, and as each ends.

    Args:
        engine: where the pack starts.
        lrs: peak learning rates, shape (K,).
        logs: one writer per trial; None where another process writes.
        recipe: what they are put through.
        clock: asked after every step.
        start: None for the beginning.
    """
    start = start or Start()
    pack = _Pack(
        active=[_Active(lr=lr, log=log, goals=Goals(recipe.targets)) for lr, log in zip(lrs, logs, strict=True)]
    )
    pack.step, pack.samples = start.step, start.step * recipe.batch_size
    for trial, values in zip(pack.active, start.values, strict=False):
        trial.goals.look_back(values)
    try:
        if not start.committed:
            for trial in pack.active:
                _commit(trial, pack, "running")
        if start.step == 0:
            _evaluate(engine, pack, recipe)
        while pack.active:
            _step(engine, pack, recipe, clock)
    except StorageError:
        raise  # nothing more can be written
    except Exception as error:
        if lost_a_peer(error) or memory.exhausted(error):
            raise  # it goes on from the last commit
        for trial in pack.active:
            if trial.log:
                trial.log.fail(f"{type(error).__name__}: {error} (after step {pack.step})")
        raise


def lost_a_peer(error: Exception) -> bool:
    """Whether another process of the trial is gone: no fault of the trial, which goes on from its last commit."""
    return type(error).__name__.startswith("Dist") or any(text in str(error) for text in _OF_A_LOST_PEER)


def _commit(
    trial: _Active, pack: _Pack, status: schema.Status, cause: str = "", state: TrialState | None = None
) -> None:
    """Commit a trial at the pack's step."""
    if trial.log:
        trial.log.commit(step=pack.step, samples=pack.samples, status=status, cause=cause, state=state)


def _step(engine: Engine, pack: _Pack, recipe: Recipe, clock: Clock) -> None:
    """One optimizer step of every active trial, with all that follows from it."""
    active = pack.active
    before, after = pack.samples, pack.samples + recipe.batch_size
    rates = np.array([a.lr for a in active]) * recipe.schedule(before, after)
    begin = time.perf_counter()
    result = engine.step(before, after, rates, measure=pack.step % recipe.noise_every == 0)
    step_s = (time.perf_counter() - begin) / len(active)
    pack.step, pack.samples = pack.step + 1, after
    _log_step(pack, result, rates, step_s)
    last = after + recipe.batch_size > recipe.limit_samples
    if last or after // recipe.evaluate_every > before // recipe.evaluate_every:
        _evaluate(engine, pack, recipe)
    signal = clock()
    endings = [_ending(a, loss, recipe, last, signal.stop) for a, loss in zip(active, result.loss, strict=True)]
    going = [i for i, (status, _) in enumerate(endings) if status == "running"]
    due = [i for i in range(len(active)) if signal.commit or i not in going]
    kept = [i for i in due if _keeps_state(endings[i][0], recipe)]
    states = dict(zip(kept, engine.states(kept), strict=True)) if kept else {}
    for i in due:
        _commit(active[i], pack, *endings[i], states.get(i))
    if 0 < len(going) < len(active):
        engine.keep(going)
    pack.active = [active[i] for i in going]


def _evaluate(engine: Engine, pack: _Pack, recipe: Recipe) -> None:
    """Evaluate every trial, log the values, and note the targets that this evaluation confirms."""
    begin = time.perf_counter()
    metrics = engine.evaluate()
    eval_s = (time.perf_counter() - begin) / len(pack.active)
    for i, trial in enumerate(pack.active):
        values = {name: float(v[i]) for name, v in metrics.items()}
        trial.goals.evaluated(values)
        if trial.log:
            trial.log.evaluation(step=pack.step, samples=pack.samples, values=values, eval_s=eval_s)


def _log_step(pack: _Pack, result: StepResult, rates: FloatArray, step_s: float) -> None:
    share = 1.0 / len(pack.active)
    for i, trial in enumerate(pack.active):
        if trial.log:
            trial.log.step(
                step=pack.step,
                samples=pack.samples,
                step_lr=float(rates[i]),
                loss=float(result.loss[i]),
                noise=result.noise,
                row=i,
                step_s=step_s,
                compute_s=result.compute_s * share,
                sync_s=result.sync_s * share,
                data_s=result.data_s * share,
            )


def _keeps_state(status: schema.Status, recipe: Recipe) -> bool:
    """Whether a trial may go on from here one day."""
    return status in ("running", "stopped") or (status in ("reached", "limit") and recipe.keep_finished)


def _ending(trial: _Active, loss: float, recipe: Recipe, last: bool, stopped: str) -> tuple[schema.Status, str]:
    """How a trial stands after a step, and why."""
    if not math.isfinite(loss):
        return "diverged", f"the training loss became {loss}"
    if trial.goals.reached:
        return "reached", ""
    if last:
        return "limit", ""
    if stopped:
        return "stopped", stopped
    return "running", ""
