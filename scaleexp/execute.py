"""Trials of a study -> engine -> loop -> log, in this process; who starts the process is the launcher's business."""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from scaleexp import facts, memory, schema
from scaleexp.asked import ASKED, why_stop
from scaleexp.held import evaluated_at_once, micro_batch_of, real_at_once, split, too_large, wanted_at_once
from scaleexp.loop import Clock, Recipe, Signal, Start, train_pack
from scaleexp.raised import told_to_the_group
from scaleexp.restating import record_failure
from scaleexp.resume import Standing, standing, together, unfinished
from scaleexp.runlog import TrialLog, last_commit
from scaleexp.schedules import warmup_constant
from scaleexp.storage import Store
from scaleexp.trial import planned_trial
from scaleexp.workloads import make_workload
from scaleexp.writer import Writer

if TYPE_CHECKING:
    import torch

    from scaleexp.config import Study
    from scaleexp.engines.base import Engine
    from scaleexp.engines.packed import PackedEngine
    from scaleexp.trial import Trial
    from scaleexp.workloads.base import Workload

_AGREE_S = 1.0
"""About how often the processes of a trial agree on the time [seconds]."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a launcher hands to a process: everything but the trials.

    Attributes:
        study: the validated study.
        targets: its targets with their directions.
        root: where the study lives.
        git_sha: of the working tree that the command was given in.
        deadline: Unix time [s] after which trials stop unfinished; None for no limit.
        deadline_cause: the limit that set it, in words.
        fence: number of the driver's lease; None where nobody else can write.
        held_s: how long the driver will have held its lease at the deadline, by its own clock [seconds]: a process
            whose clock runs ahead does not stop before; None where it need not ask.
        code: file of a user's own script and its sha256, where it was found.
        directory: where the command was given.
    """

    study: Study
    targets: tuple[schema.Target, ...]
    root: str
    git_sha: str | None
    deadline: float | None
    deadline_cause: str
    fence: int | None = None
    held_s: float | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""

    def stop(self) -> str:
        """Why to stop now; empty to go on."""
        return why_stop(
            self.root,
            fence=self.fence,
            deadline=self.deadline,
            deadline_cause=self.deadline_cause,
            held_s=self.held_s,
        )


def workload_of(study: Study) -> Workload:
    """The study's workload, its data loaded; a process that asks again gets the same one.

    Raises:
        ConfigError: unknown workload, options it does not take, or data that are not installed.
    """
    precision = "float32" if study.dtype == "bf16" else study.dtype
    return _workload(study.workload.model_dump_json(), precision)


@lru_cache(maxsize=1)
def _workload(spec: str, dtype: str) -> Workload:
    options = json.loads(spec)
    return make_workload(options.pop("name"), options, dtype=dtype)


def noise_cadence(study: Study, engine: Engine, batch_size: int) -> tuple[int, dict[str, float]]:
    """Steps from one measurement of gradient norms to the next, and what that rests on; fixed before step 0.

    The study's own cadence if it sets one; else timed, so that measuring costs at most 5 % of the step time; else,
    where nothing is to depend on the clock, one measurement per evaluation and every eighth step at most.

    Returns:
        (steps, {"plain_s": of a plain step's gradients, "measuring_s": with norms, "noise_cost": extra share}).
    """
    from scaleexp.engines.choose import cadence

    if study.noise.every_samples is not None:
        every = max(1, math.ceil(study.noise.every_samples / batch_size))
    elif study.deterministic:
        every = max(study.noise.shards, math.ceil(study.evaluation.every_samples / batch_size))
    else:
        every = 0
    plain_s, measuring_s = engine.seconds(batch_size)
    every = every or cadence(plain_s, measuring_s)
    cost = max(measuring_s - plain_s, 0.0) / (plain_s * every)
    return every, {"plain_s": plain_s, "measuring_s": measuring_s, "noise_cost": cost}


