"""Step times from a study's logs, of trials on real workers: virtual ones share devices, so theirs are another thing.

A log that does not say on how many nodes its workers were is taken to be of one node.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleexp import schema, segment
from scaleexp.commits import bound_bytes, last_commits, newest_plan
from scaleexp.errors import NotEnoughDataError, StorageError
from scaleexp.simulate.tables import Row
from scaleexp.storage import Store

_REAL = frozenset({"ddp", "command", "entrypoint", "script"})
"""Engines whose workers are processes: our own, and a user's script however it was started."""
_WARM = 5
"""Steps of a trial that are left out: they compile, allocate and connect."""


def study_rows(directory: str) -> list[Row]:
    """One row per trial on real workers: the median of its step times.

    Raises:
        StorageError: not a study directory, or one whose files cannot be read.
        NotEnoughDataError: no timed step on real workers.
    """
    store = Store(directory)
    plan = newest_plan(store)
    if plan is None:
        raise StorageError(f"{directory} is not a study directory: give a CSV, or what `scaleexp run` wrote")
    keys = [schema.trial_key(t["trial_id"], t["realisation"]) for t in plan[1]["trials"]]
    commits = last_commits(store, keys)
    planned = dict(zip(keys, plan[1]["trials"], strict=True))
    found = [row for key, commit in commits.items() if commit and (row := _row(store, key, commit, planned[key]))]
    if not found:
        raise NotEnoughDataError(
            f"no trial of {directory} has timed steps on real workers, and virtual workers say nothing of many "
            "machines: run some with the engine ddp"
        )
    return found


def _row(store: Store, key: str, commit: schema.Commit, planned: schema.PlannedTrial) -> Row | None:
    """None of virtual workers, or before enough steps."""
    workers, realisation = planned["workers"], commit["realisation"]
    if realisation.get("engine") not in _REAL or realisation.get("processes") != workers:
        return None
    tables = [
        segment.rows(bound_bytes(store, key, bound), bound, ["step_s"], bound["file"])
        for bound in commit["segments"]
        if bound["table"] == "steps"
    ]
    columns = [table["step_s"].to_numpy(zero_copy_only=False) for table in tables if "step_s" in table.column_names]
    seconds = np.concatenate([np.zeros(0), *(column.astype(float) for column in columns)])[_WARM:]
    timed = seconds[np.isfinite(seconds) & (seconds > 0)]
    if not timed.size:
        return None
    numbers: dict[str, Any] = {
        "workers": float(workers),
        "nodes": float(realisation.get("nodes", 1)),
        "worker_batch": planned["batch_size"] / workers,
        "accumulation_steps": float(planned["accumulation_steps"]),
        "step_time_s": float(np.median(timed)),
    }
    return Row(where=f"trial {key}", numbers=numbers, cells={name: repr(value) for name, value in numbers.items()})
