"""One study, analysed: everything that a figure, a report or `--json` shows is in here, computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.cbs import CurveFit
from analysis.noise import NoiseScale, NoiseSeries
from analysis.read import StudyLog
from analysis.rules import RuleVerdict
from analysis.targets import BatchPoint, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two realisations of one trial, row by row.

    Attributes:
        key, other_key: trial keys.
        steps: steps compared.
        loss_difference: largest relative difference of the logged training loss.
        value_difference: largest relative difference of the logged evaluations.
        step_s, other_step_s: median measured seconds per step.
    """

    key: str
    other_key: str
    steps: int
    loss_difference: float
    value_difference: float
    step_s: float
    other_step_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAnalysis:
    """A study at one target.

    Attributes:
        log: what was read.
        metric, target, direction, unit: what the steps are steps to.
        runs: every run (second realisations left out), censored ones included.
        points: one per batch size with at least one run that reached, ascending.
        missing: (batch_size, one sentence) for each batch size that gave no point.
        fit: the curve; None when fewer than 3 batches gave a point, then `fit_reason` says why.
        noise: noise scale over the runs at the best LR up to the target; None when none was measured.
        noise_series: the same over training, per batch size.
        rules: one verdict per rule.
        agreements: one per second realisation.
        left_out: one sentence for each thing not used, and why.
    """

    log: StudyLog
    metric: str
    target: float
    direction: str
    unit: str
    runs: tuple[Run, ...]
    points: tuple[BatchPoint, ...]
    missing: tuple[tuple[int, str], ...]
    fit: CurveFit | None
    fit_reason: str
    noise: NoiseScale | None
    noise_series: tuple[NoiseSeries, ...]
    rules: tuple[RuleVerdict, ...]
    agreements: tuple[Agreement, ...]
    left_out: tuple[str, ...]


def answer(study: StudyAnalysis) -> str:
    """The study's answer in one sentence: B_crit with its interval, target and definition, or that the data do not say.

    Report, quickstart and `fit` all print this sentence.
    """
    sign = "<=" if study.direction == "min" else ">="
    goal = f"{study.metric} {sign} {study.target:g}"
    asked = f"the critical batch size for {goal}"
    fit = study.fit
    if fit is None:
        return f"The data do not say what {asked} is: {study.fit_reason}"
    if fit.status == "misfit":
        return f"The data do not follow the curve that defines {asked}: {fit.reason}"
    low, high = fit.b_crit_interval
    if fit.status == "not_identified":
        bound = ""
        if low > 0.0 and math.isinf(high):
            bound = f" They only say that it is above {low:,.3g} {study.unit}s."
        elif low == 0.0 and math.isfinite(high):
            bound = f" They only say that it is below {high:,.3g} {study.unit}s."
        return f"The data do not say what {asked} is: {fit.reason}{bound}"
    says = (
        f"{asked[0].upper()}{asked[1:]} is {_number(fit.b_crit)} {study.unit}s "
        f"({fit.confidence:.0%} interval {_number(low)} to {_number(high)}): "
        "there a run takes twice the fewest steps and twice the fewest samples"
    )
    if fit.status == "extrapolated":
        return f"{says}; this is extrapolated: {fit.reason}"
    return f"{says}."


def _number(value: float) -> str:
    """Three significant digits, with thousands separators.

    >>> _number(12345.6), _number(83.93), _number(0.0123)
    ('12,300', '83.9', '0.0123')
    """
    if not math.isfinite(value) or value == 0.0:
        return str(value)
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"
