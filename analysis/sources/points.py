"""A table of points: one row per run, its batch size and what it cost to reach one target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.sources.table import FileTable, read_table
from analysis.sweep import SAMPLES, GroupValue, Sweep, group_text
from analysis.targets import Run
from analysis.wording import unit_plural
from scaleexp.errors import ConfigError

UNIT_COLUMN = "unit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns of a table mean what.

    Attributes:
        group_by: one sweep for each combination of values of these.
        batch: the global batch size.
        steps, samples, cost: what a run took to its target: optimizer steps, or the same things that the batch size
            counts, or anything proportional to them. One at most is named; `steps` or `samples` is looked for if none.
        unit: with `cost`, what it counts (epochs, tokens, ...); otherwise what a sample is. A column named `unit` says
            it as well.
        run: of curves, the column that names the run.
        batch_size, lr: of every run, where curves do not say.
        run_pattern: regular expression with named groups that finds facts in the names of runs of curves.
        direction: how the metric of curves gets better.
    """

    group_by: tuple[str, ...] = ()
    batch: str = "batch_size"
    steps: str | None = None
    samples: str | None = None
    cost: str | None = None
    unit: str | None = None
    run: str | None = None
    batch_size: int | None = None
    lr: float | None = None
    run_pattern: str | None = None
    direction: Literal["min", "max"] = "min"


PLAIN = Columns()
"""One sweep, columns by their plain names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    number: int
    batch_size: int
    cost: float
    seed: int | None
    lr: float
    reached: bool
    unit: str | None
    target: float | int | str | None
    metric: str | None


def read_points(path: str | Path, columns: Columns = PLAIN) -> tuple[Sweep, ...]:
    """Read a table of points, one sweep per group in order of appearance.

    Optional columns: `seed`; `lr`; `reached`, where false means that the run had not reached the target at its cost;
    `unit`; `metric` and `target`, one value each within a group.

    Raises:
        ConfigError: a column that is not there or does not hold what it has to, or a group of several units or targets.
    """
    return sweeps_of(read_table(path), columns)


def sweeps_of(file: FileTable, columns: Columns) -> tuple[Sweep, ...]:
    """As `read_points`, of a table that was read."""
    kind, cost_column = _cost_column(file, columns)
    rows = list(_rows(file, columns, kind, cost_column))
    labels = [file.labels(column, "group by one of these") for column in columns.group_by]
    groups: dict[tuple[GroupValue, ...], list[_Row]] = {}
    for row, key in zip(rows, zip(*labels, strict=True) if labels else ((),) * len(rows), strict=True):
        groups.setdefault(key, []).append(row)
    used = {"batch_size": columns.batch, kind: cost_column}
    used |= {name: name for name in ("seed", "lr", "reached", UNIT_COLUMN, "metric", "target") if name in file.columns}
    provenance = {"path": file.path, "sha256": file.sha256, "rows": file.table.num_rows, "columns": used}
    return tuple(
        _sweep(dict(zip(columns.group_by, key, strict=True)), of_group, kind, columns.unit, provenance)
        for key, of_group in groups.items()
    )


def _cost_column(file: FileTable, columns: Columns) -> tuple[str, str]:
    """(steps | samples | cost, name of the column)."""
    named = {k: v for k, v in (("steps", columns.steps), ("samples", columns.samples), ("cost", columns.cost)) if v}
    if len(named) > 1:
        raise ConfigError(f"give one of --steps-column, --samples-column and --cost-column, got {len(named)} of them.")
    if named:
        return next(iter(named.items()))
    for kind in (SAMPLES, "steps"):
        if kind in file.columns:
            return kind, kind
    raise ConfigError(
        f"{file.path} has neither a column 'steps' nor 'samples'; its columns are {', '.join(file.columns)}; name one "
        "with --steps-column, --samples-column, or --cost-column NAME --unit UNIT."
    )


def _rows(file: FileTable, columns: Columns, kind: str, cost_column: str) -> Iterator[_Row]:
    batches = file.whole_numbers(columns.batch, "name the batch size with --batch-column")
    costs = file.numbers(cost_column, f"name another with --{kind}-column")
    if kind == "steps":
        costs = list(_samples(file, batches, costs))
    elif kind == SAMPLES and columns.samples is None and "steps" in file.columns:
        _check_steps(file, batches, costs)
    here, count = file.columns, file.table.num_rows
    nothing: list[None] = [None] * count
    seeds: Sequence[int | None] = file.whole_numbers("seed", least=0) if "seed" in here else nothing
    lrs = file.numbers("lr") if "lr" in here else [0.0] * count
    reached = file.flags("reached") if "reached" in here else [True] * count
    units, targets, metrics = (file.labels(c) if c in here else nothing for c in (UNIT_COLUMN, "target", "metric"))
    for i in range(count):
        yield _Row(
            number=i + 1,
            batch_size=batches[i],
            cost=costs[i],
            seed=seeds[i],
            lr=lrs[i],
            reached=reached[i],
            unit=None if units[i] is None else str(units[i]),
            target=targets[i],
            metric=None if metrics[i] is None else str(metrics[i]),
        )


def _samples(file: FileTable, batches: Sequence[int], steps: Sequence[float]) -> Iterator[float]:
    for row, (batch, taken) in enumerate(zip(batches, steps, strict=True), start=1):
        if math.isinf(taken * batch):
            raise ConfigError(
                f"row {row} of {file.path} has {taken:g} steps of {batch:g}: more samples than a number holds."
            )
        yield taken * batch


def _check_steps(file: FileTable, batches: Sequence[int], samples: Sequence[float]) -> None:
    """A table with both columns has to say the same in both, to a step."""
    for row, (steps, batch, n) in enumerate(zip(file.numbers("steps"), batches, samples, strict=True), start=1):
        if abs(n - steps * batch) > batch * (1.0 + 1e-9 * steps):
            raise ConfigError(
                f"row {row} of {file.path} has {n:g} samples, which are not {steps:g} steps of {batch}; name the "
                "column that is meant with --samples-column or --steps-column."
            )


def _sweep(
    group: Mapping[str, GroupValue], rows: Sequence[_Row], kind: str, unit: str | None, provenance: Mapping[str, object]
) -> Sweep:
    path = provenance["path"]
    where = f"{path}, group {group_text(group)}," if group else f"{path}"
    said = _one_of([row.unit for row in rows], "units", where, UNIT_COLUMN)
    cost_unit, sample = _units(kind, unit, None if said is None else str(said), where)
    target = _one_of([row.target for row in rows], "targets", where, "target")
    if isinstance(target, str):
        raise ConfigError(f"{where} has the target {target!r}, which is no number.")
    metric = _one_of([row.metric for row in rows], "metrics", where, "metric")
    return Sweep(
        group=group,
        metric=str(metric or ""),
        direction=None,
        target=None if target is None else float(target),
        unit=sample,
        cost_unit=cost_unit,
        runs=_runs(rows, where),
        provenance=provenance,
    )


def _one_of(values: Sequence[GroupValue | None], what: str, where: str, column: str) -> GroupValue | None:
    """The one value of a group."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    if len(distinct) > 1:
        raise ConfigError(
            f"{where} mixes {len(distinct)} {what}: {', '.join(map(str, distinct))}; add a column that keeps them "
            f"apart to --group-by, {column} for one."
        )
    return distinct[0] if distinct else None


