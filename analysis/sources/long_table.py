"""A long table of training curves: one row per evaluation, `run, samples | steps, batch_size, value, lr, seed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.sources.logged import FloatArray, Logged, Named, Reading, Series, Source
from analysis.sources.rows import FACT_NAMES, by_run, constant, constants
from analysis.sources.tables import as_numbers, filled, numbers, require, words
from scaleexp.errors import ConfigError

NOT_METRICS = frozenset({"run", "samples", "steps", "step", "batch_size", "lr", "seed", "unit", "workers", "epoch"})


def read(tables: Sequence[tuple[Source, pa.Table]], named: Named) -> Reading:
    """Every run of every table, in which each column that is constant within a run is a fact of it.

    A `metric` column tells apart the metrics of a column `value`; without one, `value` or the column that was asked for
    is the metric. An empty value is a lost one, because the row says that the run was evaluated there.

    Raises:
        ConfigError: a column is missing, or a cell is no number.
    """
    runs: list[Logged] = []
    problems: list[str] = []
    for source, table in tables:
        run_column = require(table, named.run_column or "run", "--run-column", source)
        counts_column, counted = _counts(source, table, named)
        used = {run_column, counts_column, "value", "metric", named.metric, named.batch_column}
        columns = {FACT_NAMES.get(name, name): name for name in table.column_names if name not in used}
        if named.batch_column:
            columns["batch_size"] = require(table, named.batch_column, "--batch-column", source)
        rows, nameless = by_run(table, run_column)
        if nameless:
            problems.append(f"{source.path}: {nameless} rows name no run and are left out.")
        counts, facts = numbers(table, counts_column), constants(table, columns, rows.values())
        constant = {columns[fact] for fact in columns if all(fact in of_run for of_run in facts)}
        metrics = _metrics(table, named, constant | used)
        for (run, index), of_run in zip(rows.items(), facts, strict=True):
            series: dict[str, Series] = {}
            for metric, (values, where) in metrics.items():
                mine = index[where[index]]
                if mine.size:
                    series[metric] = Series(counted=counted, counts=counts[mine], values=values[mine])
            of_run = {fact: value for fact, value in of_run.items() if fact not in metrics}
            runs.append(Logged(run=run, files=(source.path,), series=series, facts=of_run))
    return Reading(runs=runs, rows={source.path: table.num_rows for source, table in tables}, problems=problems)


def has_curves(table: pa.Table, run_column: str = "run", batch_column: str = "batch_size") -> bool:
    """Whether the rows are evaluations of runs, several of each, and not what each run took to a target.

    A column that numbers replicates may be called `run` in a table of points. So several rows of one name are a curve
    only with values: a column `value`, or one that changes within a run whose batch size does not.
    """
    if run_column not in table.column_names:
        return False
    rows, _ = by_run(table, run_column)
    if not any(index.size > 1 for index in rows.values()):
        return False
    if "value" in table.column_names:
        return True
    if batch_column in table.column_names and not constant(table, batch_column, rows.values()):
        return False
    others = [name for name in table.column_names if name not in NOT_METRICS | {run_column, batch_column}]
    return any(as_numbers(table, name) is not None and not constant(table, name, rows.values()) for name in others)


def _counts(source: Source, table: pa.Table, named: Named) -> tuple[str, Literal["steps", "samples"]]:
    """The column that says how far a run had come, and whether it counts steps or samples."""
    if named.samples_column:
        return require(table, named.samples_column, "--samples-column", source), "samples"
    if named.steps_column:
        return require(table, named.steps_column, "--steps-column", source), "steps"
    if "samples" in table.column_names:
        return "samples", "samples"
    for name in ("steps", "step"):
        if name in table.column_names:
            return name, "steps"
    raise ConfigError(
        f"{source.path} has no column samples or steps: name one by --samples-column or --steps-column; its columns "
        f"are {', '.join(table.column_names)}."
    )


def _metrics(
    table: pa.Table, named: Named, others: set[str | None]
) -> dict[str, tuple[FloatArray, npt.NDArray[np.bool_]]]:
    """Metric -> (values, which rows are of it)."""
    everywhere = np.ones(table.num_rows, dtype=np.bool_)
    if {"metric", "value"} <= set(table.column_names):
        names, values = words(table, "metric"), numbers(table, "value")
        return {str(name): (values, names == name) for name in dict.fromkeys(names) if name is not None}
    if named.metric and named.metric in table.column_names:
        return {named.metric: (numbers(table, named.metric), everywhere)}
    if "value" in table.column_names:
        return {named.metric or "value": (numbers(table, "value"), everywhere)}
    found = {}
    for name in table.column_names:
        column = None if name in NOT_METRICS | others else as_numbers(table, name)
        if column is not None:
            found[name] = (column, filled(table, name))
    return found
