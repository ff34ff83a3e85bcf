"""What every trial logged from step to step, read once for everything that looks at more than its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.read import StudyLog, TrialLog, read_evals, read_steps
from scaleexp.schema import trial_key

FloatArray = npt.NDArray[np.float64]
_COLUMNS = ["samples", "loss", "step_s", "grad_sq_big"]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One trial, in the order of its steps; arrays have the shape (steps,), nan where nothing was measured.

    Attributes:
        trial: facts and last commit.
        samples: samples seen, the step's own included.
        loss: training loss of the step's batch, before the update.
        step_s: wall time [seconds], shared equally by the trials of a pack.
        grad_sq: squared norm of the gradient of the global batch.
        evals: metric -> (samples, values), in order of samples.
    """

    trial: TrialLog
    samples: FloatArray
    loss: FloatArray
    step_s: FloatArray
    grad_sq: FloatArray
    evals: Mapping[str, tuple[FloatArray, FloatArray]]


def histories(log: StudyLog) -> dict[str, History]:
    """Trial key -> its history, in plan order, further realisations included; empty arrays before the first step."""
    steps = _by_key(read_steps(log, ["trial_id", "realisation", *_COLUMNS]), _COLUMNS)
    table = read_evals(log)
    evals: dict[str, dict[str, tuple[FloatArray, FloatArray]]] = {}
    for metric in table["metric"].unique().to_pylist():
        of_metric = table.filter(pa.compute.equal(table["metric"], metric))
        for key, (samples, values) in _by_key(of_metric, ["samples", "value"]).items():
            evals.setdefault(key, {})[metric] = (samples, values)
    nothing = tuple(np.empty(0) for _ in _COLUMNS)
    made = {}
    for trial in log.trials:
        samples, loss, step_s, grad_sq = steps.get(trial.key, nothing)
        made[trial.key] = History(
            trial=trial, samples=samples, loss=loss, step_s=step_s, grad_sq=grad_sq, evals=evals.get(trial.key, {})
        )
    return made


def _by_key(table: pa.Table, columns: list[str]) -> dict[str, tuple[FloatArray, ...]]:
    """Trial key -> these columns as floats, nulls as nan, ascending in the first of them."""
    if not table.num_rows:
        return {}
    ids, ways = (table[name].combine_chunks().dictionary_encode() for name in ("trial_id", "realisation"))
    codes = ids.indices.to_numpy() * len(ways.dictionary) + ways.indices.to_numpy()
    values = [table[name].to_numpy().astype(np.float64) for name in columns]
    order = np.lexsort((values[0], codes))
    distinct, starts = np.unique(codes[order], return_index=True)
    names = [
        trial_key(
            ids.dictionary[int(c) // len(ways.dictionary)].as_py(),
            ways.dictionary[int(c) % len(ways.dictionary)].as_py(),
        )
        for c in distinct
    ]
    pieces = [np.split(v[order], starts[1:]) for v in values]
    return {name: tuple(piece[i] for piece in pieces) for i, name in enumerate(names)}
