"""What a step of each kind of trial took, for step times at other numbers of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from analysis.read import StudyLog, TrialLog, read_steps
from scaleexp.schema import trial_key


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """Trials of one engine and one split of the batch.

    Attributes:
        engine: packed (virtual workers) or ddp (real ones).
        workers, micro_batch, accumulation_steps: the split.
        step_s: median seconds of a step over all of them; trials of a pack share the time of a step.
        sync_s: median seconds of exposed communication in it; nan where none was timed.
        steps: how many were timed.
    """

    engine: str
    workers: int
    micro_batch: int
    accumulation_steps: int
    step_s: float
    sync_s: float
    steps: int


def step_rows(log: StudyLog) -> tuple[StepRow, ...]:
    """One per engine and split that has timed steps, ascending."""
    names = ["trial_id", "realisation", "step", "step_s", "sync_s"]
    table = read_steps(log, names)
    keys = [
        trial_key(*pair) for pair in zip(table["trial_id"].to_pylist(), table["realisation"].to_pylist(), strict=True)
    ]
    columns = [table[name].to_numpy().astype(np.float64) for name in names[2:]]
    found: dict[tuple[str, int, int, int], list[np.ndarray]] = {}
    own = {trial.key: _split(trial) for trial in log.trials}
    codes, positions = np.unique(np.array(keys, dtype=str), return_inverse=True)
    for number, key in enumerate(codes.tolist()):
        rows = np.stack([column[positions == number] for column in columns], axis=1)
        # The first step compiles, allocates and opens connections.
        found.setdefault(own[key], []).append(rows[(rows[:, 0] > 1) & (rows[:, 1] > 0)])
    return tuple(sorted(_rows(found), key=lambda row: (row.engine, row.workers, row.micro_batch)))


def _split(trial: TrialLog) -> tuple[str, int, int, int]:
    facts = trial.facts
    engine = str(trial.commit["realisation"].get("engine", "")) if trial.commit else ""
    return engine, facts["workers"], facts["micro_batch"], facts["accumulation_steps"]


def _rows(found: dict[tuple[str, int, int, int], list[np.ndarray]]) -> Iterator[StepRow]:
    for (engine, workers, micro_batch, accumulation_steps), parts in found.items():
        rows = np.concatenate(parts)
        if rows.size:
            sync = rows[np.isfinite(rows[:, 2]), 2]
            yield StepRow(
                engine=engine,
                workers=workers,
                micro_batch=micro_batch,
                accumulation_steps=accumulation_steps,
                step_s=float(np.median(rows[:, 1])),
                sync_s=float(np.median(sync)) if sync.size else float("nan"),
                steps=len(rows),
            )
