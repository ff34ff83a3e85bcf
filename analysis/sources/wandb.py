"""A W&B history: what `run.history()` or `run.scan_history()` gives as CSV, Parquet or JSON, or an exported chart.

A history has a row per call of `log`, the columns `_step`, `_runtime`, `_timestamp` and one per metric, empty where a
row did not log it. `_step` counts calls of `log`, so that the columns in which the Hugging Face Trainer and Lightning
keep the optimizer's steps are preferred. A chart has the columns `Step`, `RUN - METRIC` and, for the bounds of what a
point averages over, `RUN - METRIC__MIN` and `RUN - METRIC__MAX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from analysis.sources.logged import LR_NAME, FloatArray, Logged, Named, Reading, Series, Source, range_of
from analysis.sources.rows import FACT_NAMES, Index, by_run, constant, constants
from analysis.sources.tables import as_numbers, filled, numbers, require
from scaleexp.errors import ConfigError

MARKS = frozenset({"_step", "_runtime", "_timestamp"})
STEPS = ("train/global_step", "trainer/global_step", "global_step")
RUNS = ("run", "run_id", "run_name")
KNOWN = frozenset({"batch_size", "lr", "learning_rate", "seed", "unit"})
CONFIG = ("config.", "config/")


def is_history(table: pa.Table) -> bool:
    """Whether a table has the columns that W&B writes."""
    return bool(MARKS & set(table.column_names)) or bool(_charted(table))


def read(tables: Sequence[tuple[Source, pa.Table]], named: Named) -> Reading:
    """Every run of every history; a file without a run column is one run.

    Raises:
        ConfigError: a column is missing, or a cell is no number.
    """
    runs: list[Logged] = []
    problems: list[str] = []
    for source, table in tables:
        read_one = _chart if _charted(table) else _history
        runs += read_one(source, table, named, problems)
    return Reading(runs=runs, rows={source.path: table.num_rows for source, table in tables}, problems=problems)


def _history(source: Source, table: pa.Table, named: Named, problems: list[str]) -> list[Logged]:
    if named.samples_column:
        counts_column = require(table, named.samples_column, "--samples-column", source)
    else:
        counts_column = _steps_column(source, table, named, problems)
    run_column, rows = _rows(source, table, named)
    columns = _fact_columns(source, table, named, problems, rows.values())
    rates = _rates(table, columns)
    facts = constants(table, columns, rows.values())
    counts, counted_there = numbers(table, counts_column), filled(table, counts_column)
    logged_in = {name: filled(table, name) for name in table.column_names}
    runs, uncounted = [], 0
    metrics = _metrics(table, named, {run_column, counts_column, *columns.values(), *STEPS})
    for (run, index), of_run in zip(rows.items(), facts, strict=True):
        series: dict[str, Series] = {}
        for name, values in metrics.items():
            logged = index[logged_in[name][index]]
            mine = logged[counted_there[logged]]
            uncounted += logged.size - mine.size
            if mine.size:
                series[name] = Series(counted=named.counted, counts=counts[mine], values=values[mine])
        logged_lr = range_of(rate for column in rates for rate in column[index])
        runs.append(Logged(run=run, files=(source.path,), series=series, facts=of_run, logged_lr=logged_lr))
    if uncounted:
        problems.append(f"{source.path}: {uncounted} values in rows without {counts_column} are left out.")
    return runs


def _rows(source: Source, table: pa.Table, named: Named) -> tuple[str | None, dict[str | Path, Index]]:
    column = named.run_column and require(table, named.run_column, "--run-column", source)
    column = column or next((name for name in RUNS if name in table.column_names), None)
    if column is None:
        return None, {source.path.with_suffix(""): np.arange(table.num_rows)}
    return column, by_run(table, column)[0]


def _rates(table: pa.Table, columns: Mapping[str, str]) -> list[FloatArray]:
    """Columns in which a learning rate was logged along the way."""
    named = [name for name in table.column_names if LR_NAME.search(name) and name not in columns.values()]
    return [values for name in named if (values := as_numbers(table, name)) is not None]


def _fact_columns(
    source: Source, table: pa.Table, named: Named, problems: list[str], runs: Iterable[Index]
) -> dict[str, str]:
    """Fact -> its column: of the run's config, or a column of a name that is known; an LR that changes is no fact."""
    columns = {name[len(CONFIG[0]) :]: name for name in table.column_names if name.startswith(CONFIG)}
    if "batch_size" in columns and "batch_size" not in table.column_names and not named.batch_column:
        problems.append(f"{source.path}: {columns['batch_size']} is taken for the batch of all devices together.")
    scheduled = {name for name in table.column_names if LR_NAME.search(name) and not constant(table, name, runs)}
    columns |= {name: name for name in table.column_names if name in KNOWN - scheduled}
    columns = {FACT_NAMES.get(fact, fact): name for fact, name in columns.items() if name != named.batch_column}
    if named.batch_column:
        columns["batch_size"] = require(table, named.batch_column, "--batch-column", source)
    return columns


def _metrics(table: pa.Table, named: Named, others: set[str | None]) -> dict[str, FloatArray]:
    """The metric that was asked for, or every column that may be one."""
    if named.metric and named.metric in table.column_names:
        return {named.metric: numbers(table, named.metric)}
    found = {}
    for name in table.column_names:
        own = not name or name.startswith(("_", "system")) or name in others
        values = None if own else as_numbers(table, name)
        if values is not None:
            found[name] = values
    return found


def _steps_column(source: Source, table: pa.Table, named: Named, problems: list[str]) -> str:
    if named.steps_column:
        return require(table, named.steps_column, "--steps-column", source)
    for name in STEPS:
        if name in table.column_names:
            return name
    column = require(table, "_step", "the steps (name another by --steps-column)", source)
    problems.append(
        f"{source.path}: _step is taken for optimizer steps; W&B counts calls of log in it unless it was told the "
        "step, so name the column that counts steps by --steps-column where it is another."
    )
    return column


def _charted(table: pa.Table) -> list[str]:
    names = set(table.column_names)
    return [name for name in table.column_names if " - " in name and f"{name}__MIN" in names]


def _chart(source: Source, table: pa.Table, named: Named, problems: list[str]) -> list[Logged]:
    columns = _charted(table)
    axis = named.samples_column or named.steps_column or table.column_names[0]
    require(table, axis, "--steps-column", source)
    if "time" in axis.lower():
        raise ConfigError(f"{source.path} is a chart over {axis!r}: export one whose x axis is the step.")
    counts, averaged = numbers(table, axis), 0
    series: dict[str, dict[str, Series]] = {}
    for column in columns:
        run, _, metric = column.rpartition(" - ")
        values, mine = numbers(table, column), np.flatnonzero(filled(table, column))
        low, high = numbers(table, f"{column}__MIN"), numbers(table, f"{column}__MAX")
        averaged += int((low[mine] < high[mine]).sum())
        series.setdefault(run, {})[metric] = Series(counted=named.counted, counts=counts[mine], values=values[mine])
    if averaged:
        problems.append(
            f"{source.path}: {averaged} points of this chart are averages over several logged ones; export the history "
            "for exact crossings."
        )
    return [Logged(run=run, files=(source.path,), series=found, facts={}) for run, found in series.items()]
