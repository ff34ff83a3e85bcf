"""Ray Train: one live group of real workers that runs a pack of trials one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaleexp.execute import Assignment
    from scaleexp.trial import Trial


WORKER_DEATHS = 2
"""A pack of which a process dies starts again this often."""
STARTS = 2
"""A group that could not be placed is tried again this often, each time for half a minute."""


def _work(config: dict[str, Any]) -> None:
    """What each worker process runs: every trial of the pack, on the process group that Ray Train has set up."""
    from ray.train.torch import get_device

    from scaleexp.execute import run_real

    run_real(config["assignment"], config["trials"], device=get_device())


def run_worker_group(
    assignment: Assignment, trials: Sequence[Trial], *, use_gpu: bool, name: str, output: Path
) -> None:
    """Launch as many worker processes as these trials ask for and run all of them; returns when they are done.

    `ray.train.report` is never called: rows and commits go to the study's storage from rank 0.

    Args:
        assignment: the study and its storage.
        trials: real-worker trials of one worker count.
        use_gpu: one GPU per worker and NCCL, else one CPU per worker and gloo.
        name: of the run; unique, because Ray Train resumes a name that it has seen.
        output: directory for Ray Train's own files.

    A trial that raises is committed as failed, and the others go on.

    Raises:
        ray.train.TrainingFailedError: workers died again and again, or could not be placed.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config={"assignment": assignment, "trials": list(trials)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=trials[0].processes, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=str(output),
            # The death of a worker starts the group again, from the last commits; so does each trial that raises.
            failure_config=FailureConfig(max_failures=len(trials) + WORKER_DEATHS, controller_failure_limit=STARTS),
        ),
    )
    trainer.fit()
