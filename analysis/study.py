"""One study, analysed: everything that a figure, a report or `--json` shows is in here, computed once."""

from __future__ import annotations

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
