"""Rows of a training run -> Parquet segments -> commits: the log of one trial.

Any loop can write it; ours is one client. Rows are buffered, serialised to memory and put through the storage seam; a
commit binds the segments written so far by their sha256, and only then do their rows exist. It may bind a checkpoint
too, and then the trial goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from scaleexp import lease, merging, schema, segment
from scaleexp.checkpoint import encode as encode_state
from scaleexp.commits import commit_files
from scaleexp.commits import last_commit as last_commit
from scaleexp.engines.base import NoiseMeasurement, TrialState
from scaleexp.errors import CorruptError, StorageError
from scaleexp.integrity import check_bytes, newest_whole
from scaleexp.storage import Store, json_bytes
from scaleexp.writer import Job, Writer

_ROWS_PER_SEGMENT = 100_000  # about 4 MB compressed: bounds a writer's memory and a segment's size

Row = dict[str, Any]
Columns = dict[str, list[Any]]


def utc_now() -> str:
    """Now, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class TrialLog:
    """Writer of one trial's log.

    Args:
        store: the study's storage.
        facts: trial.json; written if it is not there yet.
        realisation: what was chosen before step 0 (see `Engine.realisation`); goes into every commit.
        timings: what it was chosen by [seconds]; likewise.
        goal: what ends the trial; likewise.
        goes_on: the commit that the trial goes on from; None begins it anew.
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
        fence: int | None = None,
        writer: Writer | None = None,
    ) -> None:
        self._store, self._realisation, self._timings = store, dict(realisation), dict(timings or {})
        self._goal, self._fence = goal, fence
        self._submit = writer.submit if writer else _at_once
        self.key = schema.trial_key(facts["trial_id"], facts["realisation"])
        self._directory = f"{schema.TRIALS_DIR}/{self.key}"
        own = ("trial_id", "realisation", "seed", "batch_size", "workers", "lr")
        self._identity: Row = {name: facts[name] for name in own}  # type: ignore[literal-required]
        self._split: Row = {"micro_batch": facts["micro_batch"], "accumulation_steps": facts["accumulation_steps"]}
        self._columns = {table: _empty(table) for table in schema.TABLES}
        self._begin = time.monotonic()
        # What follows is read and written by the jobs alone, which run one after another.
        self._number = self._attempt = self._written = 0
        self._last = goes_on
        self._segments: list[schema.SegmentRef] = list(goes_on["segments"]) if goes_on else []
        self._aside: set[str] = set()  # checkpoints that corrupt commits may bind: they stay as they are
        self._submit(lambda: self._open(facts))

    def _open(self, facts: schema.TrialFacts) -> None:
        """Find out what is there."""
        with suppress(FileExistsError):  # an earlier attempt wrote it: the id hashes what it says, so it says the same
            self._store.write_json(f"{self._directory}/{schema.TRIAL_FILE}", facts)
        files = commit_files(self._store, self.key)
        newest: schema.Commit | None = newest_whole(files, self._store.read_json)[0]
        self._number = max(files, default=0)
        if self._number > (self._last["number"] if self._last else 0):  # some are not gone on from
            self._aside = set(self._store.names(f"{self._directory}/{schema.CHECKPOINTS_DIR}"))
        attempts = _attempts(self._store.names(f"{self._directory}/{schema.SEGMENTS_DIR}"))
        self._attempt = max(attempts, newest["attempt"] + 1 if newest else 0)
        self._identity["attempt"] = self._attempt

    def step(
        self,
        *,
        step: int,
        samples: int,
        step_lr: float,
        loss: float,
        noise: NoiseMeasurement | None,
        row: int,
        step_s: float,
        compute_s: float,
        sync_s: float,
        data_s: float,
    ) -> None:
        """Add one optimizer step; `row` is this trial's place in the pack whose `noise` was measured."""
        self._add(
            "steps",
            {
                "step": step,
                "samples": samples,
                "step_lr": step_lr,
                "loss": loss,
                "grad_sq_small": float(noise.small[row]) if noise else None,
                "grad_sq_big": float(noise.big[row]) if noise else None,
                "shard_size": self._identity["batch_size"] // noise.shards if noise else None,
                "shards": noise.shards if noise else None,
                "step_s": step_s,
                "compute_s": compute_s,
                "sync_s": sync_s,
                "data_s": data_s,
            },
        )
        if noise and noise.layers:
            for layer, (small, big) in noise.layers.items():
                norms = {"grad_sq_small": float(small[row]), "grad_sq_big": float(big[row]), "shards": noise.shards}
                self._add("layers", {"step": step, "samples": samples, "layer": layer, **norms})

    def evaluation(self, *, step: int, samples: int, values: Mapping[str, float], eval_s: float) -> None:
        """Add one row per metric."""
        for metric, value in values.items():
            self._add("evals", {"step": step, "samples": samples, "metric": metric, "value": value, "eval_s": eval_s})

    def commit(
        self, *, step: int, samples: int, status: schema.Status, cause: str = "", state: TrialState | None = None
    ) -> None:
        """Bind everything added so far, and the state after it, from which the trial can go on."""
        added = {table: self._taken(table) for table in self._columns}
        elapsed_s = time.monotonic() - self._begin

        def job() -> None:
            for table, columns in added.items():
                self._write_segment(table, columns)
                self._merge(table)
            checkpoint = self._write_checkpoint(state) if state else None
            self._write_commit(step, samples, status, cause, checkpoint, elapsed_s)

        self._submit(job)

    def fail(self, cause: str) -> None:
        """Say that the trial failed. It stands where it was last committed: nothing added since then is kept."""
        elapsed_s = time.monotonic() - self._begin

        def job() -> None:
            last = self._last
            self._segments = list(last["segments"]) if last else []
            step, samples = (last["step"], last["samples"]) if last else (0, 0)
            self._write_commit(step, samples, "failed", cause, last.get("checkpoint") if last else None, elapsed_s)

        self._submit(job)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _write_commit(
        self,
        step: int,
        samples: int,
        status: schema.Status,
        cause: str,
        checkpoint: schema.CheckpointRef | None,
        elapsed_s: float,
    ) -> None:
        self._number += 1
        commit: schema.Commit = {
            "schema_version": schema.SCHEMA_VERSION,
            "key": self.key,
            "number": self._number,
            "attempt": self._attempt,
            "step": step,
            "samples": samples,
            "status": status,
            "cause": cause,
            "segments": list(self._segments),
            "checkpoint": checkpoint,
            "realisation": self._realisation,
            "timings": self._timings,
            "elapsed_s": elapsed_s,
            "committed_utc": utc_now(),
        }
        if self._goal is not None:
            commit["goal"] = self._goal
        if self._fence is not None:
            commit["fence"] = self._fence
        self._put_commit(commit)
        self._forget_checkpoints(commit)
        self._last = commit

    def _put_commit(self, commit: schema.Commit) -> None:
        """Put it under the next free number, over what a driver with an older lease may have committed meanwhile."""
        while True:
            if self._fence is not None:
                lease.check(self._store, self._fence)
            commit["number"] = self._number
            file = f"{schema.COMMITS_DIR}/{self._number:04d}.json"
            if self._fence is None:
                return self._put(file, json_bytes(commit))
            try:
                return self._store.write(f"{self._directory}/{file}", json_bytes(commit))
            except FileExistsError:
                other: schema.Commit = self._store.read_json(f"{self._directory}/{file}")
                if other.get("fence", 0) >= self._fence:
                    raise self._not_alone() from None
                self._number += 1

    def _write_segment(self, table: schema.Table, columns: Columns) -> None:
        """Rows -> one immutable segment."""
        if columns["step"]:
            rows = segment.of(table, columns, self._identity | (self._split if table == "steps" else {}))
            self._segments.append(self._put_segment(table, rows))

    def _put_segment(self, table: schema.Table, rows: pa.Table) -> schema.SegmentRef:
        content = segment.encode(rows)
        self._written += 1
        file = f"{schema.SEGMENTS_DIR}/{self._prefix}-{self._written:04d}-{table}.parquet"
        self._put(file, content)
        return {"file": file, "table": table, "sha256": _sha256(content), "rows": rows.num_rows}

    def _merge(self, table: schema.Table) -> None:
        """Small segments -> one, as often as there are enough; one that is not whole is left to who reads the log."""
        with suppress(CorruptError):
            while old := merging.due(self._segments, table, _ROWS_PER_SEGMENT):
                rows = merging.merged([self._rows(ref) for ref in old], table)
                new = self._put_segment(table, rows)
                new["level"] = old[0].get("level", 0) + 1
                self._segments = merging.replaced(self._segments, old, new)

    def _rows(self, reference: schema.SegmentRef) -> pa.Table:
        """What a segment holds.

        Raises:
            CorruptError: it is not what was written.
        """
        file = f"{self._directory}/{reference['file']}"
        try:
            content = check_bytes(self._store.read(file), reference["sha256"], file)
        except FileNotFoundError:
            raise CorruptError(f"{file} is not there") from None
        return segment.rows(content, reference, [c.name for c in schema.TABLES[reference["table"]]], file)

    def _write_checkpoint(self, state: TrialState) -> schema.CheckpointRef:
        content = encode_state(state)
        file = f"{schema.CHECKPOINTS_DIR}/{self._prefix}-{self._number + 1:04d}.pt"
        self._put(file, content)
        return {"file": file, "sha256": _sha256(content), "bytes": len(content)}

    def _forget_checkpoints(self, commit: schema.Commit) -> None:
        """Remove those that nothing goes on from: all but this commit's and, while the trial runs, the last one's."""
        kept = {_file_of(commit), None if commit["status"] in schema.FINAL_STATUSES else _file_of(self._last)}
        for name in self._store.names(f"{self._directory}/{schema.CHECKPOINTS_DIR}"):
            if f"{schema.CHECKPOINTS_DIR}/{name}" not in kept and name not in self._aside:
                self._store.remove(f"{self._directory}/{schema.CHECKPOINTS_DIR}/{name}")

    def _put(self, file: str, content: bytes) -> None:
        """A name that is taken means that another run writes this trial too."""
        try:
            self._store.write(f"{self._directory}/{file}", content)
        except FileExistsError as error:
            raise self._not_alone() from error

    def _not_alone(self) -> StorageError:
        return StorageError(
            f"another run is writing trial {self.key} in {self._store.root}: wait for it, or give another --storage"
        )

    @property
    def _prefix(self) -> str:
        """Of file names: no two writers have the same."""
        return f"a{self._attempt:03d}" + (f"-f{self._fence:04d}" if self._fence is not None else "")

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _add(self, table: schema.Table, row: Row) -> None:
        columns = self._columns[table]
        for name, value in row.items():
            columns[name].append(value)
        if len(columns["step"]) >= _ROWS_PER_SEGMENT:
            full = self._taken(table)
            self._submit(lambda: self._write_segment(table, full))

    def _taken(self, table: schema.Table) -> Columns:
        columns, self._columns[table] = self._columns[table], _empty(table)
        return columns


def _empty(table: schema.Table) -> Columns:
    return {column.name: [] for column in schema.TABLES[table]}


def _at_once(job: Job) -> None:
    job()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_of(commit: schema.Commit | None) -> str | None:
    """Its checkpoint's name."""
    checkpoint = commit.get("checkpoint") if commit else None
    return checkpoint["file"] if checkpoint else None


def _attempts(segments: list[str]) -> int:
    """Attempts that have left segments, committed or not."""
    return max((int(name[1:4]) for name in segments), default=-1) + 1
