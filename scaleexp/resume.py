"""Where the trials of a study stand, and what they go on from: the last commit, its checkpoint, its evaluations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaleexp import schema
from scaleexp.checkpoint import decode
from scaleexp.engines.base import TrialState
from scaleexp.errors import CorruptError
from scaleexp.laws import first_confirmed
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.trial import Trial

Values = dict[str, list[float]]
"""Every evaluation so far, by metric."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A trial that has not ended, and how far it has come.

    Attributes:
        trial: which.
        commit: what it goes on from; None if nothing of it was committed.
        state: its bytes, after the step of that commit; None before step 1.
        values: its evaluations up to there.
    """

    trial: Trial
    commit: schema.Commit | None = None
    state: bytes | None = None
    values: Values

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.commit["step"] if self.commit else 0

    @property
    def record(self) -> dict[str, Any] | None:
        """What was chosen before its step 0; None if that is still to be done."""
        return self.commit["realisation"] if self.commit else None

    def decoded(self) -> TrialState:
        """Its state.

        Raises:
            CorruptError: it is not what was written.
        """
        assert self.state is not None
        return decode(self.state)


def unfinished(store: Store, trials: Sequence[Trial], targets: Sequence[schema.Target]) -> list[Trial]:
    """Trials that have not come to their ends; those that failed before come last, so that they hold up no other.

    A trial that ended short of a target or of a limit that was moved since has not come to its end.
    """
    commits = {trial.key: last_commit(store, trial.key) for trial in trials}

    def rank(trial: Trial) -> int | None:
        commit = commits[trial.key]
        if commit and commit["status"] in schema.FINAL_STATUSES:
            return None if commit["status"] == "diverged" or not _moved(store, trial, commit, targets) else 0
        return 1 if commit and commit["status"] == "failed" else 0

    ranks = [(rank(trial), trial) for trial in trials]
    return [t for wanted in (0, 1) for r, t in ranks if r == wanted]


def _moved(store: Store, trial: Trial, commit: schema.Commit, targets: Sequence[schema.Target]) -> bool:
    """Whether what ended a trial ends it no longer."""
    goal = {t["metric"]: t["values"][-1] for t in targets}
    if commit["status"] == "limit":
        return commit["samples"] + trial.batch_size <= trial.limit_samples
    held = commit.get("goal")
    if held is None or held["targets"] == goal:
        return False
    values = _values(store, trial.key, commit)
    return not all(
        first_confirmed(values.get(t["metric"], ()), t["values"][-1], t["direction"]) is not None for t in targets
    )


def standing(store: Store, trial: Trial) -> Standing:
    """What a trial goes on from.

    Raises:
        CorruptError: a checkpoint or a segment is not what was committed.
    """
    commit = last_commit(store, trial.key)
    checkpoint = commit.get("checkpoint") if commit else None
    if commit is None or (commit["step"] > 0 and checkpoint is None):
        return Standing(trial=trial, values={})  # nothing there, or written where no state was kept: anew
    state = _verified(store, trial.key, checkpoint) if checkpoint else None
    return Standing(trial=trial, commit=commit, state=state, values=_values(store, trial.key, commit))


def together(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Trials of one pack, in groups that can go on together: as far as each other, by the same choices."""

    def order(standing: Standing) -> tuple[int, str]:
        return (-standing.step, json.dumps(standing.record, sort_keys=True))

    return [list(group) for _, group in groupby(sorted(standings, key=order), key=order)]


def _values(store: Store, key: str, commit: schema.Commit) -> Values:
    """Evaluations that a commit binds, in the order in which they were made."""
    found: Values = {}
    for segment in commit["segments"]:
        if segment["table"] == "evals":
            content = pa.BufferReader(_verified(store, key, segment))
            table = pq.read_table(content, columns=["metric", "value"])
            for metric, value in zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True):
                found.setdefault(metric, []).append(value)
    return found


def _verified(store: Store, key: str, reference: Mapping[str, Any]) -> bytes:
    """The bytes that a commit bound."""
    name = f"{schema.TRIALS_DIR}/{key}/{reference['file']}"
    try:
        content = store.read(name)
    except FileNotFoundError:
        raise CorruptError(f"{store.path(name)} was committed and is not there: restore it from a copy") from None
    if hashlib.sha256(content).hexdigest() != reference["sha256"]:
        raise CorruptError(f"{store.path(name)} is not what was committed: restore it from a copy")
    return content
