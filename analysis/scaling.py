"""Sources in, scaling laws out: every group fitted by itself, then a power law over the fits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.fit_options import FitOptions
from analysis.fits import SweepFit, fit_sweep
from analysis.jsonable import json_interval, json_safe
from analysis.overhead import smallest_measured
from analysis.scaling_law import FittedGroup, ScalingLaw, scaling_law
from analysis.scaling_table import NO_NUMBER, fitted_groups, table_of_fits
from analysis.sources import Source, load_sweeps
from analysis.sources.points import Columns
from analysis.sweep import GroupValue, group_text
from analysis.wording import interval, level, number, percent
from scaleexp import __version__
from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.laws import overhead_batch

TARGET = "target"
_SHARED_RUNS = "fits to several targets of the same runs share their noise; the intervals take them as independent."


@dataclass(frozen=True, kw_only=True, slots=True)
class LawOptions:
    """What a law is fitted to.

    Attributes:
        against: one or two regressors: columns of the groups, or "target".
        definition: b_crit, or overhead: the batch at which steps exceed linear scaling by `fit.delta`.
        fit: how every group is fitted; its reference batch is that of the overhead definition, and with None the
            smallest batch measured in any group, the same for all.
    """

    against: tuple[str, ...]
    definition: str
    fit: FitOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLaw:
    """A law over the groups that differ in its regressors alone.

    Attributes:
        group: what these groups have in common; empty where they are all.
        law: what was fitted.
        groups: what it was fitted to, groups that were left out included.
        overhead: (delta, B_ref) of the overhead definition; None under the other.
        sources: paths of what was read.
    """

    group: Mapping[str, GroupValue]
    law: ScalingLaw
    groups: tuple[FittedGroup, ...]
    overhead: tuple[float, float] | None
    sources: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One entry of `laws` of `scaling --json`."""
        members = [
            {
                "group": g.name,
                "regressors": {name: g.regressors[name] for name in self.law.against},
                "batch": json_safe(g.batch),
                "interval": json_interval(g.interval),
                "status": g.status,
            }
            for g in self.groups
        ]
        delta_ref = (
            None if self.overhead is None else dict(zip(("delta", "reference_batch"), self.overhead, strict=True))
        )
        return {
            "group": json_safe(self.group),
            **self.law.to_dict(),
            "overhead": delta_ref,
            "groups": members,
            "provenance": {"paths": list(self.sources), "analysis_version": __version__},
        }

    def text(self) -> str:
        """What `scaling` prints."""
        law, of = self.law, "B_crit" if self.overhead is None else "B*"
        lines = [group_text(self.group)] if self.group else []
        fitted = math.isfinite(law.coefficient)
        if fitted:
            lines.append(
                f"{of} = {number(law.coefficient)} " + " ".join(f"{k}^{v:.3f}" for k, v in law.exponents.items())
            )
        else:
            lines.append(f"no law: {law.reason}")
        if fitted and law.status != "ok":
            lines.append(f"status            {law.status.replace('_', ' ')}: {law.reason}")
        if self.overhead is not None:
            delta, reference = self.overhead
            lines.append(
                f"definition        overhead, {percent(delta)} more steps than linear scaling from B = {reference:g}"
            )
        else:
            lines.append("definition        B_crit of the curve S = S_min (1 + B_crit / B)")
        for name, (low, high) in law.exponent_intervals.items():
            if fitted:
                said = f"{level(law.confidence)} interval from the {law.interval_from}"
                lines.append(f"exponent          {name}: {law.exponents[name]:.3f} ({low:.3f} to {high:.3f}; {said})")
        if fitted:
            lines.append(f"coefficient       {number(law.coefficient)} ({interval(*law.coefficient_interval)})")
            lines.append(f"rms log residual  {number(law.rms_log_residual)} over {law.n_groups} groups")
        if law.variance_inflation is not None:
            lines.append(f"collinearity      variance inflation {number(law.variance_inflation)}")
        lines += [f"left out          {name}: {reason}" for name, reason in law.left_out]
        lines += [f"note              {warning}" for warning in law.warnings]
        return "\n".join(lines)


def laws_of(
    sources: Sequence[Source],
    options: LawOptions,
    columns: Columns,
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
) -> tuple[GroupLaw, ...]:
    """Fit one law for each combination of what groups differ in beside the regressors, and for each target.

    Args:
        sources: as for a fit; or one table with a column `b_crit`, whose rows are fits that were made already, with
            optional `b_crit_low` and `b_crit_high` (of the same confidence) and `status`.
        options: what is fitted against what.
        columns: of tables of points; `group_by` tells the groups apart, and is the regressors if empty.
        targets: of studies.
        metric: of studies.

    Raises:
        ConfigError: a source or a regressor that cannot be meant.
        NotEnoughDataError: no group has a curve.
    """
    fitted = table_of_fits(sources)
    if fitted is not None:
        rows = fitted_groups(fitted, columns.group_by, options.against)
        laws = _laws([(common, group, None) for common, group in rows], options, (fitted.path,))
        return _with_absent_named(laws)
    group_by = columns.group_by or tuple(name for name in options.against if name != TARGET)
    absent = [name for name in options.against if name not in group_by and name != TARGET]
    if absent:
        raise ConfigError(f"--against {absent[0]} must be one of the columns of --group-by, {', '.join(group_by)}.")
    sweeps = load_sweeps(sources, replace(columns, group_by=group_by), targets=targets, metric=metric)
    fits = [fit_sweep(sweep, options.fit) for sweep in sweeps]
    if not any(fit.has_curve for fit in fits):
        raise NotEnoughDataError(fits[0].reason if len(fits) == 1 else fits[0].answer)
    paths = tuple(dict.fromkeys(str(sweep.provenance.get("path")) for sweep in sweeps))
    return _laws([_of_sweep(fit, options.against) for fit in fits], options, paths)


