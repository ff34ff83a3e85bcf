"""What a trial's log and states take on disk, measured from one that is written for this, with this study's columns."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaleexp import schema
from scaleexp.engines.base import NoiseMeasurement, TrialState
from scaleexp.merging import FAN_IN
from scaleexp.runlog import TrialLog
from scaleexp.storage import Store

_MOST_ROWS = 4000
"""Of a segment that is written to be measured: its bytes grow evenly by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBytes:
    """Bytes of the parts of a log.

    Attributes:
        begin: trial.json and the commit before step 0.
        commit: the first one after it.
        commit_more: what it would be longer by if it bound another segment of each table.
        segment: of a segment without rows, by table.
        row: of each of its rows, by table.
        state: of one checkpoint.
        metrics: of an evaluation, each of which is a row.
        row_s: to add a step's row [seconds].
    """

    begin: float
    commit: float
    commit_more: float
    segment: Mapping[str, float]
    row: Mapping[str, float]
    state: float
    metrics: tuple[str, ...] = ()
    row_s: float = 0.0

    def of_log(self, rows: Mapping[str, int], commits: int, *, begun: bool = False) -> float:
        """Of the log of a trial that has ended, of so many rows by table, in so many commits after the first.

        The last commit binds one file of each table, and is written twice. States are not counted.

        Args:
            rows: by table.
            commits: after the one before step 0.
            begun: whether there is a log already, to which these are added.
        """
        listed = sum(segments_after(n) - 1 for n in range(1, commits))
        there = sum(self.segment[t] for t, n in rows.items() if n) + self.begin if begun else 0.0
        return self.begin + (commits + 1) * self.commit + self.commit_more * listed + self.of_rows(rows) - there

    def of_rows(self, rows: Mapping[str, int]) -> float:
        """Of one file of each table."""
        return sum(self.segment[t] + n * self.row[t] for t, n in rows.items() if n)


