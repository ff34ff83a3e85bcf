"""What failures cost: how often to save a checkpoint, and how long a run then takes.

A node fails (or is taken back, on spot machines) as a Poisson process, and one that fails stops the whole run, so the
mean time between failures of a run is that of a node over the number of nodes. A failure loses what was done since the
last checkpoint and costs a restart, which may fail in turn. All times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.laws import FloatOrArray

FloatArray = npt.NDArray[np.float64]

_LONGEST = 100.0
"""Exponents beyond this are as good as never ending, and would leave the range of floats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A run through failures; all of one shape.

    Attributes:
        mean_s: expected seconds from start to end; inf where it would never end.
        sd_s: standard deviation of them.
        undisturbed_s: seconds if it is lucky and nothing fails: work and checkpoints.
        failures: expected number of failures.
        checkpoint_every_s: seconds of work between checkpoints; inf where none pays.
    """

    mean_s: FloatArray
    sd_s: FloatArray
    undisturbed_s: FloatArray
    failures: FloatArray
    checkpoint_every_s: FloatArray


def run_mtbf(node_mtbf_s: FloatOrArray, nodes: FloatOrArray) -> FloatArray:
    """Mean time between failures of a run that any of its nodes can end [s].

    >>> float(run_mtbf(36_000.0, 10))
    3600.0
    """
    return np.asarray(node_mtbf_s, dtype=np.float64) / np.asarray(nodes, dtype=np.float64)


def young_interval(checkpoint_s: FloatOrArray, mtbf_s: FloatOrArray) -> FloatArray:
    """Work between checkpoints that loses least, to first order: sqrt(2 C M) (Young 1974, CACM 17(9), 530).

    >>> float(young_interval(50.0, 10_000.0))
    1000.0
    """
    return np.sqrt(2.0 * np.asarray(checkpoint_s, dtype=np.float64) * np.asarray(mtbf_s, dtype=np.float64))


def daly_interval(checkpoint_s: FloatOrArray, mtbf_s: FloatOrArray) -> FloatArray:
    """The same to higher order (Daly 2006, Future Generation Computer Systems 22, 303, eq. 37).

    sqrt(2 C M) [1 + sqrt(C / 2M) / 3 + (C / 2M) / 9] - C, and M where C >= 2 M.

    Args:
        checkpoint_s: C, seconds to save one.
        mtbf_s: M, mean seconds between failures of the run; inf without any.

    >>> round(float(daly_interval(60.0, 6 * 3600.0)), 1)
    1570.2
    """
    C, M = np.broadcast_arrays(np.asarray(checkpoint_s, dtype=np.float64), np.asarray(mtbf_s, dtype=np.float64))
    ratio = C / (2.0 * M)
    with np.errstate(invalid="ignore"):
        found = young_interval(C, M) * (1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0) - C
    return np.where(np.isinf(M), np.inf, np.where(ratio < 1.0, found, M))


def completion(
    work_s: FloatOrArray,
    mtbf_s: FloatOrArray,
    *,
    checkpoint_s: FloatOrArray,
    restart_s: FloatOrArray,
    every_s: FloatOrArray | None = None,
) -> Completion:
    """Time that `work_s` of undisturbed work takes through failures.

    The work is cut into n equal segments, each but the last with a checkpoint C at its end. With failures at rate 1/M
    and restarts R that may fail themselves, one of length L takes M e^(R/M) (e^(L/M) - 1) on average (Daly 2006, eq.
    20), exactly, whatever n is. Segments are independent, so their variances add up.

    Args:
        work_s: seconds of steps.
        mtbf_s: M of the run; inf without failures, which then cost nothing, and nor do checkpoints.
        checkpoint_s: C, seconds to save one, during which no step is taken.
        restart_s: R, seconds from a failure to the first step after it.
        every_s: seconds of work between checkpoints; Daly's interval if None.

    >>> found = completion(36_000.0, 7_200.0, checkpoint_s=60.0, restart_s=300.0)
    >>> [round(float(x)) for x in (found.mean_s, found.checkpoint_every_s, found.failures)]
    [42755, 878, 6]
    """
    given = [np.asarray(x, dtype=np.float64) for x in (work_s, mtbf_s, checkpoint_s, restart_s)]
    work, M, C, R = np.broadcast_arrays(*given)
    assert (work >= 0).all() and (M > 0).all() and (C >= 0).all() and (R >= 0).all()  # noqa: PT018
    # Where saving costs nothing it never stops paying: a thousandth of the time between failures is often enough.
    wanted = (
        np.maximum(daly_interval(C, M), 1e-3 * np.minimum(M, 1e300)) if every_s is None else np.asarray(every_s, float)
    )
    never = np.isinf(M)
    rate = 1.0 / M
    segments = np.ceil(work / wanted)
    segments = np.where(never, 1.0, np.maximum(segments, 1.0))
    saved, last = _segment(work / segments + C, R, rate), _segment(work / segments, R, rate)
    # Nothing times infinity is nothing here: a run of one segment saves no checkpoint.
    others = [np.where(segments > 1, (segments - 1) * np.where(segments > 1, found, 0.0), 0.0) for found in saved]
    mean, variance, failed = (other + own for other, own in zip(others, last, strict=True))
    return Completion(
        mean_s=mean,
        sd_s=np.sqrt(variance),
        undisturbed_s=work + np.where(segments > 1, (segments - 1) * C, 0.0),
        failures=failed,
        checkpoint_every_s=np.where(segments > 1, work / segments, np.inf),
    )


def _segment(length: FloatArray, restart: FloatArray, rate: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean, variance, failures) of a stretch that must pass without one, with restarts that may fail, too."""
    restart_mean, restart_variance, again = _stretch(restart, rate, 0.0, 0.0)
    mean, variance, failures = _stretch(length, rate, restart_mean, restart_variance)
    return mean, variance, failures * (1.0 + again)


def _stretch(
    length: FloatArray, rate: FloatArray, pause_mean: FloatArray | float, pause_variance: FloatArray | float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean, variance, failures) of trying for `length` seconds without a failure, with a pause after each.

    The number of failures is geometric with success exp(-rate length); the time of each is an exponential cut off
    at `length`. Both are in any book of probability.
    """
    x = rate * length
    hopeless = x > _LONGEST
    x = np.minimum(x, _LONGEST)
    failures = np.expm1(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(x > 1e-6, (1.0 - x / np.where(failures > 0, failures, 1.0)) / rate, length / 2.0)
        second = 2.0 * lost / rate - length**2 / np.where(failures > 0, failures, 1.0)
    spread = np.where(x > 1e-3, second - lost**2, length**2 / 12.0)  # cancels for small x, where it is uniform
    each, each_variance = lost + pause_mean, spread + pause_variance
    mean = length + failures * each
    variance = failures * each_variance + failures * (1.0 + failures) * each**2
    gone = [np.where(hopeless, np.inf, found) for found in (mean, variance, failures)]
    return gone[0], gone[1], gone[2]
