"""A study from its file to its last commit: prepare the storage, launch, watch, sum up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleexp import facts, lease
from scaleexp.commits import Commits, last_commits
from scaleexp.errors import NotEnoughDataError, StorageError, TrialsFailedError
from scaleexp.execute import Assignment
from scaleexp.launch.opening import Prepared, check_held, open_study
from scaleexp.launch.opening import prepare as prepare
from scaleexp.progress import Watch, shown
from scaleexp.restating import record_stop
from scaleexp.resume import unfinished
from scaleexp.spending import LEAST_S, Holding, Left, Used, check_countable, used
from scaleexp.spending import left as left_of
from scaleexp.stopping import stopping
from scaleexp.storage import Store
from scaleexp.tidying import merged_twice, remove_merged

if TYPE_CHECKING:
    from scaleexp.config import Study
    from scaleexp.launch.tune import PackFailure
    from scaleexp.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        root: where the study lives: an absolute path, or an address.
        ended: number of trials by status, over the whole plan.
        seconds: wall time of this run.
        asked: whether somebody asked it to stop.
        met: the limit that stopped it; None if none did.
        used: what all runs of the study have used up to its end; None if nothing was left to run.
    """

    root: str
    ended: Mapping[str, int]
    seconds: float
    asked: bool = False
    met: Left | None = None
    used: Used | None = None


def run_study(prepared: Prepared, root: str | Path, tell: Callable[[str], None] = lambda line: None) -> Outcome:
    """Run everything of a study that is not finished yet, on Ray, and sum up.

    Args:
        prepared: the study.
        root: where it lives.
        tell: is told in one line what the user has to wait for.

    Raises:
        ConfigError: the directory holds another study.
        InfeasibleError: its real workers can never be placed.
        StorageError: what was trained could not be written, or another driver runs the study.
        TrialsFailedError: some trials failed; the others are committed.
        NotEnoughDataError: every trial diverged; all are committed.
    """
    begin = time.monotonic()
    store = Store(root)
    check_held(prepared, store)
    waiting = unfinished(store, prepared.plan.trials, prepared.targets)
    ran = _Ran()
    if not waiting:
        open_study(prepared, root)  # what is asked may be new though nothing is left to run
        if merged_twice(store, [t.key for t in prepared.plan.trials]):
            with lease.held(store, tell=tell) as fence:
                remove_merged(store, [t.key for t in prepared.plan.trials], fence)
    elif (left := _left(prepared.study, store, Holding(workers=0, gpus=0), begin)).seconds < LEAST_S:
        ran = _nothing_left(prepared, store, left, tell)
    else:
        ran = _on_ray(prepared, store, waiting, begin, tell)
    commits = last_commits(store, [t.key for t in prepared.plan.trials])
    outcome = Outcome(
        root=store.root,
        ended=dict(Counter(c["status"] if c else "waiting" for c in commits.values())),
        seconds=time.monotonic() - begin,
        asked=ran.asked,
        met=ran.met,
        used=ran.used,
    )
    unwritten = next((f for f in ran.failures if f.storage), None)
    if unwritten:
        raise StorageError(unwritten.cause)
    if not outcome.asked:
        _raise_failures(prepared, store, outcome, ran.failures, commits)
    if set(outcome.ended) == {"diverged"}:
        raise _all_diverged(prepared, store, commits)
    return outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ran:
    """What became of a run: see `Outcome`; `failures` are packs that did not end."""

    failures: Sequence[PackFailure] = ()
    asked: bool = False
    met: Left | None = None
    used: Used | None = None


def _on_ray(
    prepared: Prepared, store: Store, waiting: Sequence[Trial], begin: float, tell: Callable[[str], None]
) -> _Ran:
    """Run what is waiting on Ray, until it has ended, somebody asks it to stop, or a limit is met."""
    from scaleexp.launch.cluster import ray_cluster
    from scaleexp.launch.tune import run_phases

    study = prepared.study
    lease.refuse_if_run_here(store)
    tell("joining or starting Ray, which takes some seconds")
    # Only then: a study that can never run leaves no directory behind.
    with ray_cluster(waiting, study.cpus_per_worker) as resources:
        now = Holding(
            workers=resources.gpus or resources.cpus,
            gpus=resources.gpus,
            usd_per_worker_hour=study.price_usd_per_worker_hour,
        )
        check_countable(study, now)
        if (left := _left(study, store, now, begin)).seconds < LEAST_S:
            return _nothing_left(prepared, store, left, tell)
        with lease.held(store, tell=tell, holding=now.on_record(study.limits)) as fence:
            held_from, clock = time.monotonic(), time.time()
            left = _left(study, store, now, begin, before=fence)
            cut_s = left.cut_s - (time.monotonic() - held_from)
            failures: Sequence[PackFailure] = ()
            with stopping(store, tell, cut_s=cut_s) as cut:
                try:
                    open_study(prepared, store.root)
                    waiting = unfinished(store, prepared.plan.trials, prepared.targets)
                    assignment = _assignment(prepared, store, fence, clock, left)
                    with shown(Watch.from_now(store, waiting)):
                        failures = run_phases(assignment, waiting, resources)
                except KeyboardInterrupt:
                    if not cut.is_set():
                        raise
                    _end_workers()
            remove_merged(store, [t.key for t in prepared.plan.trials], fence)
            asked = lease.stop_requested(store, fence)
            unended = unfinished(store, prepared.plan.trials, prepared.targets)
            met = left if unended and not asked and time.monotonic() - held_from >= left.tidy_s else None
            if met:
                record_stop(store, [t.key for t in unended], met.cause, fence=fence)
        return _Ran(failures=failures, asked=asked, met=met, used=used(store, now))


