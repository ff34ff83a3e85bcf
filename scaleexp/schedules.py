"""Learning-rate schedules as functions of samples seen, so that they mean the same at every batch size.

A schedule is a multiplier m(x) of the peak LR, x samples into the run. The step that eats samples [start, stop)
takes the mean of m over them, so that the LR spent per sample is the same for every split of a run into steps:
the sum over steps of B x multiplier is the integral of m.
"""

from __future__ import annotations


def warmup_constant(start: int, stop: int, *, warmup_samples: int) -> float:
    """Mean over samples [start, stop) of m(x) = min(1, x / warmup_samples): a linear warmup, then constant.

    Warmup is counted in samples and not in steps: a number of steps would warm a large batch up for more samples
    than a small one and favour one of them (Goyal et al. 2017, arXiv:1706.02677, introduce it in epochs).

    Args:
        start: samples eaten before the step.
        stop: samples eaten after it, > start.
        warmup_samples: samples until the peak LR is reached; 0 for none.

    Raises:
        ValueError: if the interval is empty or begins before the run.

    The first step of 100 samples lies wholly in a warmup of 400, and its mean is at its middle:

    >>> warmup_constant(0, 100, warmup_samples=400)
    0.125
    >>> warmup_constant(300, 500, warmup_samples=400)
    0.9375
    """
    if not 0 <= start < stop:
        raise ValueError(f"A step eats samples [start, stop) with 0 <= start < stop; got [{start}, {stop}).")
    ramp_stop = min(stop, warmup_samples)
    if start >= ramp_stop:
        return 1.0
    # Twice the integral times warmup_samples, in integers: the same bits on every machine.
    ramp = ramp_stop * ramp_stop - start * start
    flat = 2 * warmup_samples * (stop - ramp_stop)
    return (ramp + flat) / (2 * warmup_samples * (stop - start))
