"""The committed rows of a study, a segment at a time: what is in memory does not grow with the study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from analysis.read import StudyLog, TrialLog, read_table
from scaleexp import schema
from scaleexp.schema import Commit, SegmentRef, Table

BLOCK_ROWS = 131_072
"""Rows that are written together, so that a study of many small segments makes no file of many small groups."""


def segments(trial: TrialLog, table: Table) -> list[SegmentRef]:
    """What a trial's commit binds of a table."""
    return [bound for bound in trial.commit["segments"] if bound["table"] == table] if trial.commit else []


def rows_of(log: StudyLog, table: Table) -> int:
    """Committed rows of a table, as the commits say."""
    return sum(bound["rows"] for trial in log.trials for bound in segments(trial, table))


def digest(log: StudyLog, table: Table) -> str:
    """Of the committed rows of a table: the same while no commit binds others."""
    sums = "".join(bound["sha256"] for trial in log.trials for bound in segments(trial, table))
    return hashlib.sha256(sums.encode()).hexdigest()


def trial_rows(log: StudyLog, trial: TrialLog, table: Table) -> Iterator[pa.Table]:
    """Every row of a trial in the log's order, in one table per segment that its commit binds.

    Raises:
        CorruptError: a segment changed since the study was loaded.
    """
    columns = [column.name for column in schema.TABLES[table]]
    for bound in segments(trial, table):
        commit: Commit = {**trial.commit, "segments": [bound]}  # type: ignore[typeddict-item]
        yield read_table(replace(log, trials=(trial._replace(commit=commit),)), table, columns, None)


def blocks(log: StudyLog, table: Table) -> Iterator[pa.Table]:
    """Every row of a study, trial after trial in the plan's order, in blocks of about `BLOCK_ROWS`."""
    waiting: list[pa.Table] = []
    for trial in log.trials:
        for rows in trial_rows(log, trial, table):
            waiting.append(rows)
            if sum(part.num_rows for part in waiting) >= BLOCK_ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
