"""Targets near that of a sweep of curves, which the same runs met as well."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.sweep import Sweep
from analysis.targets import Run, run_to_target

FloatArray = npt.NDArray[np.float64]

EASIER = (0.5, 0.25)
HARDER = (0.5, 0.9)
"""Shares of the way from the sweep's own target to the easiest, and to the hardest, that all of its runs met."""


def neighbouring_targets(sweep: Sweep) -> tuple[float, ...]:
    """Two easier and two harder targets where the runs allow it, rounded to 3 digits, from the easiest to the hardest.

    Every run that met the sweep's own target met these too, after its first evaluation: a target that some of them
    missed would change which runs count, beside what they are counted to.
    """
    target = sweep.target
    if target is None or len(sweep.traces) != len(sweep.runs):
        return ()
    sign = -1.0 if sweep.direction == "max" else 1.0
    met = [trace for trace, run in zip(sweep.traces, sweep.runs, strict=True) if run.reached]
    if not met:
        return ()
    own = sign * target
    easiest = min(_first_after_start(trace.samples, sign * trace.values) for trace in met)
    hardest = max(_hardest_confirmed(sign * trace.values) for trace in met)
    wanted = [own + share * (easiest - own) for share in EASIER] + [own + share * (hardest - own) for share in HARDER]
    rounded = dict.fromkeys(float(f"{value:.3g}") for value in wanted)
    return tuple(sign * value for value in rounded if hardest <= value < easiest and value != own)


def _first_after_start(samples: FloatArray, values: FloatArray) -> float:
    return float(values[samples > 0.0][0])


def _hardest_confirmed(values: FloatArray) -> float:
    """The least value that an evaluation met and the next one confirmed.

    >>> _hardest_confirmed(np.array([4.0, 3.0, 1.0, 2.0, 1.5]))
    2.0
    """
    return float(np.minimum.accumulate(np.maximum(values[:-1], values[1:]))[-1])


def runs_of_traces(sweep: Sweep, target: float) -> tuple[Run, ...]:
    """The runs of a sweep of curves against another target; each keeps its name and seed."""
    direction = sweep.direction or "min"
    return tuple(
        run_to_target(trace, target, direction, key=run.key, workers=run.workers, status=run.status)
        for trace, run in zip(sweep.traces, sweep.runs, strict=True)
    )
