"""Ray Tune executes the packs of a study; what runs, what is done and what failed is read from the study's own log.

One `Tuner.fit` phase for the packed trials and one per real-worker count, so that a group that is launched always
fits. Tune's search, schedulers, checkpoints and restore are not used.
"""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleexp.commits import last_commit
from scaleexp.errors import StorageError, TrialsFailedError
from scaleexp.execute import Assignment, run_packed
from scaleexp.launch.cluster import set_environment
from scaleexp.launch.command import run_command
from scaleexp.launch.logs import captured, ray_messages, run_directory, tidy
from scaleexp.launch.train import WORKER_DEATHS, run_worker_group
from scaleexp.memory import told
from scaleexp.packing import cost, packs, spread
from scaleexp.redact import redact
from scaleexp.restating import record_failure
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.launch.cluster import Resources
    from scaleexp.trial import Trial

_HEAD = {"node:__internal_head__": 0.001, "memory": 1e6}
"""A driver of real workers holds no CPU, or nested groups wait for each other for ever; it stays on the head node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackFailure:
    """A pack that did not end.

    Attributes:
        trials: keys of its trials; those that had finished are still good.
        cause: one line.
        storage: whether it was the study's storage that failed.
        log: file or directory with what its processes printed; None where nothing of it is seen from here.
    """

    trials: tuple[str, ...]
    cause: str
    storage: bool = False
    log: Path | None = None


def run_phases(assignment: Assignment, trials: Sequence[Trial], resources: Resources) -> list[PackFailure]:
    """Run all trials; virtual-worker packs first, one per core at a time, then real workers by their count.

    Args:
        assignment: the study and its storage.
        trials: what to run; finished ones are skipped where they would run.
        resources: of the cluster.

    Returns:
        What failed, each recorded where its trials stand; divergence is a result, not a failure.
    """
    failures: list[PackFailure] = []
    by_processes = sorted(trials, key=lambda t: (t.real, t.processes))
    logs = run_directory(assignment.root, assignment.fence)
    with (
        ray_messages(logs / "ray.log"),
        tempfile.TemporaryDirectory(prefix="scaleexp-ray-", ignore_cleanup_errors=True) as output,
    ):
        for _, phase in groupby(by_processes, key=lambda t: (t.engine, t.processes)):
            if assignment.stop():
                break
            slots, own = resources.gpus or resources.cpus, list(phase)
            chosen = _packs(own, slots, assignment.study.cpus_per_worker if not resources.gpus else 1)
            threads = 1 if assignment.study.deterministic else threads_each(len(chosen), resources)
            use_gpu = resources.gpus > 0
            failures += _fit(assignment, chosen, use_gpu=use_gpu, threads=threads, output=output, logs=logs)
    tidy(logs)
    for failure in failures:
        if not failure.storage:
            with suppress(StorageError, FileExistsError):  # told all the same
                record_failure(Store(assignment.root), failure.trials, failure.cause, fence=assignment.fence)
    return failures


def _packs(trials: Sequence[Trial], slots: int, of_a_worker: int) -> list[tuple[Trial, ...]]:
    """What one Ray task runs: trials together, by a group of workers one after another, or the one of a command."""
    one = trials[0]
    if one.engine == "packed":
        return packs(trials, slots=slots)
    if one.engine == "command":
        return [(trial,) for trial in sorted(trials, key=lambda t: cost([t]), reverse=True)]
    return spread(trials, slots // (one.processes * of_a_worker))


def threads_each(packs: int, resources: Resources) -> int:
    """CPU threads of a pack, so that those that run at the same time fill the CPUs and no CPU has two of them.

    >>> from scaleexp.launch.cluster import Resources
    >>> two_nodes = Resources(cpus=16, gpus=0, node_cpus=8)
    >>> [threads_each(n, two_nodes) for n in (20, 4, 1)]
    [1, 4, 8]
    """
    at_once = max(1, min(packs, resources.gpus or resources.cpus))
    return max(1, min(resources.cpus // at_once, resources.node_cpus))


def _log_of(logs: Path, pack: Sequence[Trial], number: int) -> Path:
    """File of a pack, or directory with one for each process of a group of real workers."""
    one = pack[0]
    if one.engine == "command":
        return logs / f"{one.key}.log"
    return logs / (f"real-{one.processes}-{number}" if one.real else f"packed-{number}.log")


def _fit(
    assignment: Assignment,
    chosen: Sequence[tuple[Trial, ...]],
    *,
    use_gpu: bool,
    threads: int,
    output: str,
    logs: Path,
) -> list[PackFailure]:
    """One Tune phase: every pack is one Tune trial, started in the order given.

    Ray's own files go to `output`, which nobody reads: they are pickles of all that a study says.
    """
    from ray import tune

    from scaleexp.launch.deadline import STARTING_S, StartDeadline, no_driver, no_place
    from scaleexp.launch.killed import NotesKilledPacks, tune_survives_kills

    one, cpus = chosen[0][0], assignment.study.cpus_per_worker
    real = one.engine in ("ddp", "entrypoint")
    name = f"{'real' if real else one.engine}-{uuid.uuid4().hex[:8]}"

    def run_pack(config: dict[str, Any]) -> dict[str, Any]:
        """Runs in a Ray worker. An error becomes a result: only the death of the process is retried."""
        number, pack = config["pack"], chosen[config["pack"]]
        log = _log_of(logs, pack, number)
        set_environment()
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            with captured(log / "group.log" if real else log, f"trials {', '.join(t.key for t in pack)}"):
                if real:
                    group = f"{name}-{number}-{uuid.uuid4().hex[:8]}"
                    run_worker_group(assignment, pack, use_gpu=use_gpu, name=group, output=output, logs=log)
                elif one.engine == "command":
                    run_command(assignment, pack[0], threads=cpus)
                else:
                    run_packed(assignment, pack, threads=threads, device="cuda" if use_gpu else "cpu")
        except Exception as error:  # noqa: BLE001  # whatever a user's workload raises; told, and exit code 3
            named = str(error) if isinstance(error, TrialsFailedError) else f"{type(error).__name__}: {error}"
            return {"cause": redact(named), "storage": isinstance(error, StorageError)}
        return {"cause": ""}

    slots = one.workers if one.engine == "command" else 1
    own_cpus = float(slots * cpus if one.engine == "command" else threads)
    bundle = _HEAD if real else {"CPU": own_cpus, **({"GPU": float(slots)} if use_gpu else {})}
    start_s = assignment.study.limits.start_s
    deadline = StartDeadline(start_s + (STARTING_S if real else 0.0))
    tuner = tune.Tuner(
        tune.with_resources(run_pack, tune.PlacementGroupFactory([bundle])),
        param_space={"pack": tune.grid_search(list(range(len(chosen))))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name=name,
            storage_path=output,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS),
            callbacks=[deadline] if real else [deadline, NotesKilledPacks(assignment.root, chosen)],
            stop=deadline,
        ),
    )
    with tune_survives_kills():
        results = tuner.fit()
    unplaced = ""
    if deadline.passed:
        kind, what = "GPU" if use_gpu else "CPU", "a command" if one.scripted else "a pack of trials"
        unplaced = no_driver(start_s) if real else no_place(what, bundle[kind], kind, start_s)
    ended: dict[int, tuple[str, bool]] = {}
    for number, result in enumerate(results):
        metrics = result.metrics or {}
        cause = str(result.error) if result.error else str(metrics.get("cause", unplaced))
        pack = (result.config or {}).get("pack", number)  # one that never ran has none
        ended[pack] = cause, bool(metrics.get("storage"))
    return [
        f
        for n, own in enumerate(chosen)
        for f in _failures(assignment, own, *ended.get(n, (unplaced, False)), _log_of(logs, own, n))
    ]


def _failures(
    assignment: Assignment, pack: Sequence[Trial], cause: str, storage: bool, log: Path
) -> Iterator[PackFailure]:
    """What failed of a pack: all of it for a cause, or the trials that failed while others of it went on."""
    seen = log if log.exists() else None
    if cause:
        last_line = told(cause).strip().splitlines()[-1]
        yield PackFailure(trials=tuple(t.key for t in pack), cause=last_line, storage=storage, log=seen)
        return
    store = Store(assignment.root)
    for trial in pack:
        commit = last_commit(store, trial.key) if trial.real else None
        if commit and commit["status"] == "failed" and commit.get("fence") == assignment.fence:
            yield PackFailure(trials=(trial.key,), cause=commit["cause"], log=seen)
