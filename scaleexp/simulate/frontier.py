"""Workers against time and money: for every number of workers the best worker batch, and what is lost to what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.errors import InfeasibleError
from scaleexp.simulate.configuration import CAUSES, Ends, Failures, Limits, Row
from scaleexp.simulate.failures import Completion, completion, run_mtbf
from scaleexp.simulate.given_curve import FloatArray, GivenCurve
from scaleexp.simulate.step_sources import StepTimes
from scaleexp.simulate.worker_batch import accumulation, best_batches, left_out_for, worker_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """Every number of workers at its best.

    Attributes:
        rows: ascending in workers.
        seconds: draws of the time of each, shape (n, rows).
        only: cause of uncertainty -> the same with everything else at its estimate: curve, step time, failures.
        confidence: of the intervals.
        price: dollars an hour of one worker; None if not known.
        left_out: one sentence for each number of workers that is not among the rows.
    """

    rows: tuple[Row, ...]
    seconds: FloatArray
    only: dict[str, FloatArray]
    confidence: float
    price: float | None
    left_out: tuple[str, ...]


def frontier(
    curve: GivenCurve,
    times: StepTimes,
    workers: Sequence[int],
    *,
    limits: Limits,
    failures: Failures,
    price: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Frontier:
    """For every number of workers the worker batch that ends soonest, which is also the cheapest for that number.

    Args:
        curve: steps against batch size.
        times: of a step.
        workers: numbers of them, ascending.
        limits: of the machines.
        failures: of them.
        price: of one worker [US dollars per hour].
        draws: of curve and step time, for the intervals.
        seed: of the draws.
        confidence: of the intervals.

    Raises:
        InfeasibleError: no number of workers has a configuration with a step time.
    """
    everyone = np.array(workers, dtype=np.float64)
    batches = worker_batches(curve, limits)
    best, left_out, rate = best_batches(curve, times, everyone, batches, limits)
    endless = _endless(np.ceil(everyone / limits.workers_per_node), failures)
    left_out += left_out_for(everyone[endless], _ENDLESS)
    kept = (best >= 0) & ~endless
    p, b = everyone[kept], batches[best[kept]]
    if not p.size:
        raise InfeasibleError(f"nothing can be said of any number of workers: {left_out[0]}.")
    nodes, accumulated = np.ceil(p / limits.workers_per_node), accumulation(b, limits)
    found, steps = times.predict(p, nodes, b, accumulated), curve.steps(p * b)
    run = _through(steps * found.step_time_s, nodes, failures)
    drawn = _drawn(
        steps,
        found.step_time_s,
        curve.draws(draws, seed)(p * b),
        times.draws(draws, seed + 1).step_time_s(p, nodes, b, accumulated),
        lambda work: _through(work, nodes, failures),
        np.random.default_rng(seed + 2).standard_normal((draws, 1)),
    )
    shares = _shares(curve, found.parts, p, b, steps, run.mean_s, rate)
    front = on_front(run.mean_s, p * run.mean_s)
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows = []
    for i in range(p.size):
        spans = {name: _ends(values[:, i], ends) for name, values in drawn.items()}
        hourly = None if price is None else price * float(p[i]) / 3600.0
        low, high = spans["seconds"]
        status, reason = _trust(curve, float(p[i] * b[i]), str(found.status[i]), str(found.reason[i]))
        every = float(run.checkpoint_every_s[i])
        rows.append(
            Row(
                workers=int(p[i]),
                nodes=int(nodes[i]),
                worker_batch=int(b[i]),
                micro_batch=int(b[i] / accumulated[i]),
                accumulation_steps=int(accumulated[i]),
                batch_size=int(p[i] * b[i]),
                steps=float(steps[i]),
                steps_interval=spans["steps"],
                samples=float(steps[i] * p[i] * b[i]),
                step_time_s=float(found.step_time_s[i]),
                step_time_interval=spans["step_s"],
                seconds=float(run.mean_s[i]),
                seconds_interval=(low, high),
                usd=None if hourly is None else hourly * float(run.mean_s[i]),
                usd_interval=None if hourly is None else (hourly * low, hourly * high),
                useful=float(shares["useful"][i]),
                lost={cause: float(shares[cause][i]) for cause in CAUSES},
                failures=float(run.failures[i]),
                checkpoint_every_s=every if np.isfinite(every) else None,
                work_s=(float(steps[i] * found.step_time_s[i]), *spans["work"]),
                status=status,
                reason=reason,
                on_front=bool(front[i]),
            )
        )
    return Frontier(
        rows=tuple(rows),
        seconds=drawn["seconds"],
        only={name: drawn[name] for name in ("curve", "step time", "failures")},
        confidence=confidence,
        price=price,
        left_out=tuple(left_out),
    )


def _drawn(
    steps: FloatArray,
    step_s: FloatArray,
    drawn_steps: FloatArray,
    drawn_step_s: FloatArray,
    through: Callable[[FloatArray], Completion],
    normal: FloatArray,
) -> dict[str, FloatArray]:
    """Draws of everything that has an interval, shape (n, rows), and of the time with one cause of doubt at a time."""
    work = drawn_steps * drawn_step_s
    sure = np.broadcast_to(steps * step_s, work.shape)
    return {
        "steps": drawn_steps,
        "step_s": drawn_step_s,
        "work": work,
        "seconds": _with_luck(through(work), normal),
        "curve": through(drawn_steps * step_s).mean_s,
        "step time": through(steps * drawn_step_s).mean_s,
        "failures": _with_luck(through(sure), normal),
    }


_ENDLESS = "they fail more often than they can save a checkpoint and start again, so that a run never ends"


def _endless(nodes: FloatArray, failures: Failures) -> npt.NDArray[np.bool_]:
    """Where saving and starting again leave less than a thousandth of the time for work."""
    day = completion(
        86_400.0,
        run_mtbf(failures.node_mtbf_s, nodes),
        checkpoint_s=failures.checkpoint_s,
        restart_s=failures.restart_s,
    )
    return np.asarray(day.mean_s > 1e3 * 86_400.0)


def _with_luck(run: Completion, normal: FloatArray) -> FloatArray:
    """Seconds of a run drawn: what it takes without failures, and beyond that lognormal with its mean and spread."""
    lost = run.mean_s - run.undisturbed_s
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(np.log1p(np.where(lost > 0, run.sd_s / lost, 0.0) ** 2))
    found: FloatArray = run.undisturbed_s + lost * np.exp(width * normal - width**2 / 2)
    return found


def _ends(values: FloatArray, at: tuple[float, float]) -> Ends:
    low, high = np.quantile(values, at)
    return float(low), float(high)


def on_front(seconds: FloatArray, cost: FloatArray) -> npt.NDArray[np.bool_]:
    """Which points no other point beats in both.

    >>> on_front(np.array([4.0, 2.0, 1.0, 1.5]), np.array([1.0, 2.0, 9.0, 9.5])).tolist()
    [True, True, True, False]
    """
    no_slower = seconds[:, None] >= seconds[None, :]
    no_cheaper = cost[:, None] >= cost[None, :]
    better = (seconds[:, None] > seconds[None, :]) | (cost[:, None] > cost[None, :])
    return np.logical_not((no_slower & no_cheaper & better).any(axis=1))


def _through(work_s: FloatArray, nodes: FloatArray, failures: Failures) -> Completion:
    mtbf = run_mtbf(failures.node_mtbf_s, nodes)
    return completion(work_s, mtbf, checkpoint_s=failures.checkpoint_s, restart_s=failures.restart_s)


def _shares(
    curve: GivenCurve,
    parts: Mapping[str, FloatArray],
    p: FloatArray,
    b: FloatArray,
    steps: FloatArray,
    seconds: FloatArray,
    rate: float,
) -> dict[str, FloatArray]:
    """Worker time of each use over all of it: what is useful, and what is lost to which cause; they add up to 1."""
    everything = p * seconds
    samples = steps * p * b
    work = {name: steps * p * value for name, value in parts.items()}
    used = {
        "useful": curve.e_min * rate + 0.0 * p,
        "statistics": (samples - curve.e_min) * rate,
        "compute": work["compute"] - samples * rate,
        "communication": work["communication"],
        "stragglers": work["straggler"],
        "failures": everything - sum(work.values()),
    }
    return {name: np.where(np.isfinite(everything), value / everything, np.nan) for name, value in used.items()}


def _trust(curve: GivenCurve, batch: float, status: str, reason: str) -> tuple[str, str]:
    """Whether a row lies where something was measured, and what does not."""
    said = [reason] if status != "interpolated" and reason else []
    if curve.measured and not curve.measured[0] <= batch <= curve.measured[1]:
        low, high = curve.measured
        said.append(f"batch {batch:,.0f} lies outside the measured {low:,.0f} to {high:,.0f}")
        status = "extrapolated"
    return status, "; ".join(said)