def _units(kind: str, option: str | None, said: str | None, where: str) -> tuple[str, str]:
    """(unit of the cost, what a sample is)."""
    if option is not None and said is not None and _singular(option) != _singular(said):
        raise ConfigError(f"--unit {option} contradicts the column {UNIT_COLUMN!r} of {where} which says {said}.")
    if option is not None and not option.strip():
        raise ConfigError("--unit is empty; give what --cost-column counts, for instance epochs or tokens.")
    unit = option or said
    if kind == "cost":
        if unit is None:
            raise ConfigError(
                f"--cost-column needs to know what it counts: {where} has no column {UNIT_COLUMN!r}; add --unit, for "
                "instance epochs, tokens, or samples where it counts the same things as the batch size."
            )
        if _singular(unit) == "step":
            raise ConfigError(f"{where} counts its cost in {unit}: name that column with --steps-column.")
        return (SAMPLES if _singular(unit) == "sample" else unit_plural(unit.strip().removesuffix("s"))), ""
    if unit is not None and _singular(unit) in ("epoch", "second", "hour"):
        raise ConfigError(f"{where} counts {kind} in {unit}: name that column with --cost-column.")
    return SAMPLES, "" if unit is None or _singular(unit) in ("sample", "step") else _singular(unit)


def _singular(unit: str) -> str:
    return unit.strip().lower().removesuffix("s")


def _runs(rows: Sequence[_Row], where: str) -> tuple[Run, ...]:
    """Runs in order of the rows; without a seed column the runs of one batch size and LR are counted through."""
    seen: Counter[tuple[int, float]] = Counter()
    taken: set[tuple[int, float, int]] = set()
    runs = []
    for row in rows:
        seed = seen[row.batch_size, row.lr] if row.seed is None else row.seed
        seen[row.batch_size, row.lr] += 1
        if (row.batch_size, row.lr, seed) in taken:
            at = f"batch {row.batch_size}" + (f", lr {row.lr:g}" if row.lr else "") + f", seed {seed}"
            raise ConfigError(
                f"{where} has {at} twice (row {row.number}): drop one, group by what differs between them, or drop the "
                "column seed where it does not tell runs apart."
            )
        taken.add((row.batch_size, row.lr, seed))
        runs.append(
            Run(
                key=f"row {row.number}",
                seed=seed,
                batch_size=row.batch_size,
                workers=1,
                lr=row.lr,
                reached=row.reached,
                samples=row.cost,
                bracket=(row.cost, row.cost if row.reached else math.inf),
                status="reached" if row.reached else "limit",
            )
        )
    return tuple(runs)
