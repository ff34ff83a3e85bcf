"""Which learning-rate rule holds up to which batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import stdev

from analysis.targets import BatchPoint, Run, median_steps
from analysis.wording import percent
from scaleexp.schema import PlanFile, RuleLabel


@dataclass(frozen=True, kw_only=True, slots=True)
class RulePoint:
    """One rule at one batch size.

    Attributes:
        lr: the rule's LR there.
        steps: median steps to target at that LR; inf when fewer than half of the seeds reached it.
        ratio: steps over the tuned steps of that batch.
        holds: ratio <= 1 + tolerance.
    """

    batch_size: int
    lr: float
    steps: float
    ratio: float
    holds: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleVerdict:
    """Verdict on one rule.

    Attributes:
        rule: none | sqrt | linear.
        base_batch_size, base_lr: what the rule scales from.
        tolerance: 0.1 means within 10 % of the tuned steps.
        holds_up_to: largest batch up to which it holds at every planned batch from the base upward; None if it fails,
            or could not be judged, at once.
        holds_down_to: the same, downward.
        points: one per batch, ascending.
        sentence: the verdict in one sentence.
    """

    rule: str
    base_batch_size: int
    base_lr: float
    tolerance: float
    holds_up_to: int | None
    holds_down_to: int | None
    points: tuple[RulePoint, ...]
    sentence: str


def judge_rules(
    plan: PlanFile, runs: Sequence[Run], points: Sequence[BatchPoint], *, tolerance: float = 0.1
) -> tuple[RuleVerdict, ...]:
    """One verdict per rule of the plan, in the plan's order.

    A rule holds at a batch when its LR takes at most 1 + tolerance times the median steps of the best LR of the grid
    there, both medians over seeds with censored runs as infinitely many steps. A planned batch that gave no point is
    not judged, because there is nothing tuned to compare with, and no rule is said to hold beyond it.
    """
    by_key = {run.key: run for run in runs}
    tuned = {point.batch_size: point for point in points}
    rules = dict.fromkeys(label["rule"] for label in plan["rules"])
    return tuple(
        _verdict(rule, [label for label in plan["rules"] if label["rule"] == rule], plan, by_key, tuned, tolerance)
        for rule in rules
    )


def _verdict(
    rule: str,
    labels: Sequence[RuleLabel],
    plan: PlanFile,
    by_key: dict[str, Run],
    tuned: dict[int, BatchPoint],
    tolerance: float,
) -> RuleVerdict:
    points: list[RulePoint] = []
    errors: dict[int, float | None] = {}
    gaps: dict[int, str] = {}
    for label in sorted(labels, key=lambda label: label["batch_size"]):
        point = tuned.get(label["batch_size"])
        at_rule = [by_key[i] for i in label["trial_ids"] if i in by_key]
        if point is None or not at_rule:
            gaps[label["batch_size"]] = (
                "no learning rate reached the target" if point is None else "the rule's own runs are missing"
            )
            continue
        steps = median_steps(at_rule)
        ratio = steps / median_steps(point.runs)
        points.append(
            RulePoint(
                batch_size=label["batch_size"], lr=label["lr"], steps=steps, ratio=ratio, holds=ratio <= 1.0 + tolerance
            )
        )
        errors[label["batch_size"]] = _ratio_error(at_rule, point.runs)
    base = plan["base_batch_size"]
    first_above = min((b for b in gaps if b >= base), default=math.inf)
    first_below = max((b for b in gaps if b <= base), default=-math.inf)
    up = _reach([p for p in points if base <= p.batch_size < first_above])
    down = _reach([p for p in reversed(points) if first_below < p.batch_size <= base])
    return RuleVerdict(
        rule=rule,
        base_batch_size=base,
        base_lr=plan["base_lr"],
        tolerance=tolerance,
        holds_up_to=up,
        holds_down_to=down,
        points=tuple(points),
        sentence=_sentence(rule, base, tolerance, up, down, points, errors, gaps, _seeds(labels, by_key)),
    )


def _reach(outward: Sequence[RulePoint]) -> int | None:
    """The last batch, going outward from the base, before the first at which the rule fails."""
    holding = list(takewhile(lambda p: p.holds, outward))
    return holding[-1].batch_size if holding else None


def _ratio_error(at_rule: Sequence[Run], tuned: Sequence[Run]) -> float | None:
    """Standard error of the log ratio over seeds that both LRs share; None with fewer than two such seeds.

    Paired, because a seed has the same initialisation and data order at both LRs.
    """
    steps = {run.seed: run.steps for run in tuned if run.reached}
    logs = [math.log(run.steps / steps[run.seed]) for run in at_rule if run.reached and run.seed in steps]
    return stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else None


def _seeds(labels: Sequence[RuleLabel], by_key: dict[str, Run]) -> int:
    """The fewest seeds that any batch of the rule has."""
    counts = [sum(i in by_key for i in label["trial_ids"]) for label in labels]
    return min((n for n in counts if n), default=0)


def _sentence(
    rule: str,
    base: int,
    tolerance: float,
    up: int | None,
    down: int | None,
    points: Sequence[RulePoint],
    errors: dict[int, float | None],
    gaps: dict[int, str],
    seeds: int,
) -> str:
    if not points:
        return f"{rule}: no batch size has both the rule's runs and a tuned learning rate to compare them with."
    over = f"medians of {seeds} seeds" if seeds > 1 else "one seed each, so noise is not told from failure"
    at_base = next((p for p in points if p.batch_size == base), None)
    if at_base is not None and not at_base.holds:
        return f"{rule}: fails already at its base batch {base:,}, where {_excess(at_base)} ({over})."
    if base in gaps:
        return f"{rule}: not judged, because its base batch {base:,} has no point to start from: {gaps[base]} there."
    low, high = (base if end is None else end for end in (down, up))
    judged = {p.batch_size: f"{_excess(p)}{_doubt(p, errors[p.batch_size], tolerance)}" for p in points}
    told = judged | {batch: f"it is not judged, as {why} there" for batch, why in gaps.items()}
    ends = (max((b for b in told if b < low), default=None), min((b for b in told if b > high), default=None))
    beyond = "; ".join(f"at {b:,} {told[b]}" for b in ends if b is not None)
    if up is None and down is None:
        return f"{rule}: holds at no batch next to its base {base:,}: {beyond} ({over})."
    where = f"from batch {low:,} to {high:,}" if low < high else f"at batch {low:,} only"
    says = f"{rule}: within {percent(tolerance)} of the tuned steps {where}"
    return f"{says}{f'; {beyond}' if beyond else ', every batch that was planned'} ({over})."


def _excess(point: RulePoint) -> str:
    if math.isinf(point.ratio):
        return "half or more of its runs never reach the target"
    return f"it takes {percent(point.ratio - 1.0)} more steps"


def _doubt(point: RulePoint, error: float | None, tolerance: float) -> str:
    """A word of doubt where two standard errors over seeds reach down to the tolerance."""
    if math.isinf(point.ratio) or error is None or math.log(point.ratio / (1.0 + tolerance)) > 2.0 * error:
        return ""
    return f", ± {percent(error)} over seeds, so perhaps by noise"