def packed_engine(
    study: Study,
    workload: Workload,
    trials: Sequence[Trial],
    *,
    threads: int,
    device: str = "cpu",
    record: Mapping[str, Any] | None = None,
    at_once: int | None = None,
) -> PackedEngine:
    """The engine of a pack of virtual-worker trials, at step 0; by the choices on record, if there are any.

    `at_once` samples of a trial pass through its model together, at most; None for a micro-batch of every worker.
    """
    from scaleexp.engines.packed import PackedEngine

    one = replace(trials[0], engine="packed", processes=1)  # a pack may stand in for real workers, to be measured
    return PackedEngine(
        workload,
        seeds=[t.seed for t in trials],
        batch_size=trials[0].batch_size,
        workers=trials[0].workers,
        optimizer=study.optimizer.model_dump(),
        noise_shards=study.noise.shards,
        threads=record["threads"] if record else threads,
        statistics_group=trials[0].statistics_group,
        per_layer=study.noise.per_layer,
        autocast=study.dtype == "bf16",
        device=device,
        kernel="vmap" if study.deterministic else "time",
        compiled=study.compile,
        steps_ahead=trials[0].limit_steps,
        samples_at_once=at_once or wanted_at_once(one),
        evaluated_at_once=evaluated_at_once(one, at_once, record),
        record=record,
    )


def run_packed(assignment: Assignment, trials: Sequence[Trial], *, threads: int, device: str = "cpu") -> None:
    """Run trials of one batch size together on virtual workers, all in this process.

    Those that were interrupted go on from their last commits, in groups that have come equally far. Where memory runs
    out, fewer samples pass through the models at once.

    Raises:
        TrialsFailedError: there is too little memory for any way to compute the same.
    """
    store = Store(assignment.root)
    _set_torch(assignment.study)
    while not _packs_fit(assignment, store, trials, threads=threads, device=device):
        gc.collect()  # what the last try held
        if device == "cuda":
            import torch

            torch.cuda.empty_cache()


def _packs_fit(assignment: Assignment, store: Store, trials: Sequence[Trial], *, threads: int, device: str) -> bool:
    """Run what is unfinished; false where memory ran out, and then what did not fit is noted."""
    study = assignment.study
    if assignment.stop():
        return True
    refused, workload = memory.least_refused(store, "packed", 1), workload_of(study)
    groups = together([standing(store, trial) for trial in unfinished(store, trials, assignment.targets)])
    parts = [part for group in groups for part in split(workload, group, refused, _record_of("packed", group[0]))]
    for number, (group, at_once) in enumerate(parts):
        if number and assignment.stop():
            return True
        own, chosen = [s.trial for s in group], _record_of("packed", group[0])
        try:
            engine = packed_engine(study, workload, own, threads=threads, device=device, record=chosen, at_once=at_once)
            _train(assignment, store, workload, engine, group, lambda _, idle: _Clock(assignment, idle), at_once)
        except Exception as error:
            if not memory.exhausted(error):
                raise
            memory.refuse(store, "packed", 1, at_once * len(own), error)
            return False
    return True


def run_real(assignment: Assignment, trials: Sequence[Trial], *, device: torch.device) -> None:
    """Run trials one after another on the live process group; every rank calls this with the same trials.

    Raises:
        TrialRaisedError: one raised, on whichever process; who starts the group again goes on with the others.
        StorageError: the study could not be read or written.
    """
    import torch
    import torch.distributed as dist

    store = Store(assignment.root)
    study = assignment.study
    _set_torch(study)
    workload = workload_of(study)

    def all_told(flags: Sequence[bool]) -> list[bool]:
        """Of every process, whether it or another says so."""
        told = torch.tensor([float(flag) for flag in flags], device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)  # every rank stops at the same step or none does
        return [bool(flag) for flag in told.tolist()]

    waiting: list[Any] = [None]
    if dist.get_rank() == 0:
        own = unfinished(store, trials, assignment.targets)
        waiting = [[trial for trial in own if not failed_here(store, trial, assignment.fence)]]
    dist.broadcast_object_list(waiting, src=0)  # rank 0's view of the storage, so that no rank waits for another
    for trial in waiting[0]:
        if all_told([bool(assignment.stop())])[0]:
            return
        try:
            _run_one(assignment, store, workload, trial, device, all_told)
        except Exception as error:
            where = f" (in process {dist.get_rank()} of {dist.get_world_size()})"
            raise told_to_the_group(error, trial.key, where=where) from error
        # DDP's cycles keep the process group in use; freed at exit, after Python is gone, its threads abort.
        gc.collect()


