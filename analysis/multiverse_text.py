"""What the choices of an analysis do to B_crit, in lines for a person."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.card import aligned
from analysis.fits import SweepFit
from analysis.multiverse import DEFINITIONS, DIMENSIONS, Choice, Multiverse
from analysis.overhead import smallest_measured
from analysis.wording import count, number, percent, unit_plural

NAMES = {
    "last-missing": "last miss",
    "first": "first hit",
    "linear": "least squares",
    "b_crit": "B_crit",
    "free-shape": "free exponent",
}
SMALL = 1.1
"""Below this a factor is said as a percentage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One way to choose in one dimension, whatever is chosen in the others.

    Attributes:
        dimension: target, crossing, aggregate, loss or definition.
        level: which of its levels.
        low, median, high: of the critical batch size over `fits` combinations [samples]; 0 and inf where unbounded.
        fits: number of combinations.
    """

    dimension: str
    level: str
    low: float
    median: float
    high: float
    fits: int


def levels(found: Multiverse) -> tuple[Level, ...]:
    """Every level of each dimension that has several: of B_crit, and of each definition by itself."""
    rows = []
    for dimension in DIMENSIONS:
        among = found.rows if dimension == "definition" else _of_b_crit(found)
        named = {level: [row for row in among if getattr(row, dimension) == level] for level in _seen(among, dimension)}
        if len(named) > 1:
            rows += [_level(dimension, _name(level), of_level) for level, of_level in named.items()]
    return tuple(rows)


def multiverse_lines(found: Multiverse, fit: SweepFit) -> list[str]:
    """Choice -> least, median and largest B_crit; what moves it most; the whole range."""
    if not found.rows:
        return ["choices of the analysis: none gives a curve", *_left_out(found)]
    head = ["choice", "", "min", "median", "max", "fits"]
    table, last = [head], ""
    for row in levels(found):
        name = "" if row.dimension == last else row.dimension
        table.append([name, row.level, *(number(x) for x in (row.low, row.median, row.high)), count(row.fits)])
        last = row.dimension
    lines = [f"choices of the analysis: B_crit [{unit_plural(fit.sweep.unit)}] under each, whatever the others are"]
    if len(table) > 1:
        lines += [f"  {line}" for line in aligned(table, words={0, 1})]
    return [
        *lines,
        _range(found),
        *_moves(found),
        *_definitions(found, fit),
        *_unbounded(found),
        *_left_out(found),
        *_said(found),
    ]


def _range(found: Multiverse) -> str:
    rows = _of_b_crit(found)
    whole = _level("", "", rows)
    if number(whole.low) == number(whole.high):
        return f"B_crit is {number(whole.low)} in all of {count(whole.fits)} combinations."
    return (
        f"B_crit lies between {number(whole.low)} and {number(whole.high)}, median {number(whole.median)}, in "
        f"{count(whole.fits)} combinations."
    )


def _moves(found: Multiverse) -> Iterator[str]:
    """The choice that moves it most; the definition apart, since another one is another quantity."""
    lost = _unbinds(_of_b_crit(found))
    if lost:
        yield f"The {lost} moves it most: by itself it makes a bounded curve flat (0) or linear (∞)."
        return
    of_b_crit = {name: factor for name, factor in found.factors.items() if name != "definition"}
    if not of_b_crit:
        return
    most = max(of_b_crit, key=of_b_crit.__getitem__)
    if of_b_crit[most] < 1.0005:
        yield "None of these choices moves it."
    else:
        yield f"The {most} moves it most: by up to {_factor(of_b_crit[most])}, all else the same."


def _unbinds(rows: Sequence[Choice]) -> str | None:
    """The dimension that most often, all else the same, decides whether there is a number at all."""
    often: Counter[str] = Counter()
    for name in DIMENSIONS[:-1]:
        cells: dict[tuple[object, ...], set[bool]] = defaultdict(set)
        for row in rows:
            others = tuple(getattr(row, other) for other in DIMENSIONS if other != name)
            cells[others].add(0.0 < row.batch < math.inf)
        often[name] = sum(len(seen) > 1 for seen in cells.values()) * len(_seen(rows, name))
    ((most, times),) = often.most_common(1)
    return most if times else None


def _definitions(found: Multiverse, fit: SweepFit) -> Iterator[str]:
    factor = found.factors.get("definition")
    if factor is None:
        return
    said = f"Another definition is another quantity, here up to {_factor(factor)} apart"
    if any(row.definition == "overhead" for row in found.rows):
        share, reference = percent(fit.options.delta), count(_reference(fit))
        said += f"; overhead is {share} over linear scaling from B = {reference}"
    yield f"{said}."


def _reference(fit: SweepFit) -> float:
    return fit.options.reference_batch or smallest_measured(fit.sweep.runs)


def _unbounded(found: Multiverse) -> Iterator[str]:
    if found.unbounded:
        yield f"In {count(found.unbounded)} of {count(len(found.rows))} the curve is flat (0) or linear (∞)."


def _left_out(found: Multiverse) -> Iterator[str]:
    for target, crossing, reason in found.left_out:
        at = "" if target is None else f"target {number(target, 6)}, "
        yield f"  - left out, {at}{NAMES.get(crossing, crossing)}: {reason}"


def _said(found: Multiverse) -> list[str]:
    return [f"  - {note}" for note in found.notes]


def _factor(factor: float) -> str:
    return percent(factor - 1.0) if factor < SMALL else f"a factor of {number(factor)}"


def _of_b_crit(found: Multiverse) -> list[Choice]:
    return [row for row in found.rows if row.definition == DEFINITIONS[0]]


def _seen(rows: Sequence[Choice], dimension: str) -> list[str | float | None]:
    return list(dict.fromkeys(getattr(row, dimension) for row in rows))


def _name(level: str | float | None) -> str:
    return NAMES.get(level, level) if isinstance(level, str) else "-" if level is None else number(level, 6)


def _level(dimension: str, level: str, rows: Sequence[Choice]) -> Level:
    values = sorted(row.batch for row in rows)
    # An observed median, as in the summary: halfway to infinity is not a number.
    low, median, high = values[0], values[(len(values) - 1) // 2], values[-1]
    return Level(dimension=dimension, level=level, low=low, median=median, high=high, fits=len(values))