def segments_after(commits: int) -> int:
    """Of a table, that a commit of a trial under way lists: what was merged is one (see `scaleexp.merging`).

    >>> [segments_after(n) for n in (1, 15, 16, 17, 256)]
    [1, 15, 1, 2, 1]
    """
    return commits % FAN_IN + (segments_after(commits // FAN_IN) if commits >= FAN_IN else 0)


def times_written(commits: int) -> int:
    """Of every row until the trial ends: in its segment, once per level of merging, and in the file of all rows.

    >>> [times_written(n) for n in (1, 2, 15, 16, 256)]
    [1, 2, 2, 3, 4]
    """
    return 1 if commits == 1 else 2 + int(math.log(commits, FAN_IN) + 1e-9)


def evaluations(first: int, last: int, batch_size: int, every_samples: int) -> int:
    """Of a trial that goes on after step `first` and ends after step `last`; at step 0, it begins with one.

    >>> evaluations(0, 10, 4, 16), evaluations(4, 10, 4, 16), evaluations(0, 10, 32, 16)
    (4, 2, 11)
    """
    every = max(every_samples, batch_size)
    crossed = last - first if every == batch_size else last * batch_size // every - first * batch_size // every
    ends_between = every > batch_size and last * batch_size // every == (last - 1) * batch_size // every
    return crossed + ends_between + (first == 0)


def measured(
    facts: schema.TrialFacts,
    realisation: Mapping[str, object],
    timings: Mapping[str, float],
    goal: dict[str, float],
    state: TrialState,
    *,
    metrics: Sequence[str],
    rows: int,
    evaluated: int,
    noise: NoiseMeasurement | None,
    noise_every: int,
) -> LogBytes:
    """Write the log of a trial into a temporary directory and measure it.

    Args:
        facts: of the trial.
        realisation: what its commits repeat,
        timings: and this,
        goal: and this: the hardest value of every metric.
        state: of the trial.
        metrics: of an evaluation.
        rows: of steps that the file of them all will have.
        evaluated: evaluations among them.
        noise: a measurement, of which only the shape counts.
        noise_every: steps from one to the next.
    """
    draw = np.random.default_rng(0)

    def like(value: float) -> float:
        """Another number that is about as large: its first bits are the same, and pack well."""
        return value * (1.0 + 0.1 * float(draw.standard_normal()))

    tick = math.ulp(time.perf_counter())

    def lasts(seconds: float) -> float:
        """Another time, as fine as this machine's clock tells it by now."""
        return round(like(seconds) / tick) * tick

    whole = min(rows, _MOST_ROWS)
    evaluated = max(1, round(evaluated * whole / rows))
    single = facts["dtype"] != "float64"
    with tempfile.TemporaryDirectory(prefix="scaleexp-calibrate-") as root:
        store = Store(root)
        aim = schema.Goal(targets=goal, limit_samples=facts["limit_samples"])
        log = TrialLog(store, facts, realisation, timings, aim, fence=1)
        log.commit(step=0, samples=0, status="running")
        step, row_s = 0, math.inf
        for part in (4, 1):
            begin, added = time.perf_counter(), max(1, whole // part)
            for n in range(added):
                step += 1
                log.step(
                    step=step,
                    samples=step * facts["batch_size"],
                    step_lr=facts["lr"],
                    loss=float(np.float32(like(2.0))) if single else like(2.0),
                    noise=_redrawn(noise, draw) if noise and n % noise_every == 0 else None,
                    row=0,
                    step_s=lasts(0.01),
                    compute_s=lasts(0.01),
                    sync_s=lasts(0.001) if realisation.get("processes", 1) != 1 else 0.0,
                    data_s=lasts(0.001),
                )
            row_s = min(row_s, (time.perf_counter() - begin) / added)
            for n in range(max(1, evaluated // part)):
                values = {name: like(2.0) for name in metrics}
                at = step - evaluated + n
                log.evaluation(step=at, samples=at * facts["batch_size"], values=values, eval_s=lasts(0.01))
            log.commit(step=step, samples=step * facts["batch_size"], status="running", state=state)
        return replace(_sizes(store, log.key), metrics=tuple(metrics), row_s=row_s)


def _redrawn(noise: NoiseMeasurement, draw: np.random.Generator) -> NoiseMeasurement:
    """Other numbers of the same shape."""
    layers = {name: (draw.random(1), draw.random(1)) for name in noise.layers} if noise.layers else None
    return NoiseMeasurement(small=draw.random(1), big=draw.random(1), shards=noise.shards, layers=layers)


def _sizes(store: Store, key: str) -> LogBytes:
    """Of the log that `measured` has written, of three commits."""

    def size(name: str) -> int:
        return len(store.read(f"{schema.TRIALS_DIR}/{key}/{name}"))

    first, second, third = (size(f"{schema.COMMITS_DIR}/{number:04d}.json") for number in (1, 2, 3))
    bound: schema.Commit = store.read_json(f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}/0003.json")
    checkpoint = bound["checkpoint"]
    assert checkpoint is not None
    segment: dict[str, float] = {}
    row: dict[str, float] = {}
    second_bound = store.read_json(f"{schema.TRIALS_DIR}/{key}/{schema.COMMITS_DIR}/0002.json")["segments"]
    earlier = {s["file"] for s in second_bound}
    for table in schema.TABLES:
        own = [s for s in bound["segments"] if s["table"] == table]
        parts = [[s for s in own if (s["file"] in earlier) == there] for there in (True, False)]
        if all(parts):
            (few, least), (many, most) = [
                (sum(s["rows"] for s in part), sum(size(s["file"]) for s in part)) for part in parts
            ]
            row[table] = (most - least) / (many - few) if many > few else 0.0
            segment[table] = least - few * row[table]
    return LogBytes(
        begin=size(schema.TRIAL_FILE) + first,
        commit=second,
        commit_more=third - second,
        segment=segment,
        row=row,
        state=checkpoint["bytes"],
    )
