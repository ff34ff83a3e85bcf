"""Ray Train: one live group of real workers that runs a pack of trials one after another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleexp.errors import ScaleexpError, TrialsFailedError
from scaleexp.launch.logs import captured
from scaleexp.memory import MOST_TRIES, least_refused
from scaleexp.raised import TrialRaisedError, told_to_the_group
from scaleexp.restating import record_failure
from scaleexp.resume import unfinished
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.execute import Assignment
    from scaleexp.trial import Trial


WORKER_DEATHS = 2
"""A pack of which a process dies starts again this often."""
STARTS = 3
"""A group whose workers die before they train is started this often."""
_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # of the wait for a place; Ray Train knows no other way to set it


def _work(config: dict[str, Any]) -> None:
    """What each worker process runs: every trial of the pack, on the process group that Ray Train has set up."""
    from ray.train import get_context
    from ray.train.torch import get_device

    from scaleexp.execute import run_real
    from scaleexp.launch.entrypoint import run_entrypoint

    rank, trials = get_context().get_world_rank(), config["trials"]
    with captured(config["logs"] / f"rank-{rank}.log", f"rank {rank} of trials {', '.join(t.key for t in trials)}"):
        try:
            if trials[0].engine == "entrypoint":
                run_entrypoint(config["assignment"], trials)
            else:
                run_real(config["assignment"], trials, device=get_device())
        except Exception as error:
            raise told_to_the_group(error) from error


def run_worker_group(
    assignment: Assignment, trials: Sequence[Trial], *, use_gpu: bool, name: str, output: str, logs: Path
) -> None:
    """Launch as many worker processes as these trials ask for and run all of them; returns when they are done.

    `ray.train.report` is never called: rows and commits go to the study's storage from rank 0. A trial that raises, on
    whichever rank, is committed as failed once, and the others go on in a group that is started anew.

    Args:
        assignment: the study and its storage.
        trials: real-worker trials of one worker count.
        use_gpu: one GPU per worker and NCCL, else one CPU per worker and gloo.
        name: of the group; unique, because Ray Train resumes a name that it has seen.
        output: directory for Ray Train's own files.
        logs: directory for what the workers print.

    Raises:
        StorageError: the study could not be read or written.
        TrialsFailedError: there was no place for the workers in time, or they raised outside of every trial.
        ray.train.TrainingFailedError: workers died again and again.
    """
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from scaleexp.launch.deadline import no_place
    from scaleexp.launch.killed import EndsOrNotes, note_killed
    from scaleexp.plan_table import count_of

    start_s, cpus = assignment.study.limits.start_s, assignment.study.cpus_per_worker
    os.environ[_TIMEOUT] = str(start_s)
    store = Store(assignment.root)
    refused = least_refused(store, "ddp", trials[0].processes)
    raised: set[str] = set()
    unstarted = 0
    while True:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"assignment": assignment, "trials": list(trials), "logs": logs},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=trials[0].processes, use_gpu=use_gpu, resources_per_worker=_resources(cpus, use_gpu)
            ),
            run_config=RunConfig(
                name=f"{name}-{len(raised) + unstarted}",
                storage_path=output,
                # A worker's death starts the group again, from the last commits; so does one that runs out of memory.
                # By default Ray Train waits for a place for ever, and its count of waits never begins anew: none is
                # left to it.
                failure_config=FailureConfig(
                    max_failures=len(trials) + WORKER_DEATHS + MOST_TRIES, controller_failure_limit=0
                ),
                callbacks=[EndsOrNotes(assignment.root, trials)],
            ),
        )
        try:
            trainer.fit()
            return
        except ControllerError as error:
            failure = error.controller_failure
            if isinstance(failure, TrialRaisedError) and failure.key not in raised:
                raised.add(failure.key)
                record_failure(store, [failure.key], str(failure), fence=assignment.fence)
                trials = unfinished(store, [t for t in trials if t.key not in raised], assignment.targets)
                if trials:
                    continue
                return
            if isinstance(failure, ScaleexpError):
                raise failure from error
            if type(failure).__name__ == "WorkerGroupStartupTimeoutError":
                workers, kind = trials[0].processes, "GPU" if use_gpu else "CPU"
                needs = workers * (1 if use_gpu else cpus)
                said = no_place(count_of(workers, "real worker"), needs, kind, start_s)
                raise TrialsFailedError(said) from error
            if least_refused(store, "ddp", trials[0].processes) == refused:  # else the controller lived to say so
                note_killed(store, trials, str(error), refused)
            # Of one that was killed for its memory the CPUs may stay taken until this driver ends.
            unstarted += 1
            if type(failure).__name__ != "WorkerGroupStartupFailedError" or unstarted == STARTS:
                raise


def _resources(cpus: int, use_gpu: bool) -> dict[str, float] | None:
    """Of a worker; None for Ray Train's own: one CPU, or one GPU with one CPU."""
    if cpus == 1:
        return None
    return {"CPU": float(cpus), **({"GPU": 1.0} if use_gpu else {})}
