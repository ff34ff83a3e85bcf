"""How far the critical batch size moves over choices that another analyst could have made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.curve_loss import batch_weights, fit_by_loss
from analysis.defaults import AGGREGATES, DELTA, LOSSES
from analysis.jsonable import json_safe
from analysis.shape import MIN_BATCHES as SHAPE_BATCHES
from analysis.shape import fit_shapes
from analysis.targets import Run, batch_points
from scaleexp.laws import overhead_batch

FloatArray = npt.NDArray[np.float64]
Crossing = Literal["interpolated", "first", "last-missing"]
CROSSINGS: tuple[Crossing, ...] = ("interpolated", "first", "last-missing")
"""Samples to target: between the two evaluations around it, at the first that met it, at the last that missed it."""
DEFINITIONS = ("b_crit", "free-shape", "overhead")
DIMENSIONS = ("target", "crossing", "aggregate", "loss", "definition")
MIN_BATCHES = 3
_NO_REFERENCE = "no row of the overhead definition: its reference, the smallest measured batch, {:,}, has no point."


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One way to the critical batch size.

    Attributes:
        target: value of the metric; None where there is one that nobody named.
        crossing: interpolated | first | last-missing.
        aggregate: robust | median | mean.
        loss: linear (plain least squares), huber, or weighted by the inverse variance of each batch's mean over seeds.
        definition: b_crit; free-shape, B_c of E = E_min (1 + (B / B_c)^p), where E is 2 E_min as it is at B_crit; or
            overhead, with the given delta and reference batch.
        n_batches: behind the fit.
        batch: critical batch size [samples]; 0 or inf where the curve is flat or linear.
    """

    target: float | None
    crossing: str
    aggregate: str
    loss: str
    definition: str
    n_batches: int
    batch: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Multiverse:
    """Every choice, and what they do to the answer.

    Attributes:
        rows: one per combination.
        summary: definition -> (min, median, max) over its rows [samples].
        factors: dimension -> largest factor between two of its levels, the geometric mean over the pairs of bounded
            rows of B_crit that differ in it alone; 1 is no effect. That of `definition` is over all rows: the overhead
            definition is another quantity, so it says how little a number means without its definition.
        moves_most: the dimension with the largest factor; None where no dimension has two levels.
        unbounded: rows whose batch is 0 or inf; they are in no factor.
        left_out: (target, crossing, why there is no row).
        notes: one sentence for each dimension that is not varied, and why.
    """

    rows: tuple[Choice, ...]
    summary: Mapping[str, tuple[float, float, float]]
    factors: Mapping[str, float]
    moves_most: str | None
    unbounded: int
    left_out: tuple[tuple[float | None, str, str], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is not bounded is None."""
        document = asdict(self) | {
            "summary": {k: dict(zip(("min", "median", "max"), v, strict=True)) for k, v in self.summary.items()},
            "left_out": [dict(zip(("target", "crossing", "reason"), each, strict=True)) for each in self.left_out],
        }
        for row in document["rows"]:
            row["batch"] = row["batch"] or None
        for numbers in document["summary"].values():
            numbers |= {name: value or None for name, value in numbers.items()}
        return json_safe(document)  # type: ignore[no-any-return]


def multiverse(
    runs: Mapping[float | None, Sequence[Run]], *, delta: float = DELTA, reference_batch: float | None = None
) -> Multiverse:
    """Fit every combination of targets, crossing rules, aggregates, losses and definitions.

    The LR is chosen anew under every crossing rule. Where the evaluations around every crossing are one and the same,
    as in a table of points, there is one crossing rule.

    Args:
        runs: target -> every run of its LR grid against it.
        delta: of the overhead definition.
        reference_batch: of the overhead definition [samples], the same in all; the smallest batch of any run if None,
            and then there is no row of that definition where no point is at that batch.
    """
    smallest = min((run.batch_size for of in runs.values() for run in of), default=1)
    tables: dict[tuple[int, ...], list[tuple[float | None, str, str, FloatArray, FloatArray]]] = defaultdict(list)
    left_out: list[tuple[float | None, str, str]] = []
    for target, of_target in runs.items():
        for crossing in _crossings(of_target):
            for aggregate in AGGREGATES:
                points, _ = batch_points(crossed(of_target, crossing), aggregate)
                if len(points) < MIN_BATCHES:
                    reason = f"{len(points)} batch sizes have a point, {MIN_BATCHES} are needed."
                    left_out.append((target, crossing, reason))
                    break
                steps = np.log([point.steps for point in points])
                batches = tuple(point.batch_size for point in points)
                tables[batches].append((target, crossing, aggregate, steps, batch_weights(points)))
                if not reference_batch and smallest not in batches and aggregate == AGGREGATES[0]:
                    left_out.append((target, crossing, _NO_REFERENCE.format(smallest)))
    rows = [
        row
        for batches, table in tables.items()
        for row in _fitted(batches, table, delta, reference_batch or (smallest if smallest in batches else None))
    ]
    order = {name: i for i, name in enumerate((*runs, *CROSSINGS, *AGGREGATES, *LOSSES, *DEFINITIONS))}
    rows.sort(key=lambda row: [order[getattr(row, name)] for name in DIMENSIONS])
    bounded = [row for row in rows if 0.0 < row.batch < math.inf]
    factors = {
        **_factors([row for row in bounded if row.definition == DEFINITIONS[0]]),
        **_factors(bounded, ["definition"]),
    }
    return Multiverse(
        rows=tuple(rows),
        summary=_summary(rows),
        factors=factors,
        moves_most=max(factors, key=factors.__getitem__) if factors else None,
        unbounded=len(rows) - len(bounded),
        left_out=tuple(left_out),
    )


def crossed(runs: Sequence[Run], crossing: Crossing) -> list[Run]:
    """The same runs with samples to target by another rule.

    A run that met the target at its first evaluation has no last one that missed, and counts as censored then.
    """
    if crossing == "interpolated":
        return list(runs)
    moved = []
    for run in runs:
        at = run.bracket[1 if crossing == "first" else 0]
        if run.reached and at > 0.0:
            moved.append(replace(run, samples=at))
        else:
            moved.append(replace(run, reached=False) if run.reached else run)
    return moved


def _crossings(runs: Sequence[Run]) -> tuple[Crossing, ...]:
    return CROSSINGS if any(run.reached and run.bracket[0] < run.bracket[1] for run in runs) else CROSSINGS[:1]


def _fitted(
    batches: tuple[int, ...],
    table: Sequence[tuple[float | None, str, str, FloatArray, FloatArray]],
    delta: float,
    reference: float | None,
) -> list[Choice]:
    """Every loss and definition for all tables with these batches, fitted together; no overhead without a reference."""
    b = np.array(batches, dtype=np.float64)
    steps = np.stack([row[3] for row in table])
    weights = np.stack([row[4] for row in table])
    by_loss = {loss: fit_by_loss(loss, b, steps, weights)[0] for loss in LOSSES}
    found: dict[tuple[str, str], FloatArray] = {}
    for loss, log_b_crit in by_loss.items():
        found[loss, "b_crit"] = np.exp(log_b_crit)
        if reference is not None:
            found[loss, "overhead"] = np.asarray(overhead_batch(delta, reference, np.exp(log_b_crit)))
    if b.size >= SHAPE_BATCHES:
        found["linear", "free-shape"] = np.exp(fit_shapes(b, steps + np.log(b))[1])
    return [
        Choice(
            target=target,
            crossing=crossing,
            aggregate=aggregate,
            loss=loss,
            definition=definition,
            n_batches=b.size,
            batch=float(values[i]),
        )
        for (loss, definition), values in found.items()
        for i, (target, crossing, aggregate, _, _) in enumerate(table)
    ]


def _summary(rows: Sequence[Choice]) -> dict[str, tuple[float, float, float]]:
    found = {}
    for definition in DEFINITIONS:
        values = sorted(row.batch for row in rows if row.definition == definition)
        if values:
            # An observed value, never one between two: halfway to infinity is not a number.
            found[definition] = (values[0], values[(len(values) - 1) // 2], values[-1])
    return found


def _factors(rows: Sequence[Choice], dimensions: Sequence[str] = DIMENSIONS) -> dict[str, float]:
    """How much each dimension moves the answer, everything else the same."""
    factors = {}
    for name in dimensions:
        levels = list(dict.fromkeys(getattr(row, name) for row in rows))
        cells: dict[tuple[Any, ...], dict[Any, float]] = defaultdict(dict)
        for row in rows:
            others = tuple(getattr(row, other) for other in DIMENSIONS if other != name)
            cells[others][getattr(row, name)] = math.log(row.batch)
        pairs = [
            [cell[high] - cell[low] for cell in cells.values() if low in cell and high in cell]
            for low, high in product(levels, levels)
            if low != high
        ]
        gaps = [sum(pair) / len(pair) for pair in pairs if pair]
        if gaps:
            factors[name] = math.exp(max(gaps))
    return factors
