"""Which number of workers: for a deadline, for a budget, or for the least product of time and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaleexp.errors import ConfigError
from scaleexp.simulate.frontier import Frontier
from scaleexp.simulate.given_curve import FloatArray

SURE = 0.9
"""Share of the draws in which a deadline or a budget must be met for a choice to count as meeting it."""

Criterion = Literal["deadline", "budget", "deadline and budget", "time x cost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The row that was chosen.

    Attributes:
        index: of the row.
        criterion: what for.
        sure: whether it meets what was asked for in `SURE` of the draws; True where nothing was.
        chance: share of the draws in which it does; None where nothing was asked for.
        deadline_s, budget_usd: as asked.
    """

    index: int
    criterion: Criterion
    sure: bool
    chance: float | None
    deadline_s: float | None
    budget_usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trade:
    """The next point of the front beside the chosen one.

    Attributes:
        index: of its row.
        time: relative change of the time, negative for faster.
        cost: relative change of the cost, money or, without a price, worker hours.
    """

    index: int
    time: float
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Weakest:
    """The input that most of the uncertainty comes from.

    Attributes:
        input: its name.
        low_s, high_s: the time if all else were certain; None where nobody can say.
        reason: why, in a few words.
    """

    input: str
    low_s: float | None
    high_s: float | None
    reason: str


def choose(found: Frontier, *, deadline_s: float | None = None, budget_usd: float | None = None) -> Choice:
    """Cheapest in time, fastest within the budget, or least time x cost among what meets both, or of all.

    Raises:
        ConfigError: a budget without a price.
    """
    if budget_usd is not None and found.price is None:
        raise ConfigError("--budget needs a price: give --usd-per-gpu-hour, or a hardware profile that has one.")
    p = np.array([row.workers for row in found.rows], dtype=np.float64)
    seconds = np.array([row.seconds for row in found.rows])
    met = np.ones(found.seconds.shape, dtype=bool)
    if deadline_s is not None:
        met &= found.seconds <= deadline_s
    if budget_usd is not None:
        met &= found.seconds * p * (found.price or 0.0) / 3600.0 <= budget_usd
    chance = met.mean(0)
    ranks: dict[Criterion, FloatArray] = {
        "deadline": p * seconds,
        "budget": seconds,
        "deadline and budget": p * seconds**2,
        "time x cost": p * seconds**2,
    }
    asked = [name for name, value in (("deadline", deadline_s), ("budget", budget_usd)) if value is not None]
    criterion: Criterion = " and ".join(asked) or "time x cost"  # type: ignore[assignment]
    sure = bool((chance >= SURE).any())
    if sure:
        index = int(np.where(chance >= SURE, ranks[criterion], np.inf).argmin())
    else:  # the likeliest; among equals the one that ends soonest, or, for money, the cheapest
        last = p * seconds if asked == ["budget"] else seconds
        index = int(np.lexsort((last, -chance))[0])
    return Choice(
        index=index,
        criterion=criterion,
        sure=sure,
        chance=float(chance[index]) if asked else None,
        deadline_s=deadline_s,
        budget_usd=budget_usd,
    )


def next_trade(found: Frontier, index: int) -> Trade | None:
    """The next faster point of the front, or the next cheaper one where there is none; None where there is neither."""
    rows, own = found.rows, found.rows[index]
    others = [i for i, row in enumerate(rows) if row.on_front and i != index]
    faster = [i for i in others if rows[i].seconds < own.seconds]
    cheaper = [i for i in others if rows[i].workers * rows[i].seconds < own.workers * own.seconds]
    if not faster and not cheaper:
        return None
    to = max(faster, key=lambda i: rows[i].seconds) if faster else min(cheaper, key=lambda i: rows[i].seconds)
    time = rows[to].seconds / own.seconds
    return Trade(index=to, time=time - 1.0, cost=time * rows[to].workers / own.workers - 1.0)


def weakest_input(found: Frontier, index: int, unmeasured: dict[str, str]) -> Weakest:
    """What to measure next.

    Args:
        found: the frontier.
        index: of the row in question.
        unmeasured: input -> why it carries no interval that could be compared; the first of them is the weakest.
    """
    ends = ((1 - found.confidence) / 2, (1 + found.confidence) / 2)
    spans = {name: np.quantile(drawn[:, index], ends) for name, drawn in found.only.items()}
    for name, reason in unmeasured.items():
        return Weakest(input=name, low_s=None, high_s=None, reason=reason)
    name = max(spans, key=lambda key: float(np.log(spans[key][1] / spans[key][0])))
    low, high = map(float, spans[name])
    return Weakest(input=name, low_s=low, high_s=high, reason="its interval alone makes most of that of the time")
