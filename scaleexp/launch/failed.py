"""A failure that no process of a trial could record itself, because it never began or died."""

from __future__ import annotations

from collections.abc import Iterable

from scaleexp import lease, schema
from scaleexp.commits import commit_files, last_commit
from scaleexp.execute import Assignment
from scaleexp.facts import utc_now
from scaleexp.storage import Store


def record_failure(assignment: Assignment, keys: Iterable[str], cause: str) -> None:
    """Commit trials as failed where they stand; those that have ended, or have failed in this run, stay as they are.

    A trial that never began gets a commit of nothing, and no trial.json: where it will run first is not known.

    Args:
        assignment: the study.
        keys: of trials that no process works on any more.
        cause: one sentence.

    Raises:
        StorageError: another driver has taken over, or the commit could not be written.
    """
    store = Store(assignment.root)
    for key in keys:
        last = last_commit(store, key)
        own = bool(last and last.get("fence") == assignment.fence)
        if last and (last["status"] in schema.FINAL_STATUSES or (last["status"] == "failed" and own)):
            continue
        if assignment.fence is not None:
            lease.check(store, assignment.fence)
        commit = failed_commit(key, last, cause, number=max(commit_files(store, key), default=0) + 1)
        if assignment.fence is not None:
            commit["fence"] = assignment.fence
        name = f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}/{commit['number']:04d}.json"
        store.write_json(name, commit)


def failed_commit(key: str, last: schema.Commit | None, cause: str, *, number: int) -> schema.Commit:
    """What stands where a trial was last committed, failed.

    >>> commit = failed_commit("3f2a", None, "no room", number=1)
    >>> commit["status"], commit["step"], commit["segments"]
    ('failed', 0, [])
    """
    commit = last or {
        "schema_version": schema.SCHEMA_VERSION,
        "key": key,
        "number": number,
        "attempt": 0,
        "step": 0,
        "samples": 0,
        "status": "failed",
        "cause": "",
        "segments": [],
        "checkpoint": None,
        "realisation": {},
        "elapsed_s": 0.0,
        "committed_utc": "",
    }
    return {**commit, "number": number, "status": "failed", "cause": cause, "committed_utc": utc_now()}
