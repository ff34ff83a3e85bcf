"""A study from its file to its last commit: prepare the storage, launch, watch, sum up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleexp import facts, lease
from scaleexp.commits import last_commits
from scaleexp.errors import ClusterLostError, StorageError
from scaleexp.execute import Assignment
from scaleexp.launch.opening import Prepared, check_held, open_study
from scaleexp.launch.opening import prepare as prepare
from scaleexp.launch.outcome import Outcome as Outcome
from scaleexp.launch.outcome import all_diverged, raise_failures, raise_unended
from scaleexp.progress import Watch, shown
from scaleexp.restating import record_stop
from scaleexp.resume import unfinished
from scaleexp.spending import LEAST_S, Holding, Left, Used, check_countable, used
from scaleexp.spending import left as left_of
from scaleexp.stopping import TIME_IS_UP, Cut, stopping
from scaleexp.storage import Store
from scaleexp.tidying import merged_twice, remove_merged

if TYPE_CHECKING:
    from scaleexp.config import Study
    from scaleexp.launch.cluster import Resources
    from scaleexp.launch.tune import PackFailure
    from scaleexp.trial import Trial


def run_study(
    prepared: Prepared,
    root: str | Path,
    tell: Callable[[str], None] = lambda line: None,
    *,
    resume: str = "the same command goes on from there",
) -> Outcome:
    """Run everything of a study that is not finished yet, on Ray, and sum up.

    Args:
        prepared: the study.
        root: where it lives.
        tell: is told in one line what the user has to wait for.
        resume: how to go on, for who is told that the cluster is gone.

    Raises:
        ConfigError: the directory holds another study.
        InfeasibleError: its real workers can never be placed.
        StorageError: what was trained could not be written, or another driver runs the study.
        TrialsFailedError: some trials failed; the others are committed.
        ClusterLostError: Ray failed, or its cluster is gone; what was committed is kept.
        InterruptedStudyError: trials stopped though neither a limit nor anybody told them to.
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
        ran = _on_ray(prepared, store, waiting, begin, tell, resume)
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
        raise_failures(prepared, store, outcome, ran.failures, commits)
    if set(outcome.ended) == {"diverged"}:
        raise all_diverged(prepared, store, commits)
    if not outcome.asked and not outcome.met:
        raise_unended(outcome)
    return outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ran:
    """What became of a run: see `Outcome`; `failures` are packs that did not end."""

    failures: Sequence[PackFailure] = ()
    asked: bool = False
    met: Left | None = None
    used: Used | None = None


def _on_ray(
    prepared: Prepared, store: Store, waiting: Sequence[Trial], begin: float, tell: Callable[[str], None], resume: str
) -> _Ran:
    """Run what is waiting on Ray, until it has ended, somebody asks it to stop, or a limit is met."""
    from scaleexp.launch.cluster import ray_cluster
    from scaleexp.launch.vital import end_unless

    lease.refuse_if_run_here(store)
    tell("joining or starting Ray, which takes some seconds")
    over = threading.Event()

    def lost(why: str) -> ClusterLostError:
        return ClusterLostError(f"{why}; what was committed is kept in {store.root}, and {resume}")

    def gone(what: str, cut: Cut) -> None:
        why = f"the Ray cluster is gone ({what} does not answer)"
        cut.now(why)
        end_unless(over, lambda: tell(f"error: {lost(why)}"), ClusterLostError.exit_code)

    try:
        # Only then: a study that can never run leaves no directory behind.
        with ray_cluster(waiting, prepared.study.cpus_per_worker) as resources:
            return _joined(prepared, store, resources, begin, tell, gone)
    except ClusterLostError as error:
        raise lost(str(error)) from error
    finally:
        over.set()


def _joined(
    prepared: Prepared,
    store: Store,
    resources: Resources,
    begin: float,
    tell: Callable[[str], None],
    gone: Callable[[str, Cut], None],
) -> _Ran:
    """The same, on a cluster; `gone` is told what of it does not answer any more, and who can be interrupted."""
    from scaleexp.launch.tune import run_phases
    from scaleexp.launch.vital import doors, watched

    study = prepared.study
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
        with stopping(store, tell, cut_s=cut_s) as cut, watched(doors(), lambda what: gone(what, cut)):
            try:
                open_study(prepared, store.root)
                waiting = unfinished(store, prepared.plan.trials, prepared.targets)
                assignment = _assignment(prepared, store, fence, clock, left)
                with shown(Watch.from_now(store, waiting)):
                    failures = run_phases(assignment, waiting, resources)
            except KeyboardInterrupt:
                if not cut.why:
                    raise
                if cut.why != TIME_IS_UP:
                    raise ClusterLostError(cut.why) from None
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
        held_s=left.tidy_s if left.limit else None,
        code=prepared.code,
        directory=str(Path.cwd()),
    )
