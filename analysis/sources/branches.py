"""A table of branches: one row per branch, where it began, its batch size and its loss at the end of the window."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from analysis.sources.curve_runs import Curve
from analysis.sources.points import UNIT_COLUMN, Columns
from analysis.sources.table import FileTable
from analysis.sweep import BRANCH, GroupValue, Sweep
from scaleexp.errors import ConfigError

LOSS = "loss"


def branch_table(file: FileTable, columns: Columns, metric: str | None = None) -> tuple[Sweep, ...]:
    """The branches of each group and branch point, each a curve of one value; groups in order, points ascending.

    Columns: `branch_samples`, the batch size, the loss (`loss`, or what `metric` names; empty or no number where the
    branch diverged), and, if there, `seed`, `unit` and those to group by.

    Raises:
        ConfigError: a column that is not there, or does not hold what it has to.
    """
    name = metric or LOSS
    points = [_whole(at) for at in file.labels(BRANCH, "one that says after how many samples each branch began")]
    batches = file.whole_numbers(columns.batch, "name the batch size with --batch-column")
    losses = [_loss(file, row, cell) for row, cell in enumerate(file.cells(name, "name the loss with --metric"), 1)]
    labels = [file.labels(column, "group by one of these") for column in columns.group_by]
    keys: list[tuple[GroupValue, ...]] = list(zip(*labels, points, strict=True))
    seeds = file.whole_numbers("seed", least=0) if "seed" in file.columns else _counted(keys, batches)
    units = {str(unit) for unit in file.labels(UNIT_COLUMN)} if UNIT_COLUMN in file.columns else set[str]()
    units |= {columns.unit} if columns.unit else set()
    if len(units) > 1:
        raise ConfigError(f"{file.path} counts in {' and in '.join(sorted(units))}: read one unit at a time.")
    groups: dict[tuple[GroupValue, ...], list[Curve]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(
            Curve(
                run=f"row {row + 1}",
                batch_size=batches[row],
                workers=1,
                lr=0.0,
                seed=seeds[row],
                group={},
                samples=np.array([float(key[-1])]),
                values=np.array([losses[row]]),
                status="" if math.isfinite(losses[row]) else "diverged",
            )
        )
    used = {"batch_size": columns.batch, LOSS: name, BRANCH: BRANCH}
    return tuple(
        Sweep(
            group=dict(zip((*columns.group_by, BRANCH), key, strict=True)),
            metric=name,
            direction="min",
            target=None,
            unit=next(iter(units), "").removesuffix("s"),
            cost_unit="samples",
            runs=(),
            provenance={"path": file.path, "sha256": file.sha256, "rows": file.table.num_rows, "columns": used},
            traces=tuple(branches),
        )
        for key, branches in groups.items()
    )


def _whole(at: GroupValue) -> float | int:
    try:
        value = float(at)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise ConfigError(f"column {BRANCH!r} must say after how many samples a branch began, got {at!r}.")
    return int(value) if value == int(value) else value


def _loss(file: FileTable, row: int, cell: object) -> float:
    """A loss; nan for a branch that has none any more."""
    if cell is None or cell == "":
        return math.nan
    try:
        return float(cell)  # type: ignore[arg-type]  # whatever float() does not take is refused
    except (TypeError, ValueError):
        raise ConfigError(
            f"row {row} of {file.path} has the loss {cell!r}, which is no number: leave it empty where one diverged."
        ) from None


def _counted(keys: list[tuple[GroupValue, ...]], batches: list[int]) -> list[int]:
    """Seeds where the table has none: counted through within a branch point and batch size."""
    seen: Counter[tuple[object, ...]] = Counter()
    found = []
    for key, batch in zip(keys, batches, strict=True):
        found.append(seen[(key, batch)])
        seen[(key, batch)] += 1
    return found
