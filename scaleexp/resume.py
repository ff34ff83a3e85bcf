"""Where the trials of a study stand, and what they go on from: the last commit, its checkpoint, its evaluations.

Where any of these is corrupt, the newest commit that is whole counts instead; the corrupt files stay as they are.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow.compute as pc

from scaleexp import schema, segment
from scaleexp.at_once import each
from scaleexp.checkpoint import decode
from scaleexp.commits import bound_bytes, commit_files, last_commits
from scaleexp.engines.base import TrialState
from scaleexp.errors import CorruptError
from scaleexp.integrity import check_commit, check_shape, newest_whole
from scaleexp.laws import first_confirmed
from scaleexp.storage import Store
from scaleexp.trial import Trial

Values = dict[str, "array[float]"]
"""Every evaluation so far, by metric: eight bytes each, for there may be a million."""
_log = logging.getLogger("scaleexp")


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
    commits = last_commits(store, [trial.key for trial in trials])

    def rank(trial: Trial) -> int | None:
        commit = commits[trial.key]
        if commit and commit["status"] in schema.FINAL_STATUSES:
            return None if commit["status"] == "diverged" or not _moved(store, trial, commit, targets) else 0
        return 1 if commit and commit["status"] == "failed" else 0

    ranks = each(rank, trials)  # some read evaluations
    return [t for wanted in (0, 1) for r, t in zip(ranks, trials, strict=True) if r == wanted]


def steps_left(store: Store, trials: Sequence[Trial], targets: Sequence[schema.Target]) -> dict[str, int]:
    """Steps to its limit of every trial that has not come to its end, by key; one without a state begins anew."""
    found, waiting = {}, unfinished(store, trials, targets)
    commits = last_commits(store, [trial.key for trial in waiting])
    for trial in waiting:
        commit = commits[trial.key]
        goes_on = commit and (trial.scripted or commit.get("checkpoint"))  # a script keeps its own state
        found[trial.key] = trial.limit_steps - (commit["step"] if commit and goes_on else 0)
    return found


def _moved(store: Store, trial: Trial, commit: schema.Commit, targets: Sequence[schema.Target]) -> bool:
    """Whether what ended a trial ends it no longer."""
    goal = {t["metric"]: t["values"][-1] for t in targets}
    if commit["samples"] + trial.batch_size > trial.limit_samples:
        return False
    if commit["status"] == "limit":
        return True
    held = commit.get("goal")
    if held is None or held["targets"] == goal:
        return False
    try:
        values = _values(store, trial.key, commit)
    except CorruptError:
        return True  # what it ended by is lost, so it goes on from what is not
    return not all(
        first_confirmed(values.get(t["metric"], ()), t["values"][-1], t["direction"]) is not None for t in targets
    )


def standing(store: Store, trial: Trial) -> Standing:
    """What a trial goes on from.

    Raises:
        CorruptError: its facts or all of its commits are not what was written.
    """
    _check_facts(store, trial.key)
    found, problems = newest_whole(lambda: commit_files(store, trial.key), lambda file: _standing(store, trial, file))
    if problems:
        named = "; ".join(map(str, problems))
        if found is None:
            raise CorruptError(f"no commit of trial {trial.key} is whole, so that nothing can go on from it: {named}")
        _log.warning("trial %s goes on from step %d, its newest commit that is whole: %s", trial.key, found.step, named)
    return found or Standing(trial=trial, values={})


def _check_facts(store: Store, key: str) -> None:
    """Refuse to go on with a trial that does not say any more what it is.

    Raises:
        CorruptError: its trial.json is not what was written, or another trial's.
    """
    file = f"{schema.TRIALS_DIR}/{key}/{schema.TRIAL_FILE}"
    try:
        facts = store.read_json(file)
        check_shape(facts, schema.TrialFacts, store.where(file))
    except FileNotFoundError:
        return  # it has not begun
    if schema.trial_key(facts["trial_id"], facts["realisation"]) != key:
        raise CorruptError(f"{store.where(file)} is that of trial {facts['trial_id']}: restore it from a copy.")


def _standing(store: Store, trial: Trial, file: str) -> Standing:
    """What a trial goes on from by one commit.

    Raises:
        CorruptError: it, or something that it binds, is not what was written.
    """
    commit: schema.Commit = store.read_json(file)
    check_shape(commit, schema.Commit, store.where(file))
    check_commit(commit, trial.key, file.rpartition("/")[2], store.where(file))
    checkpoint = commit.get("checkpoint")
    if commit["step"] > 0 and checkpoint is None:
        return Standing(trial=trial, values={})  # written where no state was kept: anew
    state = bound_bytes(store, trial.key, checkpoint) if checkpoint else None
    for bound in commit["segments"]:
        if bound["table"] != "evals":  # these are checked where they are read
            bound_bytes(store, trial.key, bound)
    return Standing(trial=trial, commit=commit, state=state, values=_values(store, trial.key, commit))


def together(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Trials of one pack, in groups that can go on together: as far as each other, by the same choices."""

    def order(standing: Standing) -> tuple[int, str]:
        return (-standing.step, json.dumps(standing.record, sort_keys=True))

    return [list(group) for _, group in groupby(sorted(standings, key=order), key=order)]


def _values(store: Store, key: str, commit: schema.Commit) -> Values:
    """Evaluations that a commit binds, in the order in which they were made."""
    found: Values = {}
    for bound in commit["segments"]:
        if bound["table"] == "evals":
            table = segment.rows(bound_bytes(store, key, bound), bound, ["metric", "value"], bound["file"])
            for metric in pc.unique(table["metric"]).to_pylist():
                values = table.filter(pc.equal(table["metric"], metric))["value"]
                found.setdefault(metric, array("d")).frombytes(values.to_numpy().tobytes())
    return found