def _run_one(
    assignment: Assignment,
    store: Store,
    workload: Workload,
    trial: Trial,
    device: torch.device,
    all_told: Callable[[Sequence[bool]], list[bool]],
) -> None:
    """One trial on the live process group; every process calls this alike."""
    import torch.distributed as dist

    from scaleexp.engines.ddp import DdpEngine

    study = assignment.study
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        found = [standing(store, trial), memory.least_refused(store, "ddp", trial.processes)]
    dist.broadcast_object_list(found, src=0)
    refused, record = found.pop(), _record_of("ddp", found[0])
    at_once = real_at_once(workload, trial, refused, record)
    if at_once is None:
        if dist.get_rank() == 0:
            record_failure(store, [trial.key], too_large([trial], refused), fence=assignment.fence)
        return
    try:
        engine = DdpEngine(
            workload,
            seed=trial.seed,
            batch_size=trial.batch_size,
            samples_at_once=at_once,
            evaluated_at_once=evaluated_at_once(trial, at_once, record),
            workers=trial.workers,
            optimizer=study.optimizer.model_dump(),
            noise_shards=study.noise.shards,
            device=device,
            statistics_group=trial.statistics_group,
            per_layer=study.noise.per_layer,
            autocast=study.dtype == "bf16",
            compiled=study.compile == "always",
        )
        _train(
            assignment,
            store,
            workload,
            engine,
            found,
            lambda s, idle: _AgreedClock(assignment, idle, all_told, s),
            at_once,
        )
    except Exception as error:
        if memory.exhausted(error):  # what starts the group again reads it
            memory.refuse(store, "ddp", trial.processes, at_once, error)
        raise


def failed_here(store: Store, trial: Trial, fence: int | None) -> bool:
    """Whether a trial has failed in this run of the study already."""
    commit = last_commit(store, trial.key)
    return bool(fence is not None and commit and commit["status"] == "failed" and commit.get("fence") == fence)


def _set_torch(study: Study) -> None:
    """Reproducible algorithms or an error, where the study asks for that."""
    import torch

    if study.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


class _Clock:
    """Tells the loop when to commit and when to stop."""

    def __init__(self, assignment: Assignment, idle: Callable[[], bool]) -> None:
        self._assignment, self._idle = assignment, idle
        self._committed_s = time.monotonic()

    def __call__(self) -> Signal:
        """What the clock says now."""
        due = time.monotonic() - self._committed_s >= self._assignment.study.checkpoint.every_s and self._idle()
        if due:
            self._committed_s = time.monotonic()
        return Signal(self._assignment.stop(), due)


class _AgreedClock(_Clock):
    """One that every process of a trial hears alike; they agree about once a second, not after every step."""

    def __init__(
        self,
        assignment: Assignment,
        idle: Callable[[], bool],
        all_told: Callable[[Sequence[bool]], list[bool]],
        step_s: float,
    ) -> None:
        super().__init__(assignment, idle)
        self._all_told = all_told
        self._every, self._steps = max(1, int(_AGREE_S / step_s)), 0

    def __call__(self) -> Signal:
        """What the clock of any process says, once in a number of steps."""
        self._steps += 1
        if self._steps % self._every:
            return Signal()
        own = super().__call__()
        asked, late, commit = self._all_told([own.stop == ASKED, own.stop not in ("", ASKED), own.commit])
        if commit:
            self._committed_s = time.monotonic()
        return Signal(ASKED if asked else self._assignment.deadline_cause if late else "", commit)


