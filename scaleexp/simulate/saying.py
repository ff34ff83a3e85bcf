"""Times, money, shares and intervals of a simulation in words."""

from __future__ import annotations

from math import inf, isfinite

from scaleexp.plan_table import dollars as cents
from scaleexp.plan_table import duration
from scaleexp.simulate.choose import SURE, Choice
from scaleexp.simulate.configuration import Row
from scaleexp.simulate.decision import Decision
from scaleexp.simulate.given_curve import Ends, GivenCurve
from scaleexp.simulate.learning_rate import LearningRate


def time_of(seconds: float) -> str:
    """Seconds as people say them, with three digits.

    >>> time_of(0.0768), time_of(0.3), time_of(75.0), time_of(4000.0), time_of(345600.0), time_of(float("inf"))
    ('76.8 ms', '0.3 s', '1m15s', '1h07m', '96 h', 'for ever')
    """
    if not isfinite(seconds):
        return "for ever"
    if seconds < 0.09995:
        return f"{1000 * seconds:.3g} ms"
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:,.0f} h"
    return f"{seconds:.3g} s" if seconds < 59.95 else duration(seconds)


def dollars(usd: float) -> str:
    """Dollars with three digits, and no cents from 100 on.

    >>> dollars(10867.79), dollars(41.2), dollars(0.001), dollars(float("inf"))
    ('$10,900', '$41.20', '<$0.01', 'no end of dollars')
    """
    if not isfinite(usd):
        return "no end of dollars"
    return f"${number(usd)}" if usd >= 99.995 else cents(usd)


def number(x: float) -> str:
    """Three significant digits, without an exponent for what people count.

    >>> number(12345.0), number(0.01234), number(91.19), number(2e13)
    ('12,300', '0.0123', '91.2', '2e+13')
    """
    rounded = float(f"{x:.3g}")
    return f"{rounded:,.0f}" if 1000 <= rounded < 1e12 else f"{rounded:.3g}"


def count(x: float) -> str:
    """A count of batches or workers, exact."""
    return f"{x:,.0f}"


def share(x: float) -> str:
    """A share in whole per cent; one digit more below 1 %.

    >>> share(0.14), share(0.004), share(0.0)
    ('14 %', '0.4 %', '0 %')
    """
    return f"{100 * x:.0f} %" if abs(x) < 5e-4 or abs(x) >= 0.0095 else f"{100 * x:.1f} %"


def span(ends: Ends) -> str:
    """An interval with sides that may be open.

    >>> span((76.06, 106.8)), span((76.0, None)), span((None, 12.0))
    ('76.1 to 107', '76 or more', 'at most 12')
    """
    low, high = ends
    if low is None:
        return "unbounded" if high is None else f"at most {number(high)}"
    return f"{number(low)} or more" if high is None else f"{number(low)} to {number(high)}"


def curve_text(curve: GivenCurve) -> str:
    """The critical batch size with its interval, or that it is bounded alone."""
    per_cent = f"{100 * curve.confidence:.0f} %"
    unit = f"{curve.unit}s"
    if curve.bounds_only:
        return f"B_crit is not identified, {span(curve.b_crit_interval)} {unit} ({per_cent} interval)"
    assert curve.b_crit is not None
    known = any(curve.b_crit_interval)
    doubt = "" if curve.status == "ok" else f", {curve.status}"
    ends = f" ({per_cent} interval {span(curve.b_crit_interval)})" if known else ""
    return f"B_crit {number(curve.b_crit)} {unit}{ends}{doubt}"


def time_text(row: Row) -> str:
    """The expected time with its interval."""
    low, high = map(time_of, row.seconds_interval)
    at = time_of(row.seconds)
    return at if low == high == at else f"{at} ({low} to {high})"


def money_text(row: Row) -> str:
    """The cost with its interval; worker hours where there is no price."""
    if row.usd is None or row.usd_interval is None:
        return f"{number(row.workers * row.seconds / 3600)} worker hours"
    low, high = map(dollars, row.usd_interval)
    at = dollars(row.usd)
    return at if low == high == at else f"{at} ({low} to {high})"


