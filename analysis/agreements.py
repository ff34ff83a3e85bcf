"""Two realisations of one trial, compared row by row: real workers against virtual ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis.read import StudyLog, read_evals, read_steps
from analysis.wording import number
from scaleexp.schema import trial_key

TOLERANCES = {"float64": 1e-8, "float32": 1e-3}
"""Largest relative difference of two realisations over a whole run that is still rounding, by the trial's dtype.

Workers add up gradients in another order, which changes the last bits: 1e-16 in float64, 1e-7 in float32, relative.
Training amplifies such a difference from step to step, the more the higher the learning rate, so a whole run is
granted four (float32) to eight (float64) orders of magnitude more than one step. A wrong gradient (a worker's samples
counted twice, a sum for a mean) changes the loss by percents within a few steps, in either precision.
"""

COARSEST = max(TOLERANCES.values())
"""For a dtype that is not listed: a difference that float32 would not be granted needs an explanation anywhere."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two realisations of one trial, row by row.

    Attributes:
        key, other_key: trial keys.
        steps: steps compared.
        loss_difference: largest relative difference of the logged training loss.
        value_difference: largest relative difference of the logged evaluations.
        step_s, other_step_s: median measured seconds per step; a packed step is shared equally by the trials of its
            pack, so that it is not comparable with a step of real workers.
        agrees: whether rows were compared and no difference exceeds `tolerance`.
        tolerance: of the trial's dtype, from `TOLERANCES`.
    """

    key: str
    other_key: str
    steps: int
    loss_difference: float
    value_difference: float
    step_s: float
    other_step_s: float
    agrees: bool
    tolerance: float


def agreements(log: StudyLog) -> tuple[Agreement, ...]:
    """One for each second realisation whose first one is in the log too; differences are nan where no row matches."""
    present = {trial.key for trial in log.trials}
    pairs = [
        (trial.facts["trial_id"], trial.key, TOLERANCES.get(trial.facts["dtype"], COARSEST))
        for trial in log.trials
        if trial.facts["realisation"] and trial.facts["trial_id"] in present
    ]
    if not pairs:
        return ()
    evals = read_evals(log)
    return tuple(_agreement(log, evals, key, other, tolerance) for key, other, tolerance in pairs)


def agreement_word(agreement: Agreement) -> str:
    """Verdict in a word that cannot be overlooked where it should not be."""
    if not agreement.steps:
        return "nothing to compare yet"
    return "agree" if agreement.agrees else "DISAGREE"


def disagreements(found: Sequence[Agreement]) -> tuple[str, ...]:
    """One sentence for each pair that was compared and does not agree."""
    return tuple(
        f"{a.other_key} and {a.key} DISAGREE: the training loss differs by up to {number(a.loss_difference, 2)} and "
        f"evaluations by up to {number(a.value_difference, 2)} (relative, {number(a.tolerance)} allowed), so that one "
        "of the two ways to run this study is wrong, or the run is chaotic; look at both before trusting the answer."
        for a in found
        if a.steps and not a.agrees
    )


def _agreement(log: StudyLog, evals: pa.Table, key: str, other: str, tolerance: float) -> Agreement:
    first, second = (read_steps(log, ["step", "loss", "step_s"], [k]) for k in (key, other))
    losses = _matched(first, second, ["step"], "loss")
    values = _matched(_of_trial(evals, key), _of_trial(evals, other), ["metric", "step"], "value")
    differences = largest_relative_difference(*losses), largest_relative_difference(*values)
    return Agreement(
        key=key,
        other_key=other,
        steps=losses[0].size,
        loss_difference=differences[0],
        value_difference=differences[1],
        step_s=_median(first),
        other_step_s=_median(second),
        # Two trials that were never evaluated at one step are judged by their losses; without one step, not at all.
        agrees=losses[0].size > 0 and not any(d > tolerance for d in differences),
        tolerance=tolerance,
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
