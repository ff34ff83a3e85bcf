"""Rows of a training run -> Parquet segments -> commits: the log of one trial.

Any loop can write it; ours is one client. Rows are buffered, serialised to memory and put through the storage seam; a
commit binds the segments written so far by their sha256, and only then do their rows exist. It may bind a checkpoint
too, and then the trial goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from scaleexp import schema
from scaleexp.commits import last_commit as last_commit
from scaleexp.engines.base import NoiseMeasurement, TrialState
from scaleexp.merging import MOST_ROWS
from scaleexp.segment import Columns
from scaleexp.storage import Store
from scaleexp.trial_files import TrialFiles
from scaleexp.writer import Job, Writer

Row = tuple[Any, ...]

_COLUMNS: dict[schema.Table, tuple[str, ...]] = {
    "steps": (
        "step",
        "samples",
        "step_lr",
        "loss",
        "grad_sq_small",
        "grad_sq_big",
        "shard_size",
        "shards",
        "step_s",
        "compute_s",
        "sync_s",
        "data_s",
    ),
    "evals": ("step", "samples", "metric", "value", "eval_s"),
    "layers": ("step", "samples", "layer", "grad_sq_small", "grad_sq_big", "shards"),
}
"""What changes from row to row, in the order in which rows hold it; the other columns repeat."""


class TrialLog:
    """Writer of one trial's log.

    Args:
        store: the study's storage.
        facts: trial.json; written if it is not there yet.
        realisation: what was chosen before step 0 (see `Engine.realisation`); goes into every commit.
        timings: what it was chosen by [seconds]; likewise.
        goal: what ends the trial; likewise.
        goes_on: the commit that the trial goes on from; None begins it anew.
        again: rows that it goes on from besides (see `scaleexp.cutting`).
        gaps: (first, last) of steps that were taken and have no rows.
        fence: number of the driver's lease: nothing is committed once another has a higher one.
        writer: writes beside the caller; None writes before a call returns.

    Every method raises StorageError where a write failed: its own, or with a `writer` an earlier one.
    """

    def __init__(
        self,
        store: Store,
        facts: schema.TrialFacts,
        realisation: Mapping[str, Any],
        timings: Mapping[str, float] | None = None,
        goal: schema.Goal | None = None,
        *,
        goes_on: schema.Commit | None = None,
        again: Mapping[schema.Table, pa.Table] | None = None,
        gaps: Sequence[Sequence[int]] = (),
        fence: int | None = None,
        writer: Writer | None = None,
    ) -> None:
        always: dict[str, Any] = {"realisation": dict(realisation), "timings": dict(timings or {})}
        if goal is not None:
            always["goal"] = goal
        if gaps:
            always["gaps"] = [list(gap) for gap in gaps]
        self._files = TrialFiles(store, facts, always, goes_on=goes_on, again=again, fence=fence)
        self.key = self._files.key
        self._batch_size = facts["batch_size"]
        self._rows: dict[schema.Table, list[Row]] = {table: [] for table in schema.TABLES}
        self._begin = time.monotonic()
        self._submit = writer.lane() if writer else _at_once
        self._submit(self._files.open)

    def step(
        self,
        *,
        step: int,
        samples: int,
        step_lr: float,
        loss: float,
        noise: NoiseMeasurement | None,
        row: int,
        step_s: float | None,
        compute_s: float | None,
        sync_s: float | None,
        data_s: float | None,
    ) -> None:
        """Add one optimizer step; `row` is this trial's place in the pack whose `noise` was measured."""
        norms: tuple[Any, ...] = (None, None, None, None)
        if noise:
            norms = (float(noise.small[row]), float(noise.big[row]), self._batch_size // noise.shards, noise.shards)
        self._add("steps", (step, samples, step_lr, loss, *norms, step_s, compute_s, sync_s, data_s))
        if noise and noise.layers:
            for layer, (small, big) in noise.layers.items():
                self._add("layers", (step, samples, layer, float(small[row]), float(big[row]), noise.shards))

    def evaluation(self, *, step: int, samples: int, values: Mapping[str, float], eval_s: float) -> None:
        """Add one row per metric."""
        for metric, value in values.items():
            self._add("evals", (step, samples, metric, value, eval_s))

    def commit(
        self, *, step: int, samples: int, status: schema.Status, cause: str = "", state: TrialState | None = None
    ) -> None:
        """Bind everything added so far, and the state after it, from which the trial can go on."""
        added = {table: self._taken(table) for table in self._rows}
        elapsed_s = time.monotonic() - self._begin
        self._submit(
            lambda: self._files.commit(
                added, step=step, samples=samples, status=status, cause=cause, state=state, elapsed_s=elapsed_s
            )
        )

    def chosen(self, realisation: Mapping[str, Any], timings: Mapping[str, float]) -> None:
        """Say what was chosen since the trial began, in every commit from here on."""
        self._submit(lambda: self._files.chosen(realisation, timings))

    def fail(self, cause: str) -> None:
        """Say that the trial failed. It stands where it was last committed: nothing added since then is kept."""
        elapsed_s = time.monotonic() - self._begin
        self._submit(lambda: self._files.fail(cause, elapsed_s))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _add(self, table: schema.Table, row: Row) -> None:
        rows = self._rows[table]
        rows.append(row)
        if len(rows) >= MOST_ROWS:
            full = self._taken(table)
            self._submit(lambda: self._files.add_rows(table, full))

    def _taken(self, table: schema.Table) -> Columns:
        """The rows so far, as columns; from here on there are none."""
        rows, self._rows[table] = self._rows[table], []
        columns = map(list, zip(*rows, strict=True)) if rows else ([] for _ in _COLUMNS[table])
        return dict(zip(_COLUMNS[table], columns, strict=True))


def _at_once(job: Job) -> None:
    job()
