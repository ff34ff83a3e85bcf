"""A study from its file to its last commit: prepare the storage, launch, watch, sum up."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scaleexp import facts, lease, schema
from scaleexp.commits import last_commit, newest_plan
from scaleexp.config import Study, check_against_data, validate_study
from scaleexp.errors import ConfigError, StorageError, TrialsFailedError
from scaleexp.execute import Assignment, workload_of
from scaleexp.growth import check_growth, differences
from scaleexp.plan import directed_targets, make_plan
from scaleexp.progress import Watch, shown
from scaleexp.redact import redacted
from scaleexp.resume import unfinished
from scaleexp.stopping import stopping
from scaleexp.storage import Store
from scaleexp.trial import Plan

if TYPE_CHECKING:
    from scaleexp.launch.cluster import Resources
    from scaleexp.launch.tune import PackFailure
    from scaleexp.trial import Trial
    from scaleexp.workloads.base import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A study that was checked against its data.

    Attributes:
        study: as validated.
        plan: its trials.
        targets: with their directions.
        workload: its workload, the data loaded.
    """

    study: Study
    plan: Plan
    targets: tuple[schema.Target, ...]
    workload: Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        root: where the study lives: an absolute path, or an address.
        ended: number of trials by status, over the whole plan.
        seconds: wall time of this run.
        asked: whether somebody asked it to stop.
    """

    root: str
    ended: Mapping[str, int]
    seconds: float
    asked: bool = False


def prepare(study: Study) -> Prepared:
    """Load the workload, check the study against it, and plan.

    Raises:
        ConfigError: a batch larger than the data, a metric that is never reported, options of no use, ...
    """
    from scaleexp.exact_layers import has_batch_norm

    workload = workload_of(study)
    check_against_data(study, workload.n_train, workload.metrics)
    if workload.couples_examples and study.split[1] > 1:
        raise ConfigError(
            f"The loss of workload {study.workload.name!r} couples the examples of a batch, so micro-batches cannot be "
            f"accumulated: set accumulation_steps to 1 (it is {study.split[1]})."
        )
    plan = make_plan(study, workload.data_sha256, has_batch_norm=has_batch_norm(workload.model(0)))
    targets = tuple(directed_targets(study, workload.metrics))
    return Prepared(study=study, plan=plan, targets=targets, workload=workload)


def open_study(prepared: Prepared, root: str | Path) -> Store:
    """Create the study directory, or go on with one that holds this study or less of it.

    Raises:
        ConfigError: it holds another study.
        StorageError: it cannot be written.
    """
    store = Store(root)
    held = _check_held(prepared, store)
    with suppress(FileExistsError):
        store.write_json(schema.STUDY_FILE, _dumped(prepared))
    plan = _plan_file(prepared)
    if held is None or differences(_without_study(held[1]), _without_study(plan)):
        store.write_json(f"{schema.PLAN_DIR}/{held[0] + 1 if held else 1:04d}.json", plan)
    return store


def _dumped(prepared: Prepared) -> dict[str, Any]:
    study: dict[str, Any] = redacted(prepared.study.model_dump(mode="json"))
    return {"schema_version": schema.SCHEMA_VERSION, **study}


def _plan_file(prepared: Prepared) -> schema.PlanFile:
    plan = prepared.plan.to_file(list(prepared.targets), unit=prepared.workload.unit)
    return cast("schema.PlanFile", json.loads(json.dumps({**redacted(plan), "resolved": _dumped(prepared)})))


def _without_study(plan: schema.PlanFile) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "resolved"}


def _check_held(prepared: Prepared, store: Store) -> tuple[int, schema.PlanFile] | None:
    """Number and content of the newest plan of a directory that holds this study, or less of it; None if it is empty.

    Raises:
        ConfigError: it holds another study, or one planned from other data.
    """
    found = newest_plan(store)
    if found is None:
        return None
    plan = found[1]
    study = _with_defaults(plan.get("resolved") or store.read_json(schema.STUDY_FILE))
    check_growth(study, _dumped(prepared), plan, _plan_file(prepared), where=str(store.root))
    return found


def _with_defaults(held: dict[str, Any]) -> dict[str, Any]:
    """A stored study with the defaults of fields that it was written without, or as it is if it is none any more."""
    fields = {key: value for key, value in held.items() if key != "schema_version"}
    with suppress(ConfigError):
        return {**held, **validate_study(fields, schema.STUDY_FILE).model_dump(mode="json")}
    return held


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
    """
    from scaleexp.launch.cluster import ray_cluster
    from scaleexp.launch.tune import run_phases

    begin = time.monotonic()
    store = Store(root)
    _check_held(prepared, store)
    waiting = unfinished(store, prepared.plan.trials, prepared.targets)
    failures, asked = [], False
    if not waiting:
        open_study(prepared, root)  # what is asked may be new though nothing is left to run
    else:
        # Only now: a study that can never run leaves no directory behind.
        with ray_cluster(waiting) as resources, lease.held(store, tell=tell) as fence, stopping(store, tell):
            open_study(prepared, root)
            waiting = unfinished(store, prepared.plan.trials, prepared.targets)
            assignment = _assignment(prepared, store, resources, fence)
            with shown(Watch.from_now(store, waiting)):
                failures = run_phases(assignment, waiting, resources)
            asked = lease.stop_requested(store, fence)
    ended = statuses(store, prepared.plan.trials)
    outcome = Outcome(root=store.root, ended=ended, seconds=time.monotonic() - begin, asked=asked)
    if asked:
        return outcome
    count = sum(outcome.ended.get(s, 0) for s in ("failed", "waiting", "running"))
    unwritten = next((f for f in failures if f.storage), None)
    if unwritten:
        raise StorageError(unwritten.cause)
    broken = _first_failure(store, prepared.plan.trials) or next(((f.trials[0], f.cause) for f in failures), None)
    if broken and count:  # a process that died after its last commit lost nothing
        raise TrialsFailedError(
            f"{count} of {len(prepared.plan.trials)} trials failed; the first cause was {broken[1]!r} "
            f"(trial {broken[0]}).{_printed(failures, broken[0])} "
            f"The others are kept in {store.root}; run the same command to try again."
        )
    return outcome


