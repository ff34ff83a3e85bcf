"""Measured step times from a table: a CSV with a header, whole or as a throughput table.

`workers, nodes, worker_batch, step_time_s` must be there, `accumulation_steps, sync_time_s, grad_bytes, parallelism`
may be; other columns may name groups. A table of throughput has `throughput`, `gpus` (or `workers`), and where known
`batch_per_gpu`, `grad_accum`, `global_batch`, `nodes`: step time = global batch / throughput.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.simulate.collectives import volume_ratio
from scaleexp.simulate.forms import Rows
from scaleexp.simulate.measurements import Measurements

CONFIGURATION = ("workers", "nodes", "worker_batch")
_NEEDED = (*CONFIGURATION, "step_time_s")
_WHOLE = ("workers", "nodes", "accumulation_steps")
_OPTIONAL = ("accumulation_steps", "grad_bytes")
_THROUGHPUT = {
    "gpus": "workers",
    "batch_per_gpu": "micro_batch",
    "grad_accum": "accumulation_steps",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row: its numbers by column, and every cell as it was written."""

    where: str
    numbers: Mapping[str, float]
    cells: Mapping[str, str]


def read_table(path: str | Path, *, step_times: bool = True) -> list[Row]:
    """Rows of a CSV, checked.

    Args:
        path: of the file.
        step_times: whether step times are needed; without, configurations alone.

    Raises:
        ConfigError: no such file, a column that is missing, or a number that cannot be.
        NotEnoughDataError: no row.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            cells = [
                {k: (v or "").strip() for k, v in row.items() if k and isinstance(v, str | None)} for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path} cannot be read ({said}): give a CSV with columns {', '.join(_NEEDED)}") from None
    if not columns or not cells:
        raise NotEnoughDataError(f"{path} has no rows: a row says {', '.join(_NEEDED)} of one measurement")
    throughput = "throughput" in columns and "step_time_s" not in columns and step_times
    needed = ("throughput", *(() if "workers" in columns else ("gpus",))) if throughput else _NEEDED[: 3 + step_times]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ConfigError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
    read = _from_throughput if throughput else checked_row
    told = [*needed] if throughput else []  # published tables leave cells empty of what was not measured
    return [
        read(row, f"row {i} of {path}", step_times)
        for i, row in enumerate(cells, start=2)
        if any(row.values()) and all(row[name] for name in told)
    ]


def grouped(rows: Iterable[Row], group_by: Sequence[str]) -> dict[str, Measurements]:
    """Group -> its measurements; the values of several columns are joined by " / ".

    Raises:
        ConfigError: a column that is not there.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        missing = [name for name in group_by if name not in row.cells]
        if missing:
            raise ConfigError(f"there is no column {', '.join(missing)} to group by; there are {', '.join(row.cells)}")
        found.setdefault(group_name(row.cells, group_by), []).append(row)
    return {name: _measured(held) for name, held in found.items()}


def group_name(cells: Mapping[str, str], group_by: Sequence[str]) -> str:
    """Values of the columns, joined.

    >>> group_name({"model": "bert", "gpu": "T4"}, ["model", "gpu"])
    'bert / T4'
    """
    return " / ".join(cells[name] for name in group_by)


def _measured(rows: Sequence[Row]) -> Measurements:
    columns = {name: np.array([row.numbers[name] for row in rows]) for name in (*_NEEDED, "accumulation_steps")}
    sizes = np.array([row.numbers.get("grad_bytes", np.nan) for row in rows])
    reference = float(np.median(sizes)) if np.isfinite(sizes).all() else None
    kinds = [row.cells.get("parallelism") or "ddp" for row in rows]
    k = columns["accumulation_steps"]
    ratio = np.where([kind == "fsdp" for kind in kinds], volume_ratio("fsdp", k), 1.0)
    return Measurements(
        rows=Rows(
            **{name: columns[name] for name in (*CONFIGURATION, "accumulation_steps")},
            volume=ratio * (sizes / reference if reference else 1.0),
        ),
        step_time_s=columns["step_time_s"],
        sync_time_s=np.array([row.numbers.get("sync_time_s", np.nan) for row in rows]),
        grad_bytes=reference,
        parallelism="fsdp" if kinds.count("fsdp") * 2 > len(kinds) else "ddp",
    )


def checked_row(cells: Mapping[str, str], where: str, step_times: bool = True) -> Row:
    """A row whose cells are checked.

    Raises:
        ConfigError: a number that cannot be.
    """
    numbers = {"accumulation_steps": 1.0}
    for name in (*_NEEDED[: 3 + step_times], *(name for name in _OPTIONAL if cells.get(name))):
        numbers[name] = _number(cells.get(name, ""), name, where)
    kind = cells.get("parallelism") or "ddp"
    if kind not in ("ddp", "fsdp"):
        raise ConfigError(f"parallelism in {where} is {kind!r}: ddp and fsdp are known")
    if numbers["nodes"] > numbers["workers"]:
        raise ConfigError(
            f"{where} has {numbers['nodes']:g} nodes for {numbers['workers']:g} workers: every node has one or more"
        )
    if cells.get("sync_time_s"):
        numbers["sync_time_s"] = _number(cells["sync_time_s"], "sync_time_s", where, least=0.0)
        if step_times and numbers["sync_time_s"] >= numbers["step_time_s"]:
            sync, step = numbers["sync_time_s"], numbers["step_time_s"]
            raise ConfigError(
                f"{where} has a sync_time_s of {sync:g} in a step_time_s of {step:g}: it is the part of the step in "
                "which nothing was computed"
            )
    return Row(where=where, numbers=numbers, cells=cells)


def _from_throughput(cells: Mapping[str, str], where: str, step_times: bool) -> Row:
    """Samples a second -> seconds a step. Where no batch is given, a step is one unit of throughput a worker."""
    names = {new: old for old, new in _THROUGHPUT.items()}

    def number(name: str, otherwise: float) -> float:
        cell = cells.get(name) or cells.get(names.get(name, ""), "")
        return _number(cell, names.get(name, name) if name not in cells else name, where) if cell else otherwise

    workers, micro, nodes = number("workers", np.nan), number("micro_batch", 1.0), number("nodes", 1.0)
    batch = number("global_batch", workers * micro * number("accumulation_steps", 1.0))
    made = {
        "workers": workers,
        "nodes": nodes,
        "worker_batch": batch / workers,
        "accumulation_steps": max(round(batch / (workers * micro)), 1),
        "step_time_s": batch / _number(cells.get("throughput", ""), "throughput", where),
    }
    return checked_row({**cells, **{name: repr(float(value)) for name, value in made.items()}}, where, step_times)


def _number(cell: str, name: str, where: str, least: float | None = None) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ConfigError(f"{name} in {where} is {cell!r}, not a number") from None
    whole = name in _WHOLE
    if not isfinite(value) or value < (least if least is not None else 0) or (value == 0 and least is None):
        raise ConfigError(f"{name} in {where} is {cell}: it must be {'1 or more' if whole else 'positive'}")
    if whole and value != int(value):
        raise ConfigError(f"{name} in {where} is {cell}: it must be a whole number")
    return value
