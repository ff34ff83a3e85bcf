"""The log of a trial up to a step: what a script that goes on from a checkpoint of its own still stands by.

Segments whose rows all lie before the cut stay as they are; of those that reach beyond it, the rows before it are
written anew. What lies behind the cut is bound by no later commit, as after any new attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from scaleexp import schema, segment
from scaleexp.commits import bound_bytes
from scaleexp.storage import Store


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A trial's log up to a step.

    Attributes:
        commit: what the newest one says, as of that step and of nothing but whole segments.
        again: rows of the other segments up to the step, by table.
        values: evaluations up to the step, by metric, in the order in which they were made.
        last_evaluated: step of the last one by metric.
        gaps: (first, last) of steps that were taken and have no rows.
    """

    commit: schema.Commit
    again: Mapping[schema.Table, pa.Table]
    values: Mapping[str, Sequence[float]]
    last_evaluated: Mapping[str, int]
    gaps: Sequence[Sequence[int]]


def cut(store: Store, last: schema.Commit, step: int, batch_size: int) -> Cut:
    """The log of a trial up to a step, the rows of that step included.

    Args:
        store: the study.
        last: the newest commit of the trial.
        step: which the script goes on from.
        batch_size: B [samples].

    Raises:
        CorruptError: a segment is not what was committed.
    """
    kept: list[schema.SegmentRef] = []
    parts: dict[schema.Table, list[pa.Table]] = {}
    evaluated: list[pa.Table] = []
    for bound in last["segments"]:
        table = _rows(store, last["key"], bound)
        before = table.filter(pc.less_equal(table["step"], step))
        if bound["table"] == "evals":
            evaluated.append(before)
        if before.num_rows == table.num_rows:
            kept.append(bound)
        elif before.num_rows:
            parts.setdefault(bound["table"], []).append(before)
    gaps = [[first, min(end, step)] for first, end in last.get("gaps", []) if first <= step]
    if step > last["step"]:
        gaps.append([last["step"] + 1, step])
    values, steps = _values(evaluated)
    return Cut(
        commit={**last, "step": step, "samples": step * batch_size, "segments": kept},
        again={name: pa.concat_tables(tables) for name, tables in parts.items()},
        values=values,
        last_evaluated=steps,
        gaps=gaps,
    )


def _rows(store: Store, key: str, bound: schema.SegmentRef) -> pa.Table:
    wanted = schema.arrow_schema(bound["table"])
    content = bound_bytes(store, key, bound)
    return segment.conformed(segment.rows(content, bound, wanted.names, bound["file"]), wanted)


def _values(tables: Sequence[pa.Table]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Values of every metric, and the step of its last one."""
    values: dict[str, list[float]] = {}
    steps: dict[str, int] = {}
    for table in tables:
        for metric, value, step in zip(*(table[c].to_pylist() for c in ("metric", "value", "step")), strict=True):
            values.setdefault(metric, []).append(value)
            steps[metric] = step
    return values, steps
