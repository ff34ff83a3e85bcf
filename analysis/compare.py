"""Two studies, or two targets of one, side by side: their recipes, their curves, and the ratio of each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.defaults import CONFIDENCE
from analysis.read import StudyLog, load
from analysis.recipe import Difference, recipe_differences
from analysis.study import StudyAnalysis, analyse
from analysis.wording import interval, level, number, percent
from scaleexp.errors import ConfigError, NotEnoughDataError

AGREES = 0.25
"""Two values whose ratio is known to lie within this of 1 agree: about what a batch size has to move to matter."""
PARAMETERS = ("b_crit", "s_min", "e_min")

Verdict = Literal["differs", "agrees", "unknown", "no_ratio"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """B over A of one parameter.

    Attributes:
        ratio: of the two estimates.
        interval: (low, high) at the confidence of both fits; 0 and inf where the data do not bound that side.
    """

    ratio: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A against B.

    Attributes:
        a, b: each at its target.
        recipe: frozen fields that differ, from which other curves may come.
        grid: fields of what was measured that differ.
        ratios: parameter -> B/A; empty unless both fits are ok.
        shared_seeds: seeds that are in both.
        same_runs: whether A and B are the same runs against the same target, so that every ratio is 1.
        steps: (batch_size, steps of A, steps of B) at the batch sizes that both have a point for.
        verdict: differs | agrees | unknown | no_ratio, on B_crit.
        sentence: the same in words.
    """

    a: StudyAnalysis
    b: StudyAnalysis
    recipe: tuple[Difference, ...]
    grid: tuple[Difference, ...]
    ratios: Mapping[str, Ratio]
    shared_seeds: tuple[int, ...]
    same_runs: bool
    steps: tuple[tuple[int, float, float], ...]
    verdict: Verdict
    sentence: str

    @property
    def pairing(self) -> str:
        """Whether it was used that both have the same seeds."""
        if self.same_runs:
            return "The pairing was used: a run is the same in A and B, and every ratio is exactly 1."
        if not self.shared_seeds:
            return "No seed is in both, so the intervals take A and B as independent."
        seeds = ", ".join(str(seed) for seed in self.shared_seeds[:6]) + (", ..." if len(self.shared_seeds) > 6 else "")
        return (
            f"Seeds in both: {seeds}. The pairing was not used: the intervals take A and B as independent, and are "
            "wider than they need be where a seed moves both alike."
        )


def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    targets: tuple[float, ...] = (),
    metric: str | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Analyse two studies, or one at two targets, and compare them.

    Args:
        a: a study directory.
        b: another; `a` itself if None, and then two targets are needed.
        targets: one for both, or A's and B's; the hardest that both plans have if empty.
        metric: one that both plans have a target for; the first of each if None.
        confidence: of every interval.
        seed: of the bootstrap.

    Raises:
        ConfigError: another unit or metric, or no target to compare at.
        NotEnoughDataError: neither has a curve.
        StorageError: not a readable study directory.
    """
    if len(targets) > 2:
        raise ConfigError(f"--target may be given once for both or twice, for A and for B; got {len(targets)}.")
    if b is None and len(set(targets)) < 2:
        raise ConfigError(
            "one study is compared with itself at two targets: give --target twice, with two values, or a second study."
        )
    logs = (load(a), load(a if b is None else b))
    _check_alike(*logs, metric)
    goals = targets if targets else (_common_target(*logs, metric),)
    first, second = (
        analyse(log, target=goal, metric=metric, confidence=confidence, seed=seed)
        for log, goal in zip(logs, (goals[0], goals[-1]), strict=True)
    )
    return compared(first, second)


def compared(a: StudyAnalysis, b: StudyAnalysis) -> Comparison:
    """Compare two studies that are analysed.

    Raises:
        NotEnoughDataError: neither has a curve.
    """
    if a.fit is None and b.fit is None:
        raise NotEnoughDataError(f"neither has a curve to compare. A: {a.fit_reason} B: {b.fit_reason}")
    same_runs = a.runs == b.runs and a.target == b.target
    ratios = _ratios(a, b, same_runs)
    recipe, grid = recipe_differences(a.log, b.log)
    of_b = {point.batch_size: point.steps for point in b.points}
    verdict, sentence = _judged(ratios, a.fit.confidence, same_runs) if ratios and a.fit else _no_ratio(a, b)
    return Comparison(
        a=a,
        b=b,
        recipe=recipe,
        grid=grid,
        ratios=ratios,
        shared_seeds=tuple(sorted({run.seed for run in a.runs} & {run.seed for run in b.runs})),
        same_runs=same_runs,
        steps=tuple((p.batch_size, p.steps, of_b[p.batch_size]) for p in a.points if p.batch_size in of_b),
        verdict=verdict,
        sentence=sentence,
    )


def ratio_of(a: float, a_interval: tuple[float, float], b: float, b_interval: tuple[float, float]) -> Ratio:
    """B over A of two independent estimates, each with its own bootstrap interval.

    The distances of the bounds from the estimates add in quadrature in log space, each side for itself, so that
    intervals may be lopsided (Zou & Donner 2008, Statistics in Medicine 27, 1693): the lower bound of the ratio is
    off by the lower side of B and the upper side of A. What widened either interval (few seeds, scatter about the
    curve) widens that of the ratio.

    >>> found = ratio_of(100.0, (80.0, 125.0), 200.0, (160.0, 250.0))
    >>> found.ratio, [round(end, 2) for end in found.interval]
    (2.0, [1.46, 2.74])
    """
    (a_below, a_above), (b_below, b_above) = (_sides(a, a_interval), _sides(b, b_interval))
    low, high = (math.hypot(b_below, a_above), math.hypot(b_above, a_below))
    middle = math.log(b / a)
    return Ratio(ratio=b / a, interval=(math.exp(middle - low), math.exp(middle + high)))


def _sides(value: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Log distances of an interval's ends; an end on the wrong side of its estimate is at it."""
    low, high = bounds
    return (
        max(0.0, math.log(value / low)) if low > 0.0 else math.inf,
        max(0.0, math.log(high / value)) if math.isfinite(high) else math.inf,
    )


