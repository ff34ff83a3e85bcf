"""Which learning-rate rule holds up to which batch size."""

from __future__ import annotations

from dataclasses import dataclass


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
        holds_up_to: largest batch up to which it holds at every measured batch from the base upward; None if it fails at once.
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
