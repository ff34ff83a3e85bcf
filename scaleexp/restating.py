"""Commits by who does not train: how a trial stands whose process died or never began."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from scaleexp import lease, schema
from scaleexp.commits import commit_files
from scaleexp.facts import utc_now
from scaleexp.integrity import newest_whole
from scaleexp.storage import Store


def record_stop(store: Store, keys: Iterable[str], cause: str, *, fence: int | None) -> None:
    """Commit trials that are said to be running as stopped where they stand.

    Args:
        store: the study.
        keys: of trials that no process works on any more.
        cause: one sentence.
        fence: number of the driver's lease.

    Raises:
        StorageError: another driver has taken over, or the commit could not be written.
    """
    for key in keys:
        _restate(store, key, "stopped", cause, fence, _running)


def _running(last: schema.Commit | None) -> bool:
    return last is not None and last["status"] == "running"


def record_failure(store: Store, keys: Iterable[str], cause: str, *, fence: int | None) -> None:
    """Commit trials as failed where they stand; those that have ended or failed in this run stay as they are.

    One that ended in an earlier run was to go further, since it is said to have failed now. A trial that never began
    gets a commit of nothing, and no trial.json: where it will run first is not known. Arguments and errors as of
    `record_stop`.
    """

    def unended(last: schema.Commit | None) -> bool:
        ended = last is not None and last["status"] in (*schema.FINAL_STATUSES, "failed")
        return last is None or not ended or last.get("fence") != fence

    for key in keys:
        _restate(store, key, "failed", cause, fence, unended)


def _restate(
    store: Store,
    key: str,
    status: schema.Status,
    cause: str,
    fence: int | None,
    wanted: Callable[[schema.Commit | None], bool],
) -> None:
    """Put it right behind the commit that it repeats: where a worker was faster, after another look."""
    while True:
        files = commit_files(store, key)
        last: schema.Commit | None = newest_whole(partial(dict, files), store.read_json)[0]
        if not wanted(last):
            return
        commit = restated(key, last, status, cause)
        commit["number"] = max(files, default=0) + 1
        if fence is not None:
            lease.check(store, fence)
            commit["fence"] = fence
        with suppress(FileExistsError):
            return store.write_json(
                f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}/{commit['number']:04d}.json", commit
            )


def restated(key: str, last: schema.Commit | None, status: schema.Status, cause: str) -> schema.Commit:
    """What the last commit bound, with another status.

    >>> commit = restated("3f2a", None, "failed", "no room")
    >>> commit["status"], commit["step"], commit["segments"]
    ('failed', 0, [])
    """
    commit = last or {
        "schema_version": schema.SCHEMA_VERSION,
        "key": key,
        "number": 1,
        "attempt": 0,
        "step": 0,
        "samples": 0,
        "status": status,
        "cause": cause,
        "segments": [],
        "checkpoint": None,
        "realisation": {},
        "elapsed_s": 0.0,
        "committed_utc": "",
    }
    return {**commit, "status": status, "cause": cause, "committed_utc": utc_now()}
