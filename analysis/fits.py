"""One sweep, fitted: the curve and everything that is read off it, from whatever source the sweep comes."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.branched_fit import branched_answer, branched_fit
from analysis.cbs import CurveFit, FitStatus, fit_curve
from analysis.equal_fit import equal_samples_answer, equal_samples_fit, instead_entry
from analysis.fit_entries import overhead_entry, point_entry
from analysis.fit_options import DEFAULTS
from analysis.fit_options import FitOptions as FitOptions
from analysis.fit_parts import answer_of, censored_of, regimes_of, shape_of
from analysis.fixed_budget import FixedBudget
from analysis.jsonable import json_interval, json_safe
from analysis.judge import MIN_BATCHES
from analysis.local_batch import LocalBatch
from analysis.methods import Methods
from analysis.multiverse import Multiverse
from analysis.overhead import Overhead, overhead_of, smallest_measured, unreached_reference
from analysis.sweep import Sweep
from analysis.targets import BatchPoint, batch_points
from analysis.wording import interval, number, percent, unit_plural
from scaleexp import __version__

_NUMBERS = ("b_crit", "s_min", "e_min")
_OTHERS = ("rms_log_residual", "seed_noise")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepFit:
    """A sweep with its curve.

    Attributes:
        sweep: what was fitted.
        options: how.
        points: one per batch size that reached, ascending.
        curve: None where no curve could be fitted; then `reason` says why.
        reason: of the status, one sentence.
        answer: one sentence.
        overhead: the critical batch size under the overhead definition, off the same curve; None without one.
        shape_exponent, shape_exponent_interval: p of E = E_min (1 + (B / B_c)^p), a check on the curve.
        regimes: where perfect scaling and where diminishing returns end.
        left_out: one sentence for each thing not used, and why.
        equal_samples: the answer if the definition at equal samples was asked for, otherwise None.
        branched: the same of branches.
        multiverse: the same under other choices; None unless asked for.
        methods: a paragraph for a paper; None unless asked for.
    """

    sweep: Sweep
    options: FitOptions
    points: tuple[BatchPoint, ...]
    curve: CurveFit | None
    reason: str
    answer: str
    overhead: Overhead | None
    shape_exponent: float | None
    shape_exponent_interval: tuple[float, float] | None
    regimes: Mapping[str, Any] | None
    left_out: tuple[str, ...]
    equal_samples: FixedBudget | None = None
    branched: LocalBatch | None = None
    multiverse: Multiverse | None = None
    methods: Methods | None = None

    @property
    def instead(self) -> FixedBudget | LocalBatch | None:
        """The answer where another definition than the curve's was asked for."""
        return self.equal_samples or self.branched

    @property
    def has_curve(self) -> bool:
        """Whether what was asked for could be computed, identified or not."""
        if self.instead is not None:
            return True
        return self.curve is not None and not math.isnan(self.curve.b_crit)

    @property
    def status(self) -> FitStatus:
        """Of the curve; `not_identified` where there is none."""
        if self.instead is not None:
            return self.instead.status
        return "not_identified" if self.curve is None else self.curve.status

    @property
    def b_crit(self) -> float:
        """Critical batch size; nan without a curve."""
        if self.instead is not None:
            return self.instead.batch
        return math.nan if self.curve is None else self.curve.b_crit

    @property
    def b_crit_interval(self) -> tuple[float, float]:
        """Of B_crit; 0 and inf where the data do not bound it."""
        if self.instead is not None:
            return self.instead.interval
        return (0.0, math.inf) if self.curve is None else self.curve.b_crit_interval

    def to_dict(self) -> dict[str, Any]:
        """One entry of `fits` of `fit --json`."""
        curve, sweep = self.curve, self.sweep
        steps_known = sweep.counts_samples
        found: dict[str, Any] = {}
        for name in _NUMBERS:
            known = curve is not None and (steps_known or name != "s_min")
            # A parameter of 0 is one that runs off to the end of what was looked at, as unbounded as infinity.
            found[name] = (json_safe(getattr(curve, name)) or None) if known else None
            found[f"{name}_interval"] = json_interval(getattr(curve, f"{name}_interval") if known else None)
        return json_safe(  # type: ignore[no-any-return]
            {
                "group": sweep.group,
                "metric": sweep.metric or None,
                "direction": sweep.direction,
                "target": sweep.target,
                "unit": sweep.unit or "sample",
                "cost_unit": sweep.cost_unit,
                "definition": self.options.definition,
                "aggregate": self.options.aggregate,
                "loss": self.options.loss,
                "answer": self.answer,
                **found,
                "confidence": self.options.confidence,
                "n_batches": len(self.points),
                "n_runs": len(sweep.runs or sweep.traces),
                "n_censored": sum(not run.reached for run in sweep.runs),
                **{name: None if curve is None else getattr(curve, name) for name in _OTHERS},
                "status": self.status,
                "reason": self.reason,
                "shape_exponent": self.shape_exponent,
                "shape_exponent_interval": json_interval(self.shape_exponent_interval),
                "overhead": overhead_entry(self.overhead, curve, self.points),
                "regimes": self.regimes,
                "warnings": () if curve is None else curve.warnings,
                "equal_samples": None,
                "branched": None,
                "left_out": self.left_out,
                "multiverse": self.multiverse.to_dict() if self.multiverse else None,
                "methods": self.methods.to_dict() if self.methods else None,
                "points": [point_entry(point, sweep) for point in self.points],
                **(instead_entry("equal_samples", self.equal_samples) if self.equal_samples else {}),
                **(instead_entry("branched", self.branched) if self.branched else {}),
                "provenance": {**sweep.provenance, "analysis_version": __version__},
            }
        )

    def _repr_html_(self) -> str:
        """The answer and its parameters, for a notebook."""
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in parameter_rows(self, signs=False)
        )
        return f"<p>{html.escape(self.answer)}</p><table>{rows}</table>"