def _ratios(a: StudyAnalysis, b: StudyAnalysis, same_runs: bool) -> dict[str, Ratio]:
    if a.fit is None or b.fit is None or {a.fit.status, b.fit.status} != {"ok"}:
        return {}
    if same_runs:
        return dict.fromkeys(PARAMETERS, Ratio(ratio=1.0, interval=(1.0, 1.0)))
    found = {}
    for name in PARAMETERS:
        values = (getattr(fit, field) for fit in (a.fit, b.fit) for field in (name, f"{name}_interval"))
        found[name] = ratio_of(*values)
    return found


def _judged(ratios: Mapping[str, Ratio], confidence: float, same_runs: bool) -> tuple[Verdict, str]:
    """What the ratio of B_crit says."""
    found = ratios["b_crit"]
    low, high = found.interval
    says = f"{number(found.ratio)} times that of A ({level(confidence)} interval {interval(low, high)})"
    if same_runs:
        return "agrees", "B_crit agrees within 0 %: A and B are the same runs against the same target."
    if not low <= 1.0 <= high:
        return "differs", f"B_crit differs: that of B is {says}."
    within = max(high, 1.0 / low if low > 0.0 else math.inf) - 1.0
    if within <= AGREES:
        return "agrees", f"B_crit agrees within {percent(within)}: that of B is {says}."
    return "unknown", (
        f"The data do not say whether B_crit differs: that of B is {says}, which holds both 1 and differences of more "
        f"than {percent(AGREES)}. More seeds or batch sizes would narrow it."
    )


def _no_ratio(a: StudyAnalysis, b: StudyAnalysis) -> tuple[Verdict, str]:
    said = []
    for name, study in (("A", a), ("B", b)):
        if study.fit is None:
            said.append(f"{name} has no curve: {study.fit_reason}")
        elif study.fit.status != "ok":
            said.append(f"the fit of {name} is {study.fit.status.replace('_', ' ')}: {study.fit.reason}")
    return "no_ratio", f"No ratio of B_crit is given, for {' And '.join(said)}"


def _check_alike(a: StudyLog, b: StudyLog, metric: str | None) -> None:
    if a.plan["unit"] != b.plan["unit"]:
        raise ConfigError(
            f"A counts its batch size in {a.plan['unit']}s and B in {b.plan['unit']}s: their critical batch sizes "
            "cannot be compared."
        )
    firsts = [log.plan["targets"][0] for log in (a, b) if log.plan["targets"]]
    if len(firsts) == 2 and metric is None and firsts[0]["metric"] != firsts[1]["metric"]:
        raise ConfigError(
            f"A has its target for {firsts[0]['metric']} and B for {firsts[1]['metric']}: steps to different targets "
            "cannot be compared; choose one that both have with --metric."
        )
    directions = [t["direction"] for log in (a, b) for t in log.plan["targets"][:1] if metric in (None, t["metric"])]
    if len(set(directions)) > 1:
        raise ConfigError(f"A and B want the metric {firsts[0]['metric']} in opposite directions: nothing to compare.")


def _common_target(a: StudyLog, b: StudyLog, metric: str | None) -> float:
    """The hardest value that both plans have."""
    values = [
        next((t["values"] for t in log.plan["targets"] if metric in (None, t["metric"])), list[float]())
        for log in (a, b)
    ]
    common = [value for value in values[0] if value in values[1]]
    if not common and all(values):
        said = [", ".join(number(v, 6) for v in of) for of in values]
        raise ConfigError(
            f"A has the targets {said[0]} and B has {said[1]}, none of them in both: give --target with a value that "
            "runs of both reached, or give it twice, for A and for B."
        )
    return common[-1] if common else math.nan
