"""How well step times are predicted that were held out, beside what needs no model."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.simulate.fitting import fit_groups
from scaleexp.simulate.measurements import Measurements
from scaleexp.simulate.step_time import StepTimeModel
from scaleexp.simulate.tables import Row, grouped

FloatArray = npt.NDArray[np.float64]
POOLED = "all"

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|==|<|>|=)\s*(.+?)\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How far predictions are off in one group, or in all rows together.

    Attributes:
        group: its name; `all` for every row.
        trained, tested, refused: rows.
        mape, median, worst_tenth: mean, median and 90th percentile of |predicted / measured - 1|; nan for none.
        coverage: share of the measured step times within their interval.
        baselines: name -> (mean, median, 90th percentile) on the same rows.
    """

    group: str
    trained: int
    tested: int
    refused: int
    mape: float
    median: float
    worst_tenth: float
    coverage: float
    baselines: Mapping[str, tuple[float, float, float]]


def condition(text: str) -> Callable[[Row], bool]:
    """What `nodes<=4,model=bert` says of a row: all of its parts hold.

    Raises:
        ConfigError: it is not of that form; when called, a column that is not there.
    """
    parts = []
    for piece in text.split(","):
        match = _CONDITION.match(piece)
        if not match:
            raise ConfigError(
                f"{piece!r} is no condition: write a column, one of <= >= != < > = and a value, as nodes<=4"
            )
        parts.append((match[1], match[2].replace("==", "="), match[3]))
    return lambda row: all(_holds(row, *part) for part in parts)


def _holds(row: Row, column: str, sign: str, value: str) -> bool:
    if column not in row.cells and column not in row.numbers:
        raise ConfigError(f"there is no column {column}; there are {', '.join(row.cells)}")
    try:
        return _SIGNS[sign](
            row.numbers.get(column, np.nan) if column in row.numbers else float(row.cells[column]), float(value)
        )
    except ValueError:
        if sign not in ("=", "!="):
            raise ConfigError(f"{column}{sign}{value} compares words: only = and != do") from None
        return (row.cells[column] == value) == (sign == "=")


def split(
    rows: Sequence[Row], train: str | None, test: str | None, fraction: float | None, seed: int
) -> tuple[list[Row], list[Row]]:
    """(Rows to fit, rows to predict): by conditions, what meets `train` is not tested; or a random fraction to fit.

    Raises:
        ConfigError: conditions that cannot be meant.
        NotEnoughDataError: none to fit or none to predict.
    """
    if fraction is not None:
        order = np.random.default_rng(seed).permutation(len(rows))
        chosen = set(order[: round(fraction * len(rows))].tolist())
        fitted = [i in chosen for i in range(len(rows))]
    else:
        assert train is not None
        holds = condition(train)
        fitted = [holds(row) for row in rows]
    wanted = condition(test) if test else None
    trained = [row for row, held in zip(rows, fitted, strict=True) if held]
    tested = [row for row, held in zip(rows, fitted, strict=True) if not held and (wanted is None or wanted(row))]
    if not trained or not tested:
        raise NotEnoughDataError(f"{len(trained)} rows are left to fit and {len(tested)} to predict: both are needed")
    return trained, tested


def validate(trained: Sequence[Row], tested: Sequence[Row], group_by: Sequence[str]) -> list[Errors]:
    """Errors of every group with rows in both, where there are groups, then of all together.

    Raises:
        NotEnoughDataError: a group with nothing to fit, or too little.
    """
    known, asked = grouped(trained, group_by), grouped(tested, group_by)
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise NotEnoughDataError(
            f"no row is left to fit of {', '.join(unknown)}: let the condition for training keep some"
        )
    model = StepTimeModel(groups=fit_groups(known), group_by=tuple(group_by))
    found = {name: _compared(model, name, known[name], held) for name, held in asked.items()}
    together = {k: np.concatenate([rows[k] for rows in found.values()]) for k in next(iter(found.values()))}
    apart = [_errors(name, len(known[name].step_time_s), rows) for name, rows in found.items() if group_by]
    return [*apart, _errors(POOLED, len(trained), together)]


def _compared(model: StepTimeModel, group: str, known: Measurements, held: Measurements) -> dict[str, FloatArray]:
    """Column -> value for each row: relative errors of the model and the baselines, whether the interval holds it."""
    rows, measured = held.rows, held.step_time_s
    predicted = model.predict(rows.workers, rows.nodes, rows.worker_batch, rows.accumulation_steps, group=group)
    inside = (predicted.interval[0] <= measured) & (measured <= predicted.interval[1])
    return {
        "model": np.abs(predicted.step_time_s / measured - 1),
        "inside": np.where(np.isfinite(predicted.step_time_s), inside, np.nan),
        "linear scaling": np.abs(linear_scaling(known, held) / measured - 1),
        "computation alone": np.abs(computation_alone(known, held) / measured - 1),
    }


def linear_scaling(known: Measurements, held: Measurements) -> FloatArray:
    """Throughput grows with workers: a micro-batch takes as long as the nearest did in the most workers."""
    micro = known.rows.worker_batch / known.rows.accumulation_steps
    seconds = known.step_time_s / known.rows.accumulation_steps
    found = []
    for asked in held.rows.worker_batch / held.rows.accumulation_steps:
        off = np.abs(np.log(micro / asked))
        near = np.isclose(off, off.min())
        found.append(np.median(seconds[near & (known.rows.workers == known.rows.workers[near].max())]))
    return np.array(found) * held.rows.accumulation_steps


def computation_alone(known: Measurements, held: Measurements) -> FloatArray:
    """Affine in the worker batch, whatever the workers: relative least squares over all rows."""
    columns = np.column_stack([known.rows.accumulation_steps, known.rows.worker_batch])
    solution = np.linalg.lstsq(columns / known.step_time_s[:, None], np.ones(len(columns)), rcond=None)[0]
    return np.asarray(np.column_stack([held.rows.accumulation_steps, held.rows.worker_batch]) @ solution)


def _errors(group: str, trained: int, rows: Mapping[str, FloatArray]) -> Errors:
    told = np.isfinite(rows["model"])
    mean, median, tenth = _summary(rows["model"][told])
    return Errors(
        group=group,
        trained=trained,
        tested=len(told),
        refused=int((~told).sum()),
        mape=mean,
        median=median,
        worst_tenth=tenth,
        coverage=float(rows["inside"][told].mean()) if told.any() else np.nan,
        baselines={
            name: _summary(rows[name][told] if told.any() else rows[name])
            for name in ("linear scaling", "computation alone")
        },
    )


def _summary(errors: FloatArray) -> tuple[float, float, float]:
    if not errors.size:
        return np.nan, np.nan, np.nan
    return float(errors.mean()), float(np.median(errors)), float(np.quantile(errors, 0.9))
