"""Curve, step time, failures and price put together: the frontier, the choice, its trade-off, and its weakest input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

from scaleexp.simulate.choose import Choice, Trade, Weakest, choose, next_trade, weakest_input
from scaleexp.simulate.configuration import Failures, Limits, Row
from scaleexp.simulate.frontier import Frontier, frontier
from scaleexp.simulate.given_curve import GivenCurve
from scaleexp.simulate.learning_rate import LearningRate, learning_rate
from scaleexp.simulate.step_sources import StepTimes

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What was asked, and of what.

    Attributes:
        curve: steps against batch size.
        times: of a step.
        times_name: where they come from, in words.
        unmeasured_times: why the step times carry no interval; empty where they do.
        workers: numbers of them, ascending.
        limits, failures: of the machines.
        price: of one worker [US dollars per hour].
        price_name: where it comes from.
        worker: what one is: GPU or worker.
        deadline_s, budget_usd: asked for.
        confidence: of every interval.
        seed: of the draws.
    """

    curve: GivenCurve
    times: StepTimes
    times_name: str
    unmeasured_times: str
    workers: tuple[int, ...]
    limits: Limits
    failures: Failures
    price: float | None
    price_name: str
    worker: str
    deadline_s: float | None
    budget_usd: float | None
    confidence: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The frontier and what follows from it.

    Attributes:
        inputs: what was asked.
        found: every number of workers at its best.
        choice: the recommended row.
        trade: the next point of the front; None if there is no other.
        weakest: what to measure next.
        lr: of the chosen batch.
    """

    inputs: Inputs
    found: Frontier
    choice: Choice
    trade: Trade | None
    weakest: Weakest
    lr: LearningRate

    @property
    def chosen(self) -> Row:
        """The recommended row."""
        return self.found.rows[self.choice.index]


def decide(given: Inputs) -> Decision:
    """Compute all of it.

    Raises:
        ConfigError: a budget without a price, or figures that the hardware profile lacks.
        InfeasibleError: no number of workers has a step time.
    """
    found = frontier(
        given.curve,
        given.times,
        given.workers,
        limits=given.limits,
        failures=given.failures,
        price=given.price,
        seed=given.seed,
        confidence=given.confidence,
    )
    choice = choose(found, deadline_s=given.deadline_s, budget_usd=given.budget_usd)
    return Decision(
        inputs=given,
        found=found,
        choice=choice,
        trade=next_trade(found, choice.index),
        weakest=weakest_input(found, choice.index, _unmeasured(given)),
        lr=learning_rate(given.curve, found.rows[choice.index].batch_size),
    )


def _unmeasured(given: Inputs) -> dict[str, str]:
    curve, missing = given.curve, {}
    if curve.bounds_only:
        missing["critical batch size"] = f"not identified, so that its bounds alone count: {curve.reason}"
    if given.unmeasured_times:
        missing["step time"] = given.unmeasured_times
    if not any(curve.b_crit_interval) and not any(curve.s_min_interval) and not missing:
        missing["curve"] = "given without intervals, and taken as exact"
    return missing


# --- JSON -------------------------------------------------------------------------------------------------------


def document(made: Decision) -> dict[str, Any]:
    """`simulate frontier --json`; unknown and unbounded numbers are null."""
    given, rows = made.inputs, [row_entry(row) for row in made.found.rows]
    trade = made.trade
    return plain(  # type: ignore[no-any-return]
        {
            "schema_version": VERSION,
            "curve": curve_entry(given.curve),
            "step_time": {"source": given.times_name, "unmeasured": given.unmeasured_times or None},
            "worker": given.worker,
            "workers_per_node": given.limits.workers_per_node,
            "price_usd_per_worker_hour": given.price,
            "price_source": given.price_name or None,
            "failures": asdict(given.failures),
            "confidence": given.confidence,
            "seed": given.seed,
            "rows": rows,
            "left_out": list(made.found.left_out),
            "front": [row.workers for row in made.found.rows if row.on_front],
            "recommended": {
                **rows[made.choice.index],
                "criterion": made.choice.criterion,
                "sure": made.choice.sure,
                "chance": made.choice.chance,
                "deadline_s": made.choice.deadline_s,
                "budget_usd": made.choice.budget_usd,
                "lr": asdict(made.lr),
            },
            "next": None
            if trade is None
            else {"workers": rows[trade.index]["workers"], "time": trade.time, "cost": trade.cost},
            "weakest": asdict(made.weakest),
        }
    )


def curve_entry(curve: GivenCurve) -> dict[str, Any]:
    """What is known of the curve."""
    names = ("s_min", "b_crit", "s_min_interval", "b_crit_interval", "e_min_interval", "confidence", "unit")
    own = {name: getattr(curve, name) for name in (*names, "status", "reason", "name", "goal", "bounds_only")}
    if curve.bounds_only:
        own |= {"s_min": None, "b_crit": None}
    return {**own, "measured_batches": curve.measured}


def row_entry(row: Row) -> dict[str, Any]:
    """A row, its times in hours."""
    own = asdict(row)
    seconds, ends = own.pop("seconds"), own.pop("seconds_interval")
    hours = {"hours": seconds / 3600, "hours_interval": [end / 3600 for end in ends]}
    return {**own, **hours, "worker_hours": row.workers * seconds / 3600}


def plain(value: Any) -> Any:  # noqa: ANN401 - any result in, any JSON out
    """Tuples to arrays, nan and infinities to None."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) and value != inf else None
    return value