def _with_absent_named(laws: Sequence[GroupLaw]) -> tuple[GroupLaw, ...]:
    """Laws of a table of fits, with the groups that it holds no number for named in their warnings.

    Raises:
        NotEnoughDataError: what is left of every law that lacks a group is too little for one.
    """
    absent = [[f"{g.name}: {g.reason}" for g in found.groups if g.reason == NO_NUMBER] for found in laws]
    if any(absent) and all(not math.isfinite(found.law.coefficient) for found in laws):
        names = "; ".join(name.removesuffix(".") for of_law in absent for name in of_law)
        raise NotEnoughDataError(f"{laws[0].law.reason.removesuffix('.')}; left out: {names}.")
    return tuple(
        replace(
            found,
            law=replace(found.law, warnings=(*found.law.warnings, *(f"left out, {name}" for name in of_law))),
        )
        for found, of_law in zip(laws, absent, strict=True)
    )


Member = tuple[dict[str, GroupValue], FittedGroup, tuple[int, bool] | None]
"""What tells a law from others, a group under the curve's definition, (its smallest batch, whether that reached)."""


def _laws(members: Iterable[Member], options: LawOptions, paths: tuple[str, ...]) -> tuple[GroupLaw, ...]:
    apart: dict[tuple[tuple[str, GroupValue], ...], list[Member]] = {}
    for member in members:
        apart.setdefault(tuple(member[0].items()), []).append(member)
    return tuple(_law(dict(common), of_law, options, paths) for common, of_law in apart.items())


def _law(group: dict[str, GroupValue], members: list[Member], options: LawOptions, paths: tuple[str, ...]) -> GroupLaw:
    groups, overhead = tuple(g for _, g, _ in members), None
    if options.definition == "overhead":
        reference = options.fit.reference_batch or _smallest([measured for _, _, measured in members])
        overhead = (options.fit.delta, float(reference))
        groups = tuple(_under_overhead(g, *overhead) for g in groups)
    law = scaling_law(
        groups,
        against=options.against,
        definition=options.definition,
        confidence=options.fit.confidence,
        seed=options.fit.seed,
    )
    if TARGET in options.against:
        law = replace(law, warnings=(*law.warnings, _SHARED_RUNS))
    return GroupLaw(group=group, law=law, groups=groups, overhead=overhead, sources=paths)


def _smallest(measured: Sequence[tuple[int, bool] | None]) -> int:
    """The smallest batch measured in any group.

    Raises:
        ConfigError: nothing says it, or no run of it reached the target.
    """
    known = [each for each in measured if each is not None]
    if not known:
        raise ConfigError("--definition overhead of a table of fits needs --reference-batch; Zhang et al. take 256.")
    smallest = min(batch for batch, _ in known)
    if not any(reached for batch, reached in known if batch == smallest):
        raise ConfigError(
            f"no run at the smallest measured batch, {smallest:,}, reached the target, so there are no steps to scale "
            "from: name another batch by --reference-batch."
        )
    return smallest


def _under_overhead(group: FittedGroup, delta: float, reference: float) -> FittedGroup:
    ends = group.interval
    return replace(
        group,
        batch=float(overhead_batch(delta, reference, group.batch)),
        interval=None if ends is None else (_end(delta, reference, ends[0]), _end(delta, reference, ends[1])),
    )


def _end(delta: float, reference: float, b_crit: float) -> float:
    return float(overhead_batch(delta, reference, b_crit)) if b_crit > 0.0 else 0.0


def _of_sweep(fit: SweepFit, against: Sequence[str]) -> Member:
    sweep = fit.sweep
    values: dict[str, GroupValue] = dict(sweep.group)
    if sweep.target is not None:
        values.setdefault(TARGET, sweep.target)
    group = FittedGroup(
        name=group_text({name: values[name] for name in values if name in against or name in sweep.group}),
        regressors={name: _numeric(name, values.get(name)) for name in against},
        batch=fit.b_crit,
        interval=fit.b_crit_interval,
        status=fit.status,
        reason=fit.reason,
    )
    common = {name: value for name, value in values.items() if name not in against}
    smallest = smallest_measured(sweep.runs)
    return common, group, (smallest, bool(fit.points) and fit.points[0].batch_size == smallest)


def _numeric(name: str, value: GroupValue | None) -> float:
    if value is None:
        raise ConfigError(f"--against {name}: the source does not say the {name} of its runs; add a column {name!r}.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"--against {name} needs numbers, got {value!r}.") from None


def document(laws: Sequence[GroupLaw]) -> dict[str, Any]:
    """What `scaling --json` prints."""
    return {"schema_version": 1, "laws": [law.to_dict() for law in laws]}