def _end_workers() -> None:
    """Now, and not when the cluster is left: until then they are held."""
    import ray

    ray.shutdown()


def _nothing_left(prepared: Prepared, store: Store, left: Left, tell: Callable[[str], None]) -> _Ran:
    """What a run comes to that may hold nothing: trials that a killed one left under way are said to be stopped."""
    nothing = Holding(workers=0, gpus=0, usd_per_worker_hour=prepared.study.price_usd_per_worker_hour)
    with lease.held(store, tell=tell, holding=nothing.on_record(prepared.study.limits)) as fence:
        open_study(prepared, store.root)
        record_stop(
            store, [t.key for t in unfinished(store, prepared.plan.trials, prepared.targets)], left.cause, fence=fence
        )
    return _Ran(met=left, used=used(store, nothing))


def _left(study: Study, store: Store, now: Holding, begin: float, before: int | None = None) -> Left:
    """What the study's limits leave to a run that began then, on the monotonic clock."""
    return left_of(study.limits, now, used(store, now, before=before), time.monotonic() - begin)


def _raise_failures(
    prepared: Prepared, store: Store, outcome: Outcome, failures: Sequence[PackFailure], commits: Commits
) -> None:
    """Of trials; those that a limit kept from beginning or ending did not fail.

    Raises:
        TrialsFailedError: some trials failed.
    """
    unended = ("failed",) if outcome.met else ("failed", "waiting", "running")
    count = sum(outcome.ended.get(s, 0) for s in unended)
    broken = _first_failure(commits) or next(((f.trials[0], f.cause) for f in failures), None)
    if broken and count:  # a process that died after its last commit lost nothing
        raise TrialsFailedError(
            f"{count} of {len(prepared.plan.trials)} trials failed; the first cause was {broken[1]!r} "
            f"(trial {broken[0]}).{_printed(failures, broken[0])} "
            f"What was committed is kept in {store.root}; run the same command to try again."
        )


def _printed(failures: Sequence[PackFailure], key: str) -> str:
    """Where to read what the processes of a trial that failed have printed."""
    log = next((f.log for f in failures if key in f.trials), None)
    return f" What its processes printed is in {log}." if log else ""


def _all_diverged(prepared: Prepared, store: Store, commits: Commits) -> NotEnoughDataError:
    """Nothing can be fitted; the trial of the lowest LR says most about why."""
    trials = prepared.plan.trials
    slowest = min(trials, key=lambda t: (t.lr, t.batch_size))
    commit = commits[slowest.key]
    assert commit is not None, "it diverged"
    return NotEnoughDataError(
        f"all {len(trials)} trials diverged, so there is nothing to fit: even at the lowest LR, {slowest.lr:g}, with "
        f"batch size {slowest.batch_size}, {commit['cause']} after {commit['step']} steps. Lower base.lr or "
        f"lr_multipliers, or add warmup_samples; what was measured is kept in {store.root}."
    )


def _first_failure(commits: Commits) -> tuple[str, str] | None:
    """Key and cause of a trial that failed."""
    return next(((key, c["cause"]) for key, c in commits.items() if c and c["status"] == "failed"), None)


def _assignment(prepared: Prepared, store: Store, fence: int, clock: float, left: Left) -> Assignment:
    """Of a run that took its lease at a Unix time [seconds]."""
    return Assignment(
        study=prepared.study,
        targets=prepared.targets,
        root=str(store.root),
        git_sha=facts.git_sha(Path.cwd()),
        deadline=clock + left.tidy_s if left.limit else None,
        deadline_cause=left.cause,
        fence=fence,
        code=prepared.code,
        directory=str(Path.cwd()),
    )
