"""The local critical batch size of a sweep of branches, in numbers and words."""

from __future__ import annotations

import math

import numpy as np

from analysis.branched import smoothed_end
from analysis.equal_samples import Trace
from analysis.fit_options import FitOptions
from analysis.local_batch import Branch, LocalBatch, local_batch
from analysis.sweep import BRANCH, Sweep, group_text
from analysis.wording import count, in_brackets, measured_interval, number, percent, unit_plural
from scaleexp.errors import ConfigError

HALF_LIVES = 10.0
"""Half-lives of the smoothing in a window, unless told otherwise."""


def branched_fit(sweep: Sweep, options: FitOptions) -> LocalBatch | None:
    """The largest batch whose branches keep up; None where another definition was asked for.

    Curves are compared at the last samples that all of them hold, smoothed from there backwards.

    Raises:
        ConfigError: the source holds no branches, or some of them do not overlap.
    """
    if options.definition != "branched":
        return None
    at = sweep.group.get(BRANCH)
    if not isinstance(at, int | float) or not sweep.traces:
        raise ConfigError(
            f"--definition branched compares branches from one checkpoint, and this source says nowhere where any "
            f"began: give a table with a row for each ({BRANCH}, batch_size, loss, seed) or their curves with a "
            f"column {BRANCH}."
        )
    end = min(float(trace.samples[-1]) for trace in sweep.traces)
    began = min(float(trace.samples[0]) for trace in sweep.traces)
    window = end - at if began >= at else end  # samples are counted from the start of training, or from the branch
    half_life = options.half_life or window / HALF_LIVES
    found = local_batch(
        [
            Branch(batch_size=t.batch_size, seed=t.seed, loss=_loss(t, end, half_life if window > 0.0 else 1.0))
            for t in sweep.traces
        ],
        branch_samples=float(at),
        epsilon=options.epsilon,
        confidence=options.confidence,
        window=window if window > 0.0 else None,
        half_life=half_life if window > 0.0 else None,
        seed=options.seed,
    )
    return found


def _loss(trace: Trace, end: float, half_life: float) -> float:
    """Of one branch at the end of the window."""
    if trace.status == "diverged":
        return math.inf
    there = np.asarray(trace.samples) <= end
    if not there.any():
        raise ConfigError(
            f"a branch of batch {trace.batch_size:,} with seed {trace.seed} begins where another has ended: count the "
            "samples of all branches from one point on."
        )
    return smoothed_end(trace.samples[there].tolist(), trace.values[there].tolist(), half_life=half_life)


def branched_answer(sweep: Sweep, found: LocalBatch) -> str:
    """The answer in one sentence."""
    group = {name: value for name, value in sweep.group.items() if name != BRANCH}
    units = unit_plural(sweep.unit)
    interval = in_brackets(*found.interval, found.confidence)
    asked = f"the local critical batch size{f' of {group_text(group)}' if group else ''} at "
    asked += f"{count(found.branch_samples)} {units}"
    if found.status != "ok":
        low, high = found.bracket
        bound = f" All they say is: {measured_interval(low, high)} {units}." if bool(low) != math.isfinite(high) else ""
        return f"The data do not say what {asked} is: {found.reason}{bound}"
    return (
        f"{asked[0].upper()}{asked[1:]} is {count(found.batch)} {units}{interval}: branches of up to that "
        f"batch stay within {number(found.epsilon)} of the {sweep.metric or 'loss'} of batch {found.base_batch:,}, and "
        f"at {count(found.bracket[1])} they do not."
    )


def branched_lines(sweep: Sweep, found: LocalBatch) -> list[str]:
    """Status, the batch with its bracket, how the losses were made, and how it moves with the tolerance."""
    units = unit_plural(sweep.unit)
    interval = in_brackets(*found.interval, found.confidence)
    moved = ", ".join(f"{measured_interval(low, high)} at {number(e)}" for e, low, high in _sensitivity(found))
    lines = [
        f"status  {found.status.replace('_', ' ')}: {found.reason}",
        f"B       {measured_interval(*found.bracket)}{interval} {units}, branched definition: loss within "
        f"{number(found.epsilon)} of that of batch {found.base_batch:,}",
    ]
    if found.window is not None and found.half_life is not None:
        lines.append(
            f"window  {count(found.window)} {units} from the branch on, smoothed with a half-life of "
            f"{number(found.half_life)}"
        )
    return [*lines, f"moves   {moved}"]


def branched_rows(found: LocalBatch) -> list[dict[str, str]]:
    """One row per batch: heading -> cell."""
    return [
        {
            "batch": count(loss.batch_size),
            "k": number(loss.multiple),
            "loss": number(loss.value, 4) if math.isfinite(loss.value) else "diverged",
            "worse by": number(loss.gap, 2) if math.isfinite(loss.gap) else "-",
            "seeds": str(loss.seeds),
            "in resamples": "-" if loss.probability is None else percent(loss.probability),
        }
        for loss in found.losses
    ]


def _sensitivity(found: LocalBatch) -> list[tuple[float, float, float]]:
    return [(e, 0.0 if math.isnan(low) else low, high) for e, low, high in found.sensitivity]