def _printed(failures: Sequence[PackFailure], key: str) -> str:
    """Where to read what the processes of a trial that failed have printed."""
    log = next((f.log for f in failures if key in f.trials), None)
    return f" What its processes printed is in {log}." if log else ""


def _first_failure(store: Store, trials: Sequence[Trial]) -> tuple[str, str] | None:
    """Key and cause of a trial that failed."""
    commits = ((t.key, last_commit(store, t.key)) for t in trials)
    return next(((key, c["cause"]) for key, c in commits if c and c["status"] == "failed"), None)


def statuses(store: Store, trials: Sequence[Trial]) -> dict[str, int]:
    """Number of trials by the status of their last commit; `waiting` for those without one."""
    commits = [last_commit(store, t.key) for t in trials]
    return dict(Counter(c["status"] if c else "waiting" for c in commits))


def _assignment(prepared: Prepared, store: Store, resources: Resources, fence: int) -> Assignment:
    seconds, cause = _time_allowed(prepared.study, resources)
    return Assignment(
        study=prepared.study,
        targets=prepared.targets,
        root=str(store.root),
        git_sha=facts.git_sha(Path.cwd()),
        deadline=time.time() + seconds if seconds is not None else None,
        deadline_cause=cause,
        fence=fence,
    )


def _time_allowed(study: Study, resources: Resources) -> tuple[float | None, str]:
    """Seconds until the first of the study's limits is met with everything busy, and which limit it is."""
    limits = study.limits
    bounds: list[tuple[float, str]] = []
    if limits.wall_s is not None:
        bounds.append((limits.wall_s, f"limits.wall_s = {limits.wall_s:g}"))
    if limits.gpu_hours is not None and not resources.gpus:
        raise ConfigError("limits.gpu_hours is set and Ray has no GPU: set limits.wall_s instead.")
    if limits.gpu_hours is not None:
        bounds.append((limits.gpu_hours * 3600.0 / resources.gpus, f"limits.gpu_hours = {limits.gpu_hours:g}"))
    if limits.usd is not None and study.price_usd_per_worker_hour:
        rate = study.price_usd_per_worker_hour * (resources.gpus or resources.cpus) / 3600.0
        bounds.append((limits.usd / rate, f"limits.usd = {limits.usd:g}"))
    return min(bounds, default=(None, ""))
