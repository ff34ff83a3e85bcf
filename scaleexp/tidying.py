"""Remove files of rows that were merged into another: a writer that was killed between its commit and that left them.

Other tools read a study by the pattern `trials/*/steps*.parquet`, and would count their rows twice. What no run would
have named so is somebody else's and stays, and so does everything of a trial whose newest commit cannot be read: what
that one binds is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaleexp import lease, schema, trial_names
from scaleexp.at_once import each
from scaleexp.commits import bound_bytes, commit_files, last_commits
from scaleexp.errors import CorruptError
from scaleexp.integrity import check_commit, check_shape
from scaleexp.storage import Store


def merged_twice(store: Store, keys: Sequence[str]) -> dict[str, list[str]]:
    """Files of ours beside those that the newest commit of an ended trial binds, by key.

    None where that commit, or anything that it binds, is not whole.

    Args:
        store: the study.
        keys: of its trials.
    """
    names = store.listing(schema.TRIALS_DIR, count=len(keys))
    found: dict[str, list[str]] = {}
    for key, commit in last_commits(store, keys).items():
        if commit and commit.get("status") in schema.FINAL_STATUSES:
            others = [n for n in names(f"{schema.TRIALS_DIR}/{key}") if trial_names.is_ours(n)]
            if others and _is_newest(commit, key, max(commit_files(store, key, names).items())[1]):
                bound = {s["file"] for s in commit["segments"]}
                others = [n for n in others if n not in bound]
                if others and _whole(store, key, commit):
                    found[key] = others
    return found


def _is_newest(commit: schema.Commit, key: str, file: str) -> bool:
    """Whether a commit is that of a trial's newest file, which may be one that cannot be read."""
    try:
        check_shape(commit, schema.Commit, file)
        check_commit(commit, key, file.rpartition("/")[2], file)
    except CorruptError:
        return False
    return True


def remove_merged(store: Store, keys: Sequence[str], fence: int) -> None:
    """Remove them; who calls holds the lease of this number, so that no commit comes in between.

    Raises:
        StorageError: another driver has taken over, or one could not be removed.
    """
    found = merged_twice(store, keys)
    if found:
        lease.check(store, fence)
    for key, names in found.items():
        for name in names:
            store.remove(f"{schema.TRIALS_DIR}/{key}/{name}")


def _whole(store: Store, key: str, commit: schema.Commit) -> bool:
    """Whether everything is there that a commit binds, as it was written."""

    def check(bound: schema.SegmentRef) -> bool:
        try:
            bound_bytes(store, key, bound)
        except CorruptError:
            return False
        return True

    return all(each(check, commit["segments"]))
