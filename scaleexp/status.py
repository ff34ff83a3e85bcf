"""How far a study has come, from its directory alone: no cluster is asked, and nothing is loaded but JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from scaleexp import lease, schema, spending
from scaleexp.commits import Commits, last_commits, newest_plan
from scaleexp.errors import StorageError
from scaleexp.storage import Store

STATUS_JSON_VERSION = 1
"""Version of `scaleexp status --json`, whose JSON Schema is schemas/status.json."""

_KNOWN_SHARE = 0.02
"""Of the work: before so much is done, what is left is not estimated."""


class TrialRow(TypedDict):
    """One trial as it was last committed."""

    key: str
    batch_size: int  # [samples]
    workers: int
    lr: float
    seed: int
    status: str  # of schema.Status, or waiting
    step: int
    samples: int
    limit_samples: int | None  # null before it began
    elapsed_s: float
    cause: str


class Driver(TypedDict):
    """Who runs the study, or ran it last."""

    lease: int
    running: bool
    host: str
    pid: int
    stopping: bool  # it was asked to
    silent_s: float | None  # since its last sign of life [seconds]; null where it let go, or is seen to run here


class LimitRow(TypedDict):
    """A limit that the newest run was given, and what was used of it."""

    limit: str  # limits.wall_s [seconds], limits.gpu_hours [hours] or limits.usd [US dollars]
    value: float
    used: float  # by that run of limits.wall_s, by all runs of the others


class StatusDocument(TypedDict):
    """`scaleexp status --json`."""

    schema_version: int
    study: str
    question: str
    driver: Driver | None
    trials: dict[str, int]  # by status
    eta_s: float | None  # [seconds]; null where nothing runs or too little is known
    limits: list[LimitRow]
    rows: list[TrialRow]


def status_of(store: Store, *, now: float | None = None) -> StatusDocument:
    """What the newest plan holds and how far each trial has come.

    Args:
        store: the study.
        now: Unix time [seconds]; None for the clock's.

    Raises:
        StorageError: there is no study.
    """
    found = newest_plan(store)
    if found is None:
        raise StorageError(f"{store.root} holds no study: give the directory that `scaleexp run` writes to.")
    plan = found[1]
    commits = last_commits(store, [schema.trial_key(t["trial_id"], t["realisation"]) for t in plan["trials"]])
    rows = [_row(trial, commits) for trial in plan["trials"]]
    driver, since = driver_of(store)
    return StatusDocument(
        schema_version=STATUS_JSON_VERSION,
        study=plan["study"],
        question=plan["question"],
        driver=driver,
        trials=dict(Counter(row["status"] for row in rows)),
        eta_s=_eta_s(rows, commits, driver, since, time.time() if now is None else now),
        limits=[LimitRow(limit=name, value=value, used=used) for name, value, used in spending.of_limits(store)],
        rows=rows,
    )


def _row(trial: schema.PlannedTrial, commits: Commits) -> TrialRow:
    key = schema.trial_key(trial["trial_id"], trial["realisation"])
    commit = commits[key]
    goal = commit.get("goal") if commit else None
    return TrialRow(
        key=key,
        batch_size=trial["batch_size"],
        workers=trial["workers"],
        lr=trial["lr"],
        seed=trial["seed"],
        status=commit["status"] if commit else "waiting",
        step=commit["step"] if commit else 0,
        samples=commit["samples"] if commit else 0,
        limit_samples=goal["limit_samples"] if goal else None,
        elapsed_s=commit["elapsed_s"] if commit else 0.0,
        cause=commit["cause"] if commit else "",
    )


def driver_of(store: Store) -> tuple[Driver | None, float]:
    """Who holds the newest lease, and since when [Unix seconds]; None and 0 before anybody did."""
    number = lease.newest(store)
    if not number:
        return None, 0.0
    found = lease.held_by(store, number)
    driver = Driver(
        lease=number,
        running=lease.may_live(store, number),
        host=found.get("host", "a machine that its lease, which is corrupt, does not tell"),
        pid=found.get("pid", 0),
        stopping=lease.stop_requested(store, number),
        silent_s=lease.unseen_s(store, number),
    )
    return driver, float(found.get("since", 0.0))


def _eta_s(
    rows: Sequence[TrialRow],
    commits: Commits,
    driver: Driver | None,
    since: float,
    now: float,
) -> float | None:
    """Seconds left if the samples to come go as fast as those that this driver has committed.

    A trial that waits or runs is taken to need what those that ended have needed on average, or its limit.
    """
    if driver is None or not driver["running"] or now <= since:
        return None
    ended = [row["samples"] for row in rows if row["status"] in schema.FINAL_STATUSES]
    limits = [row["limit_samples"] for row in rows if row["limit_samples"]]
    if not limits:
        return None
    usual = sum(ended) / len(ended) if ended else float(max(limits))
    own = [c for c in commits.values() if c and c.get("fence") == driver["lease"]]
    done = float(sum(c["samples"] - c.get("began_samples", 0) for c in own))
    left = sum(max(usual - row["samples"], 0.0) for row in rows if row["status"] not in schema.FINAL_STATUSES)
    return (now - since) * left / done if done > _KNOWN_SHARE * (done + left) else None
