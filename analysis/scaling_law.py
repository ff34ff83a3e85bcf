"""How the critical batch size grows with model size, data or whatever groups differ in: a power law over fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.jsonable import json_safe
from analysis.power_law import PowerLaw, fit_power_law, propagated, variance_inflation
from analysis.wording import interval, number
from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

MIN_GROUPS = 3
MIN_FREEDOM = 2
"""As for a curve (`analysis.judge`): the scatter of one degree of freedom is known to a factor 16 at 90 %."""
MIN_SPAN = 2.0
MAX_INFLATION = 10.0
MUCH_WIDER = 1.5
UNBOUNDED: Interval = (-math.inf, math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedGroup:
    """The critical batch size of one group, under one definition.

    Attributes:
        name: how the group is told from others, for instance "n_params=85000000".
        regressors: name -> value of what it is fitted against.
        batch: critical batch size [samples]; nan without a fit.
        interval: (low, high) [samples] at the confidence of the law; None where it has none.
        status: of its fit; only `ok` enters a law.
        reason: of its status.
    """

    name: str
    regressors: Mapping[str, float]
    batch: float
    interval: Interval | None = None
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingLaw:
    """batch = coefficient x_1^exponent_1 (x_2^exponent_2), by unweighted least squares in logarithms.

    Attributes:
        definition: of the critical batch size (b_crit | overhead).
        against: names of the regressors.
        coefficient: batch [samples] where every regressor is 1; nan without a law.
        exponents: name -> exponent; nan without a law.
        coefficient_interval, exponent_intervals: at `confidence`, from `interval_from`; unbounded without a law.
        interval_from: "residuals", Student's interval from the scatter of the groups about the law.
        propagated_intervals: name -> interval of the exponent that the intervals of the fits alone would give, if the
            law were exact; None where some group has none.
        confidence: of every interval.
        n_groups: groups behind the law.
        left_out: (group, why it is not).
        rms_log_residual: root mean square of log(fitted group / law); nan without a law.
        variance_inflation: of two regressors, 1 / (1 - r^2) with r the correlation of their logs; None for one.
        status: ok | not_identified; with one degree of freedom it is not identified, and has its numbers all the same.
        reason: one sentence.
        warnings: one sentence each.
    """

    definition: str
    against: tuple[str, ...]
    coefficient: float
    exponents: Mapping[str, float]
    coefficient_interval: Interval
    exponent_intervals: Mapping[str, Interval]
    interval_from: str
    propagated_intervals: Mapping[str, Interval] | None
    confidence: float
    n_groups: int
    left_out: tuple[tuple[str, str], ...]
    rms_log_residual: float
    variance_inflation: float | None
    status: str
    reason: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One entry of `laws`: `exponent` and its interval are those of the first regressor; unbounded is None."""
        first = self.against[0]
        spread = self.propagated_intervals
        return asdict(self) | {
            "against": list(self.against),
            "coefficient": json_safe(self.coefficient),
            "exponent": json_safe(self.exponents[first]),
            "exponent_interval": [json_safe(end) for end in self.exponent_intervals[first]],
            "exponents": {name: json_safe(value) for name, value in self.exponents.items()},
            "exponent_intervals": {k: [json_safe(end) for end in ends] for k, ends in self.exponent_intervals.items()},
            "coefficient_interval": [json_safe(end) or None for end in self.coefficient_interval],
            "propagated_intervals": None if spread is None else {k: list(ends) for k, ends in spread.items()},
            "left_out": [{"group": name, "reason": reason} for name, reason in self.left_out],
            "rms_log_residual": json_safe(self.rms_log_residual),
            "variance_inflation": None if self.variance_inflation is None else json_safe(self.variance_inflation),
            "warnings": list(self.warnings),
        }


def scaling_law(
    groups: Sequence[FittedGroup],
    *,
    against: Sequence[str],
    definition: str = "b_crit",
    confidence: float,
    draws: int = 4000,
    seed: int = 0,
) -> ScalingLaw:
    """Fit the law log B = log c + sum_k a_k log x_k to groups whose own fits are `ok`.

    The intervals are Student's, from the residuals, because they hold both the noise of the fits and what the law does
    not describe. What the fits' own intervals alone would give, taken as log-normal and drawn `draws` times, stands
    beside it, with a warning where it is much wider: then the groups lie on the law more closely than they are known.

    Args:
        groups: one per model size, data size, ...
        against: names of one or two regressors.
        definition: of the batch of every group; it is part of the result, as the exponent depends on it.
        confidence: of every interval, and of the intervals of the groups, in (0, 1).
        draws: of the propagation.
        seed: of the draws.

    Raises:
        ConfigError: not one or two distinct regressors, a group without a finite positive value of one, or a
            confidence outside (0, 1).

    >>> N = [1e8, 3e8, 1e9, 3e9]
    >>> law = scaling_law(
    ...     [FittedGroup(name=f"{n:g}", regressors={"n_params": n}, batch=0.01 * n**0.5) for n in N],
    ...     against=["n_params"],
    ...     confidence=0.95,
    ... )
    >>> round(law.exponents["n_params"], 9), round(law.coefficient, 9), law.status
    (0.5, 0.01, 'ok')
    """
    names = tuple(against)
    _check(groups, names, confidence)
    kept = [g for g in groups if _why_left_out(g) is None]
    left_out = tuple((g.name, reason) for g in groups if (reason := _why_left_out(g)) is not None)
    x = np.array([[g.regressors[name] for name in names] for g in kept], dtype=np.float64).reshape(-1, len(names))
    inflation = variance_inflation(x) if len(names) == 2 and len(kept) >= 2 else None
    problem = _problem(x, names, inflation)
    law: PowerLaw | None = None if problem else fit_power_law(x, np.array([g.batch for g in kept]))
    status, reason = _judge(law, problem, x, names, confidence)
    spread = None if law is None else _propagate(kept, x, names, confidence, draws, seed)
    intervals = {n: UNBOUNDED if law is None else law.interval(k + 1, confidence) for k, n in enumerate(names)}
    low, high = UNBOUNDED if law is None else law.interval(0, confidence)
    return ScalingLaw(
        definition=definition,
        against=names,
        coefficient=math.nan if law is None else math.exp(law.log_coefficient),
        exponents={n: math.nan if law is None else law.exponents[k] for k, n in enumerate(names)},
        coefficient_interval=(math.exp(low), math.exp(high) if high < 700.0 else math.inf),
        exponent_intervals=intervals,
        interval_from="residuals",
        propagated_intervals=spread,
        confidence=confidence,
        n_groups=len(kept),
        left_out=left_out,
        rms_log_residual=math.nan if law is None else law.rms_log_residual,
        variance_inflation=inflation,
        status=status,
        reason=reason,
        warnings=_warnings(intervals, spread),
    )


