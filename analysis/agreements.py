"""Two realisations of one trial, compared row by row: real workers against virtual ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis.read import StudyLog, read_evals, read_steps
from scaleexp.schema import trial_key

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two realisations of one trial, row by row.

    Attributes:
        key, other_key: trial keys.
        steps: steps compared.
        loss_difference: largest relative difference of the logged training loss.
        value_difference: largest relative difference of the logged evaluations.
        step_s, other_step_s: median measured seconds per step.
    """

    key: str
    other_key: str
    steps: int
    loss_difference: float
    value_difference: float
    step_s: float
    other_step_s: float


def agreements(log: StudyLog) -> tuple[Agreement, ...]:
    """One for each second realisation whose first one is in the log too; differences are nan where no row matches."""
    present = {trial.key for trial in log.trials}
    pairs = [
        (trial.facts["trial_id"], trial.key)
        for trial in log.trials
        if trial.facts["realisation"] and trial.facts["trial_id"] in present
    ]
    if not pairs:
        return ()
    evals = read_evals(log)
    return tuple(_agreement(log, evals, key, other) for key, other in pairs)


def _agreement(log: StudyLog, evals: pa.Table, key: str, other: str) -> Agreement:
    first, second = (read_steps(log, ["step", "loss", "step_s"], [k]) for k in (key, other))
    losses = _matched(first, second, ["step"], "loss")
    values = _matched(_of_trial(evals, key), _of_trial(evals, other), ["metric", "step"], "value")
    return Agreement(
        key=key,
        other_key=other,
        steps=losses[0].size,
        loss_difference=largest_relative_difference(*losses),
        value_difference=largest_relative_difference(*values),
        step_s=_median(first),
        other_step_s=_median(second),
    )


def largest_relative_difference(a: FloatArray, b: FloatArray) -> float:
    """Largest |a - b| / max(|a|, |b|); two nan agree, one nan is as far apart as can be, no rows give nan.

    >>> largest_relative_difference(np.array([1.0, 4.0, np.nan]), np.array([1.0, 5.0, np.nan]))
    0.2
    """
    if a.size == 0:
        return math.nan
    both = np.isnan(a) & np.isnan(b)
    scale = np.where((a == b) | both, 1.0, np.maximum(np.abs(a), np.abs(b)))
    difference = np.where((a == b) | both, 0.0, np.abs(a - b) / scale)
    return float(np.where(np.isnan(difference), np.inf, difference).max())


def _matched(first: pa.Table, second: pa.Table, on: list[str], value: str) -> tuple[FloatArray, FloatArray]:
    joined = first.select([*on, value]).join(
        second.select([*on, value]), keys=on, join_type="inner", right_suffix="_other"
    )
    return joined[value].to_numpy(), joined[f"{value}_other"].to_numpy()


def _of_trial(evals: pa.Table, key: str) -> pa.Table:
    trial_id, _, realisation = key.partition("@")
    assert trial_key(trial_id, realisation) == key
    return evals.filter(pc.and_(pc.equal(evals["trial_id"], trial_id), pc.equal(evals["realisation"], realisation)))


def _median(steps: pa.Table) -> float:
    seconds = steps["step_s"].drop_null().to_numpy()
    return float(np.median(seconds)) if seconds.size else math.nan
