"""What of a study counts: its newest plan, and of each trial the newest commit that is whole.

Numbers go on past commits that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scaleexp import schema
from scaleexp.at_once import each
from scaleexp.errors import MissingError
from scaleexp.integrity import check_bytes, newest_whole, numbered
from scaleexp.storage import Store

Commits = Mapping[str, schema.Commit | None]
"""The newest commit of each trial that is whole, by key; None where there is none."""


def newest_plan(store: Store) -> tuple[int, schema.PlanFile] | None:
    """Number of the newest plan, and content of the newest that is whole; None before there is one.

    Raises:
        CorruptError: none is what was written.
    """
    files = numbered(store.names(schema.PLAN_DIR))
    plan, problems = newest_whole(lambda: files, lambda name: store.read_json(f"{schema.PLAN_DIR}/{name}"))
    if files and plan is None:
        raise problems[0]
    return (max(files), plan) if plan is not None else None


def commit_files(store: Store, key: str, names: Callable[[str], list[str]] | None = None) -> dict[int, str]:
    """Number -> file of every commit of a trial, whole or not; `names` lists a directory, else the store does."""
    directory = f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}"
    found = numbered((names or store.names)(directory))
    return {number: f"{directory}/{name}" for number, name in found.items()}


def last_commits(store: Store, keys: Sequence[str], known: Commits | None = None) -> Commits:
    """`last_commit` of many trials, several read at a time.

    On an object store that is one request per thousand files of the study, and one per trial that has a new commit.

    Args:
        store: the study.
        keys: of the trials.
        known: what an earlier call gave: a file never changes, so what is still the newest is not read again.
    """
    names, before = store.listing(schema.TRIALS_DIR, count=len(keys)), known or {}

    def newest(key: str) -> schema.Commit | None:
        files, last = commit_files(store, key, names), before.get(key)
        if last and files and last["number"] == max(files):
            return last
        commit: schema.Commit | None = newest_whole(lambda: files, store.read_json)[0]
        return commit

    return dict(zip(keys, each(newest, keys), strict=True))


def last_commit(store: Store, key: str) -> schema.Commit | None:
    """The newest commit of a trial whose file is whole; None when it has none.

    What that commit binds is not looked at; `scaleexp.resume.standing` does, and tells what is not whole.
    """
    commit: schema.Commit | None = newest_whole(lambda: commit_files(store, key), store.read_json)[0]
    return commit


def bound_bytes(store: Store, key: str, reference: schema.SegmentRef | schema.CheckpointRef) -> bytes:
    """The bytes that a commit of a trial bound.

    Raises:
        MissingError: they are not there.
        CorruptError: they are others.
    """
    name = f"{schema.TRIALS_DIR}/{key}/{reference['file']}"
    try:
        content = store.read(name)
    except FileNotFoundError:
        raise MissingError(f"{store.where(name)} was committed and is not there: restore it from a copy.") from None
    return check_bytes(content, reference["sha256"], store.where(name))
