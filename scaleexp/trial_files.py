"""The files of one trial as its writer adds to them: segments, checkpoints, and the commits that bind them.

The last commit of a trial that ends compacts it: it binds one file of all rows for each table, `steps.parquet` and
`evals.parquet` in the trial's directory, so that other tools read a study by one pattern. What no commit needs any more
is removed only after that commit, and after a look that no other driver has taken over: whoever does so later sees it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from scaleexp import lease, merging, schema, segment
from scaleexp.checkpoint import encode as encode_state
from scaleexp.commits import bound_bytes, commit_files
from scaleexp.engines.base import TrialState
from scaleexp.errors import CorruptError, StorageError
from scaleexp.facts import utc_now
from scaleexp.integrity import newest_whole
from scaleexp.segment import Columns, Row
from scaleexp.storage import Store, json_bytes

MOST_COMPACTED = 2_000_000
"""Rows; a longer table stays in segments, so that a writer's memory has a bound: about 250 bytes a row and lane."""

_ATTEMPT = re.compile(r"(?:^|-)a(\d{3,})\b")
_log = logging.getLogger("scaleexp")


class TrialFiles:
    """What one trial has in the storage; its methods run one after another, in whatever thread writes.

    Args:
        store: the study's storage.
        facts: trial.json; written if it is not there yet.
        always: what every commit says: realisation, timings, goal.
        goes_on: the commit that the trial goes on from; None begins it anew.
        again: rows that it goes on from besides, to be written anew (see `scaleexp.cutting`).
        fence: number of the driver's lease: nothing is committed once another has a higher one.
    """

    def __init__(
        self,
        store: Store,
        facts: schema.TrialFacts,
        always: Mapping[str, Any],
        *,
        goes_on: schema.Commit | None,
        again: Mapping[schema.Table, pa.Table] | None = None,
        fence: int | None,
    ) -> None:
        self._again = dict(again or {})
        self._store, self._facts, self._always, self._fence = store, facts, dict(always), fence
        self.key = schema.trial_key(facts["trial_id"], facts["realisation"])
        self._directory = f"{schema.TRIALS_DIR}/{self.key}"
        own = ("trial_id", "realisation", "seed", "batch_size", "workers", "lr")
        self._identity: Row = {name: facts[name] for name in own}  # type: ignore[literal-required]
        self._split: Row = {"micro_batch": facts["micro_batch"], "accumulation_steps": facts["accumulation_steps"]}
        self._number = self._attempt = self._written = 0
        self._last = goes_on
        self._began_samples = goes_on["samples"] if goes_on else 0
        self._segments: list[schema.SegmentRef] = list(goes_on["segments"]) if goes_on else []
        self._lying: set[str] = set()  # segments and checkpoints, of this attempt and of those before it
        self._aside: set[str] = set()  # those that corrupt commits may bind: they stay as they are

    def open(self) -> None:
        """Find out what is there, and write trial.json where nothing is."""
        there = self._store.names(self._directory)
        with suppress(FileExistsError):  # an earlier attempt wrote it: the id hashes what it says, so it says the same
            self._store.write_json(f"{self._directory}/{schema.TRIAL_FILE}", self._facts)
        if there:
            self._look_back(there)
        self._identity["attempt"] = self._attempt
        for table, rows in self._again.items():
            self._segments.append(self._put_segment(table, rows))
        self._again = {}

    def _look_back(self, there: list[str]) -> None:
        """What earlier attempts left, committed or not."""
        places = (schema.SEGMENTS_DIR, schema.CHECKPOINTS_DIR)
        self._lying = {
            f"{place}/{name}" for place in places for name in self._store.names(f"{self._directory}/{place}")
        }
        self._lying |= {name for name in there if name.endswith(".parquet")}
        files = commit_files(self._store, self.key)
        newest: schema.Commit | None = newest_whole(lambda: files, self._store.read_json)[0]
        self._number = max(files, default=0)
        without_state = newest and newest["number"] == self._number and not newest.get("checkpoint")
        if self._number > (self._last["number"] if self._last else 0) and not without_state:
            self._aside = set(self._lying)  # a commit that is corrupt, or binds something that is
        attempts = [int(m.group(1)) for m in (_ATTEMPT.search(n.rpartition("/")[2]) for n in self._lying) if m]
        self._attempt = max([a + 1 for a in attempts] + ([newest["attempt"] + 1] if newest else []), default=0)

    # -- what is added ------------------------------------------------------------------------------------------------

    def add_rows(self, table: schema.Table, columns: Columns) -> None:
        """Rows -> one immutable segment, which the next commit binds."""
        if columns["step"]:
            self._segments.append(self._put_segment(table, self._rows(table, columns)))

    def _put_segment(self, table: schema.Table, rows: pa.Table) -> schema.SegmentRef:
        content = segment.encode(rows)
        self._written += 1
        file = f"{schema.SEGMENTS_DIR}/{self._prefix}-{self._written:04d}-{table}.parquet"
        self._put(file, content)
        return {"file": file, "table": table, "sha256": _sha256(content), "rows": rows.num_rows}

    def _merge(self, table: schema.Table) -> None:
        """Small segments -> one, as often as there are enough."""
        while old := merging.due(self._segments, table):
            try:
                new = self._put_segment(table, pa.concat_tables([self._read(ref) for ref in old]))
            except CorruptError as error:
                return _log.warning("the %s of trial %s are not merged: %s", table, self.key, error)
            new["level"] = old[0].get("level", 0) + 1
            self._segments = merging.replaced(self._segments, old, new)

    def commit(
        self,
        added: Mapping[schema.Table, Columns],
        *,
        step: int,
        samples: int,
        status: schema.Status,
        cause: str,
        state: TrialState | None,
        elapsed_s: float,
    ) -> None:
        """Bind what was added so far, these rows, and the state after them."""
        for table, columns in added.items():
            if status not in schema.FINAL_STATUSES or not self._compacted(table, columns):
                self.add_rows(table, columns)
                self._merge(table)
        checkpoint = self._write_checkpoint(state) if state else None
        self._write_commit(step, samples, status, cause, checkpoint, elapsed_s)

    def chosen(self, realisation: Mapping[str, Any], timings: Mapping[str, float]) -> None:
        """Add to what every commit says."""
        self._always["realisation"] = {**self._always["realisation"], **realisation}
        self._always["timings"] = {**self._always["timings"], **timings}

    def fail(self, cause: str, elapsed_s: float) -> None:
        """Bind again what the last commit bound: the trial stands there."""
        last = self._last
        self._segments = list(last["segments"]) if last else []
        step, samples = (last["step"], last["samples"]) if last else (0, 0)
        self._write_commit(step, samples, "failed", cause, last.get("checkpoint") if last else None, elapsed_s)

    def _compacted(self, table: schema.Table, columns: Columns) -> bool:
        """Whether every row of a table, earlier ones and these, is in one file now; no if there are too many."""
        earlier = [s for s in self._segments if s["table"] == table]
        rows = sum(s["rows"] for s in earlier) + len(columns["step"])
        if rows > MOST_COMPACTED:
            return False
        if rows == 0 or (len(earlier) == 1 and rows == earlier[0]["rows"] and "/" not in earlier[0]["file"]):
            return True
        try:
            parts = [self._read(s) for s in earlier]
        except CorruptError as error:
            _log.warning("the %s of trial %s are not compacted: %s", table, self.key, error)
            return False
        content = segment.encode(pa.concat_tables([*parts, self._rows(table, columns)]).combine_chunks())
        file = self._put_whole(table, content)
        bound = schema.SegmentRef(file=file, table=table, sha256=_sha256(content), rows=rows)
        self._segments = [*(s for s in self._segments if s["table"] != table), bound]
        return True

    def _read(self, bound: schema.SegmentRef) -> pa.Table:
        """Rows of a segment that is what was written, in the columns of this version."""
        content, wanted = bound_bytes(self._store, self.key, bound), schema.arrow_schema(bound["table"])
        return segment.conformed(segment.rows(content, bound, wanted.names, bound["file"]), wanted)

    def _put_whole(self, table: schema.Table, content: bytes) -> str:
        """All rows of a table under its own name, or where an earlier attempt has that, under one of this attempt."""
        for file in (f"{table}.parquet", f"{table}-{self._prefix}.parquet"):
            with suppress(FileExistsError):
                self._store.write(f"{self._directory}/{file}", content)
                self._lying.add(file)
                return file
        raise self._not_alone()

    def _write_checkpoint(self, state: TrialState) -> schema.CheckpointRef:
        content = encode_state(state)
        file = f"{schema.CHECKPOINTS_DIR}/{self._prefix}-{self._number + 1:04d}.pt"
        self._put(file, content)
        return {"file": file, "sha256": _sha256(content), "bytes": len(content)}

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
            "began_samples": self._began_samples,
            "segments": list(self._segments),
            "checkpoint": checkpoint,
            "elapsed_s": elapsed_s,
            "committed_utc": utc_now(),
            **self._always,  # type: ignore[typeddict-item]
        }
        if self._fence is not None:
            commit["fence"] = self._fence
        self._put_commit(commit)
        self._forget(commit)
        self._last = commit

    def _put_commit(self, commit: schema.Commit) -> None:
        """Put it under the next free number, over what a driver with an older lease may have committed meanwhile."""
        while True:
            if self._fence is not None:
                lease.check(self._store, self._fence)
            commit["number"] = self._number
            file = f"{schema.COMMITS_DIR}/{self._number:04d}.json"
            try:
                return self._store.write(f"{self._directory}/{file}", json_bytes(commit))
            except FileExistsError:
                if self._fence is None:
                    raise self._not_alone() from None
                other: schema.Commit = self._store.read_json(f"{self._directory}/{file}")
                if other.get("fence", 0) >= self._fence:
                    raise self._not_alone() from None
                self._number += 1

    def _forget(self, commit: schema.Commit) -> None:
        """Remove what nothing goes on from: states but this one and, while the trial runs, the last; merged segments.

        A driver that takes over after the look at the lease sees this commit. One that took over before it may go on
        from an earlier commit, and then what that binds has to stay.
        """
        final = commit["status"] in schema.FINAL_STATUSES
        kept = self._aside | {s["file"] for s in commit["segments"]} | {_state_of(commit)}
        if not final:
            kept |= {_state_of(self._last)} | {f for f in self._lying if not f.startswith(schema.CHECKPOINTS_DIR)}
        unneeded = sorted(self._lying - kept)
        if unneeded and self._fence is not None:
            lease.check(self._store, self._fence)
        for file in unneeded:
            self._store.remove(f"{self._directory}/{file}")
            self._lying.discard(file)

    def _put(self, file: str, content: bytes) -> None:
        """A name that is taken means that another run writes this trial too."""
        try:
            self._store.write(f"{self._directory}/{file}", content)
        except FileExistsError as error:
            raise self._not_alone() from error
        self._lying.add(file)

    def _not_alone(self) -> StorageError:
        return StorageError(
            f"another run is writing trial {self.key} in {self._store.root}: wait for it, or give another --storage"
        )

    @property
    def _prefix(self) -> str:
        """Of file names: no two writers have the same."""
        return f"a{self._attempt:03d}" + (f"-f{self._fence:04d}" if self._fence is not None else "")

    def _rows(self, table: schema.Table, columns: Columns) -> pa.Table:
        """With the columns that repeat in every row."""
        return segment.table_of(table, columns, self._identity | (self._split if table == "steps" else {}))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _state_of(commit: schema.Commit | None) -> str:
    """File of its checkpoint; empty where it has none."""
    checkpoint = commit.get("checkpoint") if commit else None
    return checkpoint["file"] if checkpoint else ""
