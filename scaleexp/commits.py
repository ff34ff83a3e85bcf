"""What of a study counts: its newest plan, and of each trial the newest commit that is whole.

Numbers go on past commits that are not.
"""

from __future__ import annotations

from scaleexp import schema
from scaleexp.integrity import newest_whole, numbered
from scaleexp.storage import Store


def newest_plan(store: Store) -> tuple[int, schema.PlanFile] | None:
    """Number and content of the newest plan; None before there is one.

    Raises:
        CorruptError: it is not what was written.
    """
    files = numbered(store.names(schema.PLAN_DIR))
    return (newest := max(files), store.read_json(f"{schema.PLAN_DIR}/{files[newest]}")) if files else None


def commit_files(store: Store, key: str) -> dict[int, str]:
    """Number -> file of every commit of a trial, whole or not."""
    directory = f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}"
    return {number: f"{directory}/{name}" for number, name in numbered(store.names(directory)).items()}


def last_commit(store: Store, key: str) -> schema.Commit | None:
    """The newest commit of a trial whose file is whole; None when it has none.

    What that commit binds is not looked at; `scaleexp.resume.standing` does, and tells what is not whole.
    """
    commit: schema.Commit | None = newest_whole(lambda: commit_files(store, key), store.read_json)[0]
    return commit
