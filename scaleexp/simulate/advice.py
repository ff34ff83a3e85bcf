"""Advice in at most twelve lines: workers, batch, learning rate, time and money, what to weigh and what to doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

import numpy as np

from scaleexp.plan_table import dollars as cents
from scaleexp.simulate import saying
from scaleexp.simulate.deciding_run import DecidingRun, deciding_run
from scaleexp.simulate.decision import VERSION, Decision, curve_entry, document, plain
from scaleexp.simulate.given_curve import GivenCurve
from scaleexp.simulate.learning_rate import LearningRate, learning_rate

Line = tuple[str, str]
MOST_LINES = 12
NO_TIME = "no step time: give --model, --step-time with --worker-batch, or --hardware with --parameters"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepsRow:
    """A number of workers without a step time, at the batch next to B_crit that it can divide.

    Attributes:
        workers, worker_batch, batch_size: the configuration.
        steps, steps_interval: to the goal.
        samples: to the goal.
        times_fewest: samples over those of an unboundedly small batch.
    """

    workers: int
    worker_batch: int
    batch_size: int
    steps: float
    steps_interval: tuple[float, float]
    samples: float
    times_fewest: float


def steps_rows(curve: GivenCurve, workers: Sequence[int], *, confidence: float, seed: int) -> tuple[StepsRow, ...]:
    """For every number of workers the power of two per worker whose batch comes nearest to B_crit."""
    p = np.array(workers, dtype=np.float64)
    each = 2.0 ** np.maximum(0, np.round(np.log2(curve.usual_batch / p)))
    steps = curve.steps(p * each)
    low, high = np.quantile(curve.draws(1000, seed)(p * each), ((1 - confidence) / 2, (1 + confidence) / 2), axis=0)
    fewest = curve.e_min
    return tuple(
        StepsRow(
            workers=int(p[i]),
            worker_batch=int(each[i]),
            batch_size=int(p[i] * each[i]),
            steps=float(steps[i]),
            steps_interval=(float(low[i]), float(high[i])),
            samples=float(steps[i] * p[i] * each[i]),
            times_fewest=float(steps[i] * p[i] * each[i] / fewest) if fewest else float("nan"),
        )
        for i in range(p.size)
    )


def lines_of_decision(made: Decision) -> list[Line]:
    """The card where a step time is known."""
    row, given = made.chosen, made.inputs
    price = "" if given.price is None else f", at {cents(given.price)} per {given.worker} hour"
    bound = " at most, by the bounds alone" if given.curve.bounds_only else ""
    lines = [
        ("take", f"{saying.plural(row.workers, given.worker)}, {_why(made)}"),
        ("batch", f"{saying.count(row.batch_size)} {given.curve.unit}s = {saying.split_text(row)}"),
        ("learning rate", saying.rate_text(made.lr)),
        (
            "time",
            f"{saying.time_text(row)}{bound}: {saying.number(row.steps)} steps of {saying.time_of(row.step_time_s)}",
        ),
        ("cost", f"{saying.money_text(row)}{price or '; no price is known'}"),
        ("trade-off", saying.trade_text(made)),
    ]
    failures = saying.failures_text(made)
    if failures:
        lines.append(("failures", failures))
    return [*lines, *_curve_lines(given.curve), ("weakest input", saying.weakest_text(made)), *_mind(made)]


def _why(made: Decision) -> str:
    """What the choice is for, and whether that holds."""
    choice = made.choice
    wanted = saying.wanted_text(choice)
    if choice.chance is None:
        return f"for the {wanted}"
    chance = f"in {saying.share(choice.chance)} of the draws"
    if choice.sure:
        best = {"deadline": "cheapest", "budget": "fastest", "deadline and budget": "best"}[choice.criterion]
        return f"the {best} that is {wanted}: it is {chance}"
    return (
        f"the likeliest to be {wanted}, but only {chance}" if choice.chance else f"though not {wanted}: nothing here is"
    )


def lines_of_steps(curve: GivenCurve, rows: Sequence[StepsRow], lr: LearningRate, worker: str) -> list[Line]:
    """The card without a step time: steps and samples, and no time or money."""
    best = suggested(curve, rows)
    unit = f"{curve.unit}s"
    lines = [
        ("batch", f"{saying.count(best.batch_size)} {unit}: {_samples(best, unit)}"),
        (
            "split",
            f"over up to {saying.plural(best.workers, worker)}, then {saying.count(best.worker_batch)} each",
        ),
        ("learning rate", saying.rate_text(lr)),
    ]
    beyond = [row for row in rows if row.batch_size > best.batch_size]
    if beyond:
        nxt = beyond[0]
        lines.append(
            (
                "beyond it",
                f"{saying.plural(nxt.workers, worker)} at batch {saying.count(nxt.batch_size)}: {_samples(nxt, unit)}",
            )
        )
    lines.append(("time, cost", "not known without a step time"))
    return [*lines, *_curve_lines(curve), ("weakest input", NO_TIME)]


def suggested(curve: GivenCurve, rows: Sequence[StepsRow]) -> StepsRow:
    """The most workers whose batch is not beyond B_crit, or the fewest where all are."""
    below = [row for row in rows if row.batch_size <= curve.usual_batch * 1.42]
    return max(below, key=lambda row: row.workers) if below else rows[0]


def _samples(row: StepsRow, unit: str) -> str:
    times = "" if np.isnan(row.times_fewest) else f", {row.times_fewest:.1f} times the fewest"
    low, high = (saying.number(end) for end in row.steps_interval)
    ends = "" if low == high else f" ({low} to {high})"
    return f"{saying.number(row.steps)} steps{ends}, {saying.number(row.samples)} {unit}{times}"


def _curve_lines(curve: GivenCurve) -> list[Line]:
    lines = [("curve", f"{saying.curve_text(curve)}{f', for {curve.goal}' if curve.goal else ''}")]
    run = deciding_run(curve)
    if run is not None:
        lines.append(("to decide", deciding_text(run, curve.unit)))
    return lines


def deciding_text(run: DecidingRun, unit: str) -> str:
    """The run in words."""
    rates = (
        f" at learning rates {', '.join(f'{lr:g}' for lr in run.lrs)}" if run.lrs else " with its learning rate tuned"
    )
    return (
        f"run batch {saying.count(run.batch_size)}{rates}, {run.seeds} seeds each: at most "
        f"{saying.number(run.samples)} {unit}s; it shows {run.reason}"
    )


def _mind(made: Decision) -> list[Line]:
    """The first doubt that no other line has said."""
    return [("mind", sentence.rstrip(".")) for sentence in saying.doubts(made)[:1]]


def card(lines: Sequence[Line], width: int) -> str:
    """Name and text in two columns; no longer than twelve lines where the terminal is wide enough."""
    assert len(lines) <= MOST_LINES
    indent = max(len(name) for name, _ in lines) + 2
    shown = []
    for name, text in lines:
        first, *more = wrap(text, max(width - indent, 40)) or [""]
        shown += [f"{name:<{indent}}{first}", *(f"{'':<{indent}}{line}" for line in more)]
    return "\n".join(shown)


def advice_document(
    curve: GivenCurve, lines: Sequence[Line], *, made: Decision | None = None, rows: Sequence[StepsRow] = ()
) -> dict[str, Any]:
    """`advise --json`."""
    run = deciding_run(curve)
    best = suggested(curve, rows) if rows else None
    batch = made.chosen.batch_size if made else best.batch_size if best else None
    return plain(  # type: ignore[no-any-return]
        {
            "schema_version": VERSION,
            "advice": [{"name": name, "text": text} for name, text in lines],
            "curve": curve_entry(curve),
            "decision": document(made) if made else None,
            "in_steps": [asdict(row) for row in rows],
            "lr": asdict(learning_rate(curve, batch)) if batch else None,
            "weakest": asdict(made.weakest)
            if made
            else {"input": "step time", "low_s": None, "high_s": None, "reason": NO_TIME},
            "deciding_run": asdict(run) if run else None,
        }
    )