def fit_sweep(sweep: Sweep, options: FitOptions = DEFAULTS) -> SweepFit:
    """Fit one sweep.

    Raises:
        ConfigError: a definition that the sweep does not hold the data of.
    """
    points, missing = batch_points(sweep.runs, options.aggregate)
    curve = (
        fit_curve(points, sweep.runs, confidence=options.confidence, seed=options.seed, loss=options.loss)
        if len(points) >= MIN_BATCHES
        else None
    )
    reached = sum(run.reached for run in sweep.runs)
    diverged = sum(run.status == "diverged" for run in sweep.runs)
    why_none = (
        f"{reached} of {len(sweep.runs)} runs reached the target"
        f"{f' ({diverged} diverged)' if diverged else ''}, which gives {len(points)} of the {MIN_BATCHES} batch "
        "sizes that a curve needs."
    )
    left_out = (*sweep.problems, *censored_of(sweep), *(sentence for _, sentence in missing))
    return joined(sweep, options, points, curve, why_none, answer_of(sweep, curve, why_none), left_out)


def joined(
    sweep: Sweep,
    options: FitOptions,
    points: Sequence[BatchPoint],
    curve: CurveFit | None,
    why_none: str,
    answer: str,
    left_out: Sequence[str],
) -> SweepFit:
    """A curve with everything else that its points and runs say."""
    reference = options.reference_batch or smallest_measured(sweep.runs)
    unreached = None if options.reference_batch or curve is None else unreached_reference(sweep.runs, points)
    exponent, exponent_interval = shape_of(sweep, points, options)
    equal, local = equal_samples_fit(sweep, options), branched_fit(sweep, options)
    other = equal or local
    if equal:
        answer = equal_samples_answer(sweep, equal)
    elif local:
        answer = branched_answer(sweep, local)
    return SweepFit(
        sweep=sweep,
        options=options,
        points=tuple(points),
        curve=curve,
        reason=other.reason if other else curve.reason if curve else why_none,
        answer=answer,
        overhead=None if curve is None or unreached else overhead_of(curve, reference, options.delta),
        shape_exponent=exponent,
        shape_exponent_interval=exponent_interval,
        regimes=regimes_of(points, curve),
        left_out=(*left_out, *((unreached,) if unreached else ())),
        equal_samples=equal,
        branched=local,
    )


# --- words and JSON ---------------------------------------------------------------------------------------------


def parameter_rows(fit: SweepFit, *, signs: bool = True) -> list[tuple[str, str]]:
    """(name, value with its interval and unit) of the fitted parameters.

    Args:
        fit: of a sweep.
        signs: whether the definition of each is said with it.
    """
    curve, sweep, unit = fit.curve, fit.sweep, unit_plural(fit.sweep.unit)
    if fit.instead is not None:
        found = fit.instead
        what = f"equal-samples definition: within {percent(found.epsilon)} of the best"
        if fit.branched:
            what = f"branched definition: within {number(found.epsilon)} of batch {fit.branched.base_batch:,}"
        return [("B", f"{number(found.batch)} ({interval(*found.interval)}) {unit}{f', {what}' if signs else ''}")]
    if curve is None:
        return []
    costs = unit if sweep.counts_samples else sweep.cost_unit
    rows = [("B_crit", curve.b_crit, curve.b_crit_interval, unit, "curve definition S = S_min (1 + B_crit / B)")]
    if sweep.counts_samples:
        rows.append(("S_min", curve.s_min, curve.s_min_interval, "steps", "with an unboundedly large batch"))
    rows.append(("E_min", curve.e_min, curve.e_min_interval, costs, "with an unboundedly small batch"))
    if fit.overhead is not None:
        reference = f"{fit.overhead.reference_batch:,}"
        what = f"overhead definition: {percent(fit.overhead.delta)} more steps than linear scaling from B = {reference}"
        rows.append(("B*", fit.overhead.batch, fit.overhead.interval, unit, what))
    if fit.shape_exponent is not None and fit.shape_exponent_interval is not None:
        what = "E = E_min (1 + (B / B_c)^p), a check: the curve has p = 1"
        rows.append(("p", fit.shape_exponent, fit.shape_exponent_interval, "free exponent", what))
    return [
        (name, f"{number(value)} ({interval(*ends)}) {units}{f', {what}' if signs else ''}")
        for name, value, ends, units, what in rows
    ]
