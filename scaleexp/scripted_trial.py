"""A trial that a user's own script trains: what the script is told, and what its trial came to once it has ended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleexp import schema
from scaleexp.commits import last_commit
from scaleexp.own_script import filled, identity
from scaleexp.storage import Store
from scaleexp.trial import planned_trial
from scaleexp.trial_context import TargetValue, TrialContext

if TYPE_CHECKING:
    from scaleexp.execute import Assignment
    from scaleexp.trial import Trial

STATE_DIR = "state"
"""Of a trial's directory: what its script keeps to go on from."""
NEVER_REPORTED = (
    "its metric was never reported: the script ended well and never called scaleexp.track, or recorded no step; "
    "see scaleexp/docs/own_script.md"
)
_ERROR = re.compile(r"^(?:\[rank\d+\]:\s*)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b.*)$")
"""Last line of a Python traceback, as a process of torchrun prints it too."""
_OURS = re.compile(r"^scaleexp\.errors\.\w+: ")
_OF_A_LAUNCHER = ("ChildFailedError", "SignalException")
"""What torchrun says of a process that has said why itself."""


def context_of(assignment: Assignment, trial: Trial) -> TrialContext:
    """What the script is told of a trial."""
    study = assignment.study
    settings = study.optimizer.model_dump(mode="json")
    assert study.unit is not None, "the study was validated"
    return TrialContext(
        storage=assignment.root,
        key=trial.key,
        **planned_trial(trial),
        unit=study.unit,
        limit_samples=trial.limit_samples,
        evaluate_every_samples=study.evaluation.every_samples,
        hyperparameters={**settings, **(study.hyperparameters or {})},
        targets=tuple(
            TargetValue(metric=t["metric"], value=t["values"][-1], direction=t["direction"]) for t in assignment.targets
        ),
        warmup_samples=study.warmup_samples,
        commit_every_s=study.checkpoint.every_s,
        noise_every_samples=study.noise.every_samples,
        deadline_unix_s=assignment.deadline,
        deadline_cause=assignment.deadline_cause,
        held_s=assignment.held_s,
        fence=assignment.fence,
        study=study.name,
        workload=identity(study),
        dtype=study.dtype,
        n_train=study.n_train,
        git_sha=assignment.git_sha,
        code=assignment.code,
        state_dir=str(state_directory(assignment, trial.key)),
    )


def state_directory(assignment: Assignment, key: str) -> Path:
    """Where a trial's script keeps its own state: beside its rows; on this machine where the study is on a bucket."""
    store = Store(assignment.root)
    return Path(assignment.directory) / store.results / schema.TRIALS_DIR / key / STATE_DIR


def make_ready(context: TrialContext) -> None:
    """Make the directory that it tells of."""
    if context.state_dir:
        Path(context.state_dir).mkdir(parents=True, exist_ok=True)


def arguments_of(command: Sequence[str], context: TrialContext) -> list[str]:
    """The command of a trial, every placeholder filled in."""
    own = ("lr", "batch_size", "worker_batch", "micro_batch", "accumulation_steps", "workers", "seed", "trial_id")
    more = ("limit_samples", "limit_steps", "evaluate_every_samples", "warmup_samples", "dtype")
    values: dict[str, Any] = {name: getattr(context, name) for name in (*own, *more)}
    return filled(command, {**context.hyperparameters, **values, "checkpoint_dir": context.state_dir})


def came_to(assignment: Assignment, trial: Trial, error: str) -> str:
    """Why a trial whose script has ended failed; empty where it did not.

    Args:
        assignment: the study.
        trial: whose script has ended.
        error: what the script failed by, empty where it ended well.
    """
    commit = last_commit(Store(assignment.root), trial.key)
    own = commit if commit and commit.get("fence") == assignment.fence else None
    if own and own["status"] in schema.FINAL_STATUSES:
        _tidy(assignment, trial)
        return ""  # it had come to its end before
    if own and own["status"] == "failed":
        return own["cause"]  # the recorder has said why
    if error:
        return error
    if own is None or (own["status"] == "running" and not own["segments"]):
        return NEVER_REPORTED
    if own["status"] == "running":
        return (
            f"its script ended well, last committed at step {own['step']} of {trial.limit_steps}, and never closed the "
            "run: call run.close(), or record inside of `with scaleexp.track(...) as run`"
        )
    return ""


def _tidy(assignment: Assignment, trial: Trial) -> None:
    """Remove a script's own state where the study keeps none of trials that have ended."""
    if not assignment.study.checkpoint.keep_finished:
        shutil.rmtree(state_directory(assignment, trial.key), ignore_errors=True)


def told_by(code: int, lines: Sequence[str]) -> str:
    """Why a process failed, by its exit code and what it last printed to stderr.

    >>> told_by(1, ["Traceback (most recent call last):", "[rank0]: ValueError: no such width", "=====", ""])
    'ValueError: no such width (exit code 1)'
    >>> told_by(-9, [])
    'it was ended by SIGKILL, as a machine does whose memory runs out'
    """
    from signal import Signals

    if code < 0 or code in (137, 143):
        name = Signals(-code if code < 0 else code - 128).name
        return f"it was ended by {name}" + (", as a machine does whose memory runs out" if name == "SIGKILL" else "")
    raised = [m.group(1) for line in lines if (m := _ERROR.match(line.strip()))]
    raised = [_OURS.sub("", text) for text in raised]
    own = [text for text in raised if not any(name in text for name in _OF_A_LAUNCHER)]
    said = [line.strip() for line in lines if re.search("[A-Za-z]", line)]
    last = (own or raised or said or ["it printed nothing to stderr"])[-1]
    return f"{last} (exit code {code})"
