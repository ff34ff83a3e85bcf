"""What a report says of the curve beside B_crit: regimes, free exponent, and the overhead definition's own choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.fits import SweepFit
from analysis.overhead import sensitivity_of
from analysis.sections import TRUSTED, Table
from analysis.wording import count, interval, number, percent, unit_plural

_BORDERS = (
    ("perfect_ends", "perfect_slope", "perfect scaling, where twice the batch takes nearly half of the steps, ends"),
    ("maximal_begins", "maximal_slope", "maximal data parallelism, where it takes nearly as many, begins"),
)


def curve_sentences(fit: SweepFit) -> tuple[str, ...]:
    """A line on the regimes and one on the free exponent; none for what the points do not give."""
    return tuple(line for line in (_regimes(fit), _exponent(fit)) if line)


def _regimes(fit: SweepFit) -> str:
    if fit.regimes is None:
        return ""
    says = " and ".join(f"{what} {_border(fit, fit.regimes, name, slope)}" for name, slope, what in _BORDERS)
    return f"Regimes of Shallue et al. 2018, by the slope of log steps against log batch size: {says}."


def _border(fit: SweepFit, found: Mapping[str, Any], name: str, slope: str) -> str:
    """Where a regime ends, on a curve that may be trusted and by the measured slopes."""
    unit = unit_plural(fit.sweep.unit)
    curve = found[name] if fit.status in TRUSTED else None
    measured = found[f"{name}_measured"]
    at = f"(slope {number(found[slope])})"
    if curve is None and measured is None:
        return f"outside the measured batches {at}"
    if curve is None:
        return f"near {number(measured, 2)} {unit} by the measured slopes alone {at}"
    also = "" if measured is None else f", near {number(measured, 2)} by the measured slopes"
    return f"at {number(curve)} {unit} on the curve {at}{also}"


def _exponent(fit: SweepFit) -> str:
    p, ends = fit.shape_exponent, fit.shape_exponent_interval
    if p is None or ends is None:
        return ""
    says = (
        "the interval holds 1, the exponent of the curve."
        if ends[0] <= 1.0 <= ends[1]
        else "the interval does not hold 1, the exponent of the curve, so that B_crit depends on which batches were "
        "measured."
    )
    return f"A free exponent in E = E_min (1 + (B / B_c)^p) comes out as p = {number(p)} ({interval(*ends)}): {says}"


def overhead_rows(fit: SweepFit) -> Table:
    """B* for several delta and B_ref; empty where the curve may not be read off."""
    if fit.overhead is None or fit.curve is None or fit.status not in TRUSTED:
        return Table(head=(), rows=())
    cells = sensitivity_of(fit.overhead, fit.curve, fit.points)
    references = list(dict.fromkeys(cell.reference_batch for cell in cells))
    rows: dict[float, list[str]] = {}
    for cell in cells:
        rows.setdefault(cell.delta, []).append(f"{number(cell.batch)} ({interval(*cell.interval)})")
    return Table(
        head=("δ", *(f"B_ref = {count(reference)}" for reference in references)),
        rows=tuple((percent(delta), *row) for delta, row in rows.items()),
    )