def split_text(row: Row) -> str:
    """How a batch is made of micro-batches, accumulation and workers."""
    accumulation = f" x {row.accumulation_steps} accumulation steps" if row.accumulation_steps > 1 else ""
    return f"micro-batch {count(row.micro_batch)}{accumulation} x {plural(row.workers, 'worker')}"


def plural(n: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "GPU"), plural(1024, "GPU")
    ('1 GPU', '1,024 GPUs')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def wanted_text(choice: Choice) -> str:
    """What the choice is for."""
    wanted = [] if choice.deadline_s is None else [time_of(choice.deadline_s)]
    wanted += [] if choice.budget_usd is None else [dollars(choice.budget_usd)]
    return f"done within {' and '.join(wanted)}" if wanted else "least time x cost"


def choice_text(made: Decision) -> str:
    """The recommended point in a sentence or two."""
    row, choice, worker = made.chosen, made.choice, made.inputs.worker
    what = f"{plural(row.workers, worker)} at batch {count(row.batch_size)}: {time_text(row)}, {money_text(row)}"
    bound = ", at the slowest that the data allow" if made.inputs.curve.bounds_only else ""
    if choice.chance is None:
        return f"Least time x cost: {what}{bound}."
    chance = f"in {share(choice.chance)} of the draws"
    best = {"deadline": "cheapest", "budget": "fastest", "deadline and budget": "best"}[choice.criterion]
    wanted = wanted_text(choice)
    if choice.sure:
        return f"{wanted[0].upper()}{wanted[1:]}, the {best}: {what}{bound}; it holds {chance}."
    if not choice.chance:
        return f"Nothing here is {wanted} in any draw; the nearest is {what}{bound}."
    return f"Nothing here is {wanted} in {share(SURE)} of the draws; the likeliest, {chance}, is {what}{bound}."


def trade_text(made: Decision) -> str:
    """What the next point of the front buys for what."""
    trade = made.trade
    if trade is None:
        return "No other number of workers is faster or cheaper."
    money = "money" if made.inputs.price is not None else "worker time"
    next_one = plural(made.found.rows[trade.index].workers, made.inputs.worker)
    verb = "buys" if next_one.startswith("1 ") else "buy"
    if trade.time < 0:
        return f"{next_one} {verb} {share(-trade.time)} time for {share(trade.cost)} more {money}."
    verb = "saves" if verb == "buys" else "save"
    return f"{next_one} {verb} {share(-trade.cost)} {money} for {share(trade.time)} more time."


def rate_text(lr: LearningRate) -> str:
    """The learning rate with its range and what it rests on."""
    if lr.lr is None:
        return f"not known: {lr.reason}"
    ends = f" ({lr.low:.3g} to {lr.high:.3g} take at most 10 % more steps)" if lr.low and lr.high else ""
    return f"{lr.lr:.3g}{ends}, {lr.reason}"


def weakest_text(made: Decision) -> str:
    """What to measure next."""
    weak = made.weakest
    if weak.low_s is None or weak.high_s is None:
        return f"the {weak.input}: {weak.reason.rstrip('.')}"
    return f"the {weak.input}: alone it makes the time {time_of(weak.low_s)} to {time_of(weak.high_s)}"


def failures_text(made: Decision) -> str:
    """How often to save, and how often it fails; empty without failures."""
    row = made.chosen
    if made.inputs.failures.node_mtbf_s == inf:
        return ""
    expected = f"{number(row.failures)} failures are to be expected"
    if row.checkpoint_every_s is None:
        return f"{expected}; in so short a run no checkpoint pays"
    return f"save a checkpoint every {time_of(row.checkpoint_every_s)}; {expected}"


def doubts(made: Decision) -> list[str]:
    """What is not to be trusted about the chosen point and about the table, beside the weakest input."""
    curve = made.inputs.curve
    said = [curve.reason] if curve.status in ("misfit", "extrapolated") else []
    said += [part for part in made.chosen.reason.split("; ") if part and part != made.weakest.reason]
    return [*said, *made.found.left_out]
