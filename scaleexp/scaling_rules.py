"""Learning-rate scaling rules: pure functions of kappa = B / B_base.

A rule says how the LR that was tuned at one batch size should change with the batch. It returns the factor on the
base LR, so `module:function` in a study's `lr_rules` names a rule of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, sqrt

from scaleexp.errors import ConfigError
from scaleexp.plugins import resolve

Rule = Callable[[float], float]
"""kappa = B / B_base -> factor on the base LR."""


def none(kappa: float) -> float:
    """Keep the LR: lr = lr_base. The null rule against which the others are judged.

    >>> none(4.0)
    1.0
    """
    return 1.0


def square_root(kappa: float) -> float:
    """Scale the LR with sqrt(B): lr = lr_base sqrt(kappa) (Krizhevsky 2014, arXiv:1404.5997, section 5).

    It keeps the variance of an SGD update, lr^2 tr(Sigma) / B, as the batch grows; the usual rule for Adam
    (Malladi et al. 2022, arXiv:2205.10287, derive it there, together with rules for the betas).

    >>> square_root(4.0)
    2.0
    """
    return sqrt(kappa)


def linear(kappa: float) -> float:
    """Scale the LR with B: lr = lr_base kappa (Goyal et al. 2017, arXiv:1706.02677), meant for SGD with warmup.

    One step at kappa lr then moves like kappa steps at lr, as long as the gradient hardly changes between them.

    >>> linear(4.0)
    4.0
    """
    return kappa


RULES: dict[str, Rule] = {"none": none, "sqrt": square_root, "linear": linear}


def scaled_lr(rule: str, base_lr: float, kappa: float) -> float:
    """LR that a rule assigns to a batch kappa times the base batch.

    Args:
        rule: a name in `RULES`, `module:function`, or an entry point in `scaleexp.rules`.
        base_lr: LR tuned at the base batch.
        kappa: B / B_base, > 0.

    Raises:
        ConfigError: if no rule has that name, or it returns no positive finite factor.

    >>> scaled_lr("sqrt", base_lr=0.1, kappa=16.0)
    0.4
    """
    factor = resolve(rule, RULES, "rule")(kappa)
    if not (isinstance(factor, int | float) and isfinite(factor) and factor > 0):
        raise ConfigError(f"The rule {rule!r} returned {factor!r} at kappa = {kappa:g}; it must be a number above 0.")
    return base_lr * factor
