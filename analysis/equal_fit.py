"""The critical batch size at equal samples of a sweep, in numbers and words."""

from __future__ import annotations

import math
from typing import Any

from analysis.fit_options import FitOptions
from analysis.fixed_budget import FixedBudget, fixed_budget
from analysis.jsonable import json_interval, json_safe
from analysis.local_batch import LocalBatch
from analysis.sweep import Sweep, group_text
from analysis.wording import count, in_brackets, number, percent, unit_plural
from scaleexp.errors import ConfigError


def equal_samples_fit(sweep: Sweep, options: FitOptions) -> FixedBudget | None:
    """The largest batch that loses nothing at equal samples; None where another definition was asked for.

    Raises:
        ConfigError: the source does not hold the evaluations that this needs.
    """
    if options.definition != "equal-samples":
        return None
    if not sweep.traces:
        raise ConfigError(
            "--definition equal-samples compares losses after the same samples, and a table of points does not hold "
            "them: give a study or curves, or take --definition curve."
        )
    return fixed_budget(
        sweep.traces,
        sweep.direction or "min",
        epsilon=options.epsilon,
        confidence=options.confidence,
        seed=options.seed,
    )


def equal_samples_answer(sweep: Sweep, found: FixedBudget) -> str:
    """The answer in one sentence."""
    of_group = f" of {group_text(sweep.group)}" if sweep.group else ""
    units = unit_plural(sweep.unit)
    interval = in_brackets(*found.interval, found.confidence)
    if found.status != "ok":
        return f"The data do not say what the critical batch size{of_group} at equal samples is: {found.reason}"
    return (
        f"The critical batch size{of_group} at equal samples is {count(found.batch)} {units}{interval}: up to "
        f"there the best {sweep.metric or 'value'} after {count(found.samples)} {units} is within "
        f"{percent(found.epsilon)} of the best over all batches, and at {count(found.bracket[1])} it is not."
    )


def equal_samples_lines(sweep: Sweep, found: FixedBudget) -> list[str]:
    """Status, the batch with its bracket, and how it moves with the tolerance."""
    units = unit_plural(sweep.unit)
    interval = in_brackets(*found.interval, found.confidence)
    moved = ", ".join(
        f"{_most(batch, following)} at {percent(epsilon)}" for epsilon, batch, following in found.sensitivity
    )
    return [
        f"status  {found.status.replace('_', ' ')}: {found.reason}",
        f"B       {_most(*found.bracket)}{interval} {units}, equal-samples definition: best loss within "
        f"{percent(found.epsilon)} of the best after {count(found.samples)} {units}",
        f"moves   {moved}",
    ]


def equal_samples_rows(found: FixedBudget) -> list[dict[str, str]]:
    """One row per batch: heading -> cell."""
    return [
        {
            "batch": count(loss.batch_size),
            "best LR": f"{'edge ' if loss.lr_edge else ''}{number(loss.lr)}",
            "value": number(loss.value, 4),
            "worse by": number(loss.gap, 2) if loss.gap else "0",
            "seeds": str(loss.seeds),
            "in resamples": "-" if loss.probability is None else percent(loss.probability),
        }
        for loss in found.losses
    ]


def instead_entry(name: str, found: FixedBudget | LocalBatch) -> dict[str, Any]:
    """What stands in an entry of `fits` in place of the curve's numbers; `name` is where the answer stands whole."""
    return {
        "b_crit": json_safe(found.batch),
        "b_crit_interval": json_interval(found.interval),
        **dict.fromkeys(("s_min", "e_min", "rms_log_residual", "seed_noise", "shape_exponent", "overhead", "regimes")),
        **{name: [None, None] for name in ("s_min_interval", "e_min_interval", "shape_exponent_interval")},
        "n_batches": len(found.losses),
        "n_censored": 0,
        "points": [],
        "status": found.status,
        "reason": found.reason,
        "warnings": found.warnings,
        name: found.to_dict(),
    }


def _most(batch: float, following: float) -> str:
    """A bracket.

    >>> _most(64.0, 128.0), _most(64.0, math.inf), _most(math.nan, 16.0)
    ('64', '64 or more', 'below 16')
    """
    if not batch > 0.0:
        return f"below {count(following)}"
    return f"{count(batch)} or more" if math.isinf(following) else count(batch)
