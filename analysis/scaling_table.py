"""A table of critical batch sizes that somebody fitted already, one row per group."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.read import StudyLog
from analysis.scaling_law import FittedGroup
from analysis.sources import Source, kind_of
from analysis.sources.table import FileTable, read_table
from analysis.sweep import GroupValue
from scaleexp.errors import ConfigError

FITTED = "b_crit"
NO_NUMBER = f"the table holds no {FITTED} for it."
LOW, HIGH = "b_crit_low", "b_crit_high"


def table_of_fits(sources: Sequence[Source]) -> FileTable | None:
    """The one source, where it is a table with a column b_crit; None where it is anything else.

    Raises:
        ConfigError: such a table beside other sources.
    """
    found = [
        table
        for source in sources
        if not isinstance(source, StudyLog) and kind_of(source) == "table"
        if FITTED in (table := read_table(source)).columns
    ]
    if found and len(sources) > 1:
        raise ConfigError(f"{found[0].path} holds fits (a column {FITTED}): give it as the only source.")
    return found[0] if found else None


def fitted_groups(
    table: FileTable, group_by: Sequence[str], against: Sequence[str]
) -> list[tuple[dict[str, GroupValue], FittedGroup]]:
    """(what tells its law from others, the fit) of every row.

    Raises:
        ConfigError: a column that is not there or does not hold positive numbers, or an interval around something else.
    """
    batches = table.numbers_or_none(FITTED)
    regressors = {name: table.numbers(name, "name columns of numbers with --against") for name in against}
    common = {name: table.labels(name) for name in group_by if name not in against}
    bounds = None
    if {LOW, HIGH} <= set(table.columns):
        ends = zip(table.numbers_or_none(LOW), table.numbers_or_none(HIGH), strict=True)
        bounds = [(low or 0.0, high or math.inf) for low, high in ends]
        for row, (low, high) in enumerate(bounds):
            batch = batches[row]
            if batch is not None and not low <= batch <= high:
                raise ConfigError(f"row {row + 1} of {table.path}: {batch:g} is not in {low:g} to {high:g}.")
    statuses = table.labels("status") if "status" in table.columns else ["ok"] * len(batches)
    groups = []
    for i, batch in enumerate(batches):
        values = {name: column[i] for name, column in regressors.items()}
        group = FittedGroup(
            name=", ".join(f"{name} {value:g}" for name, value in values.items()),
            regressors=values,
            batch=math.nan if batch is None else batch,
            interval=None if bounds is None else bounds[i],
            status="not_identified" if batch is None and statuses[i] == "ok" else str(statuses[i]),
            reason=NO_NUMBER if batch is None else "",
        )
        groups.append(({name: column[i] for name, column in common.items()}, group))
    return groups
