"""The frontier as a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scaleexp.narrowing_table import with_table
from scaleexp.plan_table import dollars as cents
from scaleexp.simulate import saying
from scaleexp.simulate.configuration import CAUSES, Row
from scaleexp.simulate.decision import Decision

_DISPENSABLE = ("steps", "cost\n{interval}", "time\n{interval}")
"""Columns that go first where a terminal is narrow."""


def frontier_text(made: Decision, width: int) -> str:
    """The table and what follows from it, in at most `width` columns."""
    given = made.inputs
    price = "no price, so worker hours" if given.price is None else f"{cents(given.price)} per {given.worker} hour"
    goal = f"{given.curve.goal}: " if given.curve.goal else ""
    head = (
        f"{goal}{saying.curve_text(given.curve)}, from {given.curve.name}; step time from {given.times_name}; {price}."
    )
    dispensable = [name.format(interval=f"{100 * given.confidence:.0f} %") for name in _DISPENSABLE]
    return with_table(head, _columns(made), _below(made), dispensable=dispensable, width=width)


def _columns(made: Decision) -> dict[str, list[str]]:
    rows, priced = made.found.rows, made.inputs.price is not None
    per_cent = f"{100 * made.inputs.confidence:.0f} %"
    columns = {
        f"{made.inputs.worker}s": [_marked(made, row) for row in rows],
        "batch": [saying.count(row.batch_size) for row in rows],
        "each": [_each(row) for row in rows],
        "steps": [saying.number(row.steps) for row in rows],
        "time": [saying.time_of(row.seconds) for row in rows],
        f"time\n{per_cent}": [_span(saying.time_of, row.seconds_interval) for row in rows],
    }
    if priced:
        columns["cost"] = [saying.dollars(row.usd or 0.0) for row in rows]
        columns[f"cost\n{per_cent}"] = [_span(saying.dollars, row.usd_interval or ()) for row in rows]
    else:
        columns["worker\nhours"] = [saying.number(row.workers * row.seconds / 3600) for row in rows]
    columns["useful"] = [saying.share(row.useful) for row in rows]
    short = {
        "statistics": "stat.",
        "compute": "comp.",
        "communication": "comm.",
        "stragglers": "strag.",
        "failures": "fail.",
    }
    for cause in CAUSES:
        columns[f"lost:\n{short[cause]}"] = [saying.share(row.lost[cause]) for row in rows]
    return columns


def _span(said: Callable[[float], str], ends: Sequence[float]) -> str:
    """An interval; one word where both ends are said alike."""
    return " to ".join(dict.fromkeys(map(said, ends)))


def _marked(made: Decision, row: Row) -> str:
    """Number of workers, with an arrow at the chosen one and a star on the front."""
    mark = "->" if row is made.chosen else "* " if row.on_front else "  "
    return f"{mark} {row.workers:,}"


def _each(row: Row) -> str:
    return f"{row.accumulation_steps} x {row.micro_batch:,}" if row.accumulation_steps > 1 else f"{row.micro_batch:,}"


def _below(made: Decision) -> list[str]:
    """Legend, the choice and what it rests on."""
    accumulates = any(row.accumulation_steps > 1 for row in made.found.rows)
    legend = (
        "-> recommended; * on the front: nothing is both faster and cheaper. each: samples of a worker in a step"
        f"{', accumulation x micro-batch' if accumulates else ''}. useful: share of the worker time that a batch near "
        "0 would need at the best rate of one worker; the rest is lost to too large a batch (stat.), small worker "
        "batches (comp.), communication, stragglers and failures."
    )
    failures = saying.failures_text(made)
    return [
        legend,
        "",
        saying.choice_text(made),
        f"Trade-off: {saying.trade_text(made)}",
        f"Learning rate: {saying.rate_text(made.lr)}.",
        *([f"Failures: {failures}."] if failures else []),
        f"Weakest input: {saying.weakest_text(made)}.",
        *(f"Mind: {sentence.rstrip('.')}." for sentence in saying.doubts(made)),
    ]
