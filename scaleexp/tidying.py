"""Remove files of rows that were merged into another: a writer that was killed between its commit and that left them.

Other tools read a study by the pattern `trials/*/steps*.parquet`, and would count their rows twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaleexp import lease, schema
from scaleexp.at_once import each
from scaleexp.commits import bound_bytes, last_commits
from scaleexp.errors import CorruptError
from scaleexp.storage import Store


def merged_twice(store: Store, keys: Sequence[str]) -> dict[str, list[str]]:
    """Files beside those that the newest commit of an ended trial binds, by key; none where a bound one is not whole.

    Args:
        store: the study.
        keys: of its trials.
    """
    names = store.listing(schema.TRIALS_DIR, count=len(keys))
    found: dict[str, list[str]] = {}
    for key, commit in last_commits(store, keys).items():
        if commit and commit["status"] in schema.FINAL_STATUSES:
            bound = {s["file"] for s in commit["segments"]}
            others = [n for n in names(f"{schema.TRIALS_DIR}/{key}") if n.endswith(".parquet") and n not in bound]
            if others and _whole(store, key, commit):
                found[key] = others
    return found


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