def _check(groups: Sequence[FittedGroup], names: tuple[str, ...], confidence: float) -> None:
    if len(names) not in (1, 2) or len(set(names)) < len(names):
        raise ConfigError(f"a law is fitted against one or two different columns, got {', '.join(names) or 'none'}.")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence:g}; 0.95 is usual.")
    for group in groups:
        for name in names:
            value = group.regressors.get(name)
            if value is None or not 0.0 < value < math.inf:
                raise ConfigError(f"{name} must be finite and above 0, got {value} in group {group.name}.")


def _why_left_out(group: FittedGroup) -> str | None:
    if group.status != "ok":
        return f"{group.status}: {group.reason}" if group.reason else f"its fit is {group.status}."
    return None if 0.0 < group.batch < math.inf else "it has no finite critical batch size."


def _problem(x: FloatArray, names: tuple[str, ...], inflation: float | None) -> str | None:
    """Why no law may be told from these groups, in one sentence; None where one may."""
    need = MIN_GROUPS + len(names) - 1
    if len(x) < need:
        return f"a power law in {' and '.join(names)} needs {need} groups whose fit is ok, got {len(x)}."
    for k, name in enumerate(names):
        if x[:, k].max() <= MIN_SPAN * x[:, k].min():
            factor = number(float(x[:, k].max() / x[:, k].min()))
            return (
                f"{name} spans a factor {factor} only, too little to see a power law; at least {MIN_SPAN:g} is needed."
            )
    if inflation is not None and inflation > MAX_INFLATION:
        r = 1.0 if math.isinf(inflation) else math.sqrt(1.0 - 1.0 / inflation)
        return (
            f"{names[0]} and {names[1]} are collinear (variance inflation {number(inflation)}, correlation of their "
            f"logs {number(r, 4)}; at most {MAX_INFLATION:g} is allowed): vary one at a fixed value of the other."
        )
    return None


def _judge(
    law: PowerLaw | None, problem: str | None, x: FloatArray, names: tuple[str, ...], confidence: float
) -> tuple[str, str]:
    """(status, reason): one degree of freedom says nothing of how far groups scatter about a law."""
    if law is None:
        return "not_identified", problem or ""
    if law.freedom < MIN_FREEDOM:
        t = number(float(stats.t.ppf(0.5 + confidence / 2.0, law.freedom)))
        return "not_identified", (
            f"the exponent rests on 1 degree of freedom ({len(x)} groups, {len(names) + 1} parameters), so that its "
            f"interval is {t} standard errors either way and hardly bounds it; add groups."
        )
    return "ok", f"{len(x)} groups, {' and '.join(_ranges(x, names))}."


def _propagate(
    kept: Sequence[FittedGroup], x: FloatArray, names: tuple[str, ...], confidence: float, draws: int, seed: int
) -> dict[str, Interval] | None:
    """Intervals of the exponents that the fits' own intervals give, the fits taken as log-normal about their values."""
    ends = [g.interval for g in kept if g.interval is not None and 0.0 < g.interval[0] <= g.interval[1] < math.inf]
    if len(ends) < len(kept):
        return None
    level = 0.5 + confidence / 2.0
    log_ends = np.log(np.array(ends))
    spread = (log_ends[:, 1] - log_ends[:, 0]) / (2.0 * float(stats.norm.ppf(level)))
    noise = np.random.default_rng(seed).standard_normal((draws, len(kept)))
    found = propagated(x, np.log([g.batch for g in kept]) + spread * noise)
    low, high = np.quantile(found, [1.0 - level, level], axis=0)
    return {name: (float(low[k + 1]), float(high[k + 1])) for k, name in enumerate(names)}


def _warnings(intervals: Mapping[str, Interval], spread: Mapping[str, Interval] | None) -> tuple[str, ...]:
    return tuple(
        f"the exponent of {name} is {number(low)} to {number(high)} from the intervals of the fits alone, wider than "
        f"the {number(intervals[name][0])} to {number(intervals[name][1])} from the scatter about the law: the groups "
        "lie on it more closely than they are known."
        for name, (low, high) in (spread or {}).items()
        if high - low > MUCH_WIDER * (intervals[name][1] - intervals[name][0])
    )


def _ranges(x: FloatArray, names: tuple[str, ...]) -> list[str]:
    return [f"{name} {interval(float(x[:, k].min()), float(x[:, k].max()))}" for k, name in enumerate(names)]