def _record_of(engine: str, standing: Standing) -> dict[str, Any] | None:
    """The choices that a trial began with, if it is to go on with the engine that it began on."""
    record = standing.record
    return record if record and record["engine"] == engine else None


def _train(
    assignment: Assignment,
    store: Store,
    workload: Workload,
    engine: Engine,
    group: Sequence[Standing],
    clock: Callable[[float, Callable[[], bool]], Clock],
    at_once: int,
) -> None:
    """Drive one engine through trials that have come equally far.

    Args:
        assignment: the study.
        store: its storage.
        workload: its workload.
        engine: at step 0.
        group: its trials.
        clock: seconds of a step, whether this process writes and has written all -> what tells the loop the time.
        at_once: samples of a trial that a process may hold.
    """
    study, trials = assignment.study, [s.trial for s in group]
    batch_size, commit = trials[0].batch_size, group[0].commit
    record = _record_of(engine.realisation["engine"], group[0])
    if record and commit:
        fits = {n: engine.realisation[n] for n in ("samples_at_once", "evaluated_at_once")}
        realisation, timings = record | fits, commit.get("timings", {})
    else:
        every, cost = noise_cadence(study, engine, batch_size)
        realisation = engine.realisation | {"noise_every_steps": every, "deterministic": study.deterministic}
        timings = engine.timings | cost
    if group[0].step:
        engine.restore([s.decoded() for s in group])
    recipe = Recipe(
        batch_size=batch_size,
        limit_samples=trials[0].limit_samples,
        evaluate_every=study.evaluation.every_samples,
        noise_every=realisation["noise_every_steps"],
        targets=assignment.targets,
        schedule=partial(warmup_constant, warmup_samples=study.warmup_samples),
        keep_finished=study.checkpoint.keep_finished,
    )
    start = Start(step=group[0].step, values=[s.values for s in group], committed=record is not None)
    goal = schema.Goal(
        targets={t["metric"]: t["values"][-1] for t in assignment.targets}, limit_samples=trials[0].limit_samples
    )
    with Writer() as writer:
        logs = [
            TrialLog(
                store,
                trial_facts(assignment, workload, engine, s.trial, micro_batch_of(s.trial, at_once)),
                realisation,
                timings,
                goal,
                goes_on=s.commit,
                fence=assignment.fence,
                writer=writer,
            )
            if engine.leader
            else None
            for s in group
        ]
        rates = [t.lr for t in trials]
        train_pack(
            engine,
            rates,
            logs,
            recipe,
            clock(timings.get("plain_s", _AGREE_S), lambda: engine.leader and writer.idle),
            start,
        )


def trial_facts(
    assignment: Assignment, workload: Workload, engine: Engine, trial: Trial, micro_batch: int | None = None
) -> schema.TrialFacts:
    """What trial.json says; with another micro-batch than the plan's, if that is given."""
    study, micro_batch = assignment.study, micro_batch or trial.micro_batch
    return {
        "schema_version": schema.SCHEMA_VERSION,
        **planned_trial(trial),
        "micro_batch": micro_batch,
        "accumulation_steps": trial.batch_size // trial.workers // micro_batch,
        "optimizer": study.optimizer.model_dump(mode="json"),
        "workload": {"name": study.workload.name, **study.workload.options},
        "dtype": study.dtype,
        "unit": workload.unit,
        "n_train": workload.n_train,
        "n_parameters": engine.n_parameters,
        "data_sha256": workload.data_sha256,
        "limit_samples": trial.limit_samples,
        "versions": facts.versions(),
        "git_sha": assignment.git_sha,
        "hardware": facts.hardware(),
        "created_utc": facts.utc_now(),
        "sample_order": "by index",
    }
