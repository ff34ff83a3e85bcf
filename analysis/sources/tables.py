"""CSV, Parquet and JSON records as one Arrow table, damage left out and said."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.sources.csv_text import read_csv
from analysis.sources.logged import FloatArray, Source
from analysis.wording import has_thousands, nearest
from scaleexp.errors import ConfigError, StorageError

PARQUET_MAGIC = b"PAR1"


def read_table(source: Source) -> tuple[pa.Table, list[str]]:
    """The rows of a file, and what was left out of it.

    The columns of a CSV stay text until they are asked for as numbers.

    Raises:
        ConfigError: no such table.
        StorageError: a Parquet file that is not whole.
    """
    if source.content.startswith(PARQUET_MAGIC):
        return _parquet(source), []
    if source.content.lstrip()[:1] in (b"{", b"["):
        return _json(source)
    return _csv(source)


def numbers(table: pa.Table, name: str) -> FloatArray:
    """A column as float64, nan where a cell is empty; "NaN" and "Infinity" are read as such.

    Raises:
        ConfigError: a cell that is no number.
    """
    values = as_numbers(table, name)
    if values is None:
        text = [str(cell) for cell in table[name].to_pylist() if cell is not None]
        cell = next((cell for cell in text if not _is_number(cell)), text[0] if text else "nothing")
        row = 1 + next((i for i, other in enumerate(table[name].to_pylist()) if str(other) == cell), 0)
        mend = "name another column or mend the file"
        then = "write it without thousands separators" if has_thousands(cell) else mend
        raise ConfigError(f"column {name} should hold numbers and holds {cell[:40]!r} in row {row}: {then}.")
    return values


def as_numbers(table: pa.Table, name: str) -> FloatArray | None:
    """A column as float64, nan where a cell is empty; None for one that does not hold numbers."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type) or column.null_count == len(column):
        return None
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.utf8_trim_whitespace(column)
        floats = column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return np.asarray(floats.to_numpy(zero_copy_only=False), dtype=np.float64)


def filled(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    """Which cells of a column are not empty."""
    return np.asarray(table[name].is_valid().to_numpy())


def words(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    """A column as text, None where a cell is empty."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    cells = [None if cell is None else str(cell) for cell in column.to_pylist()]
    return np.array(cells, dtype=np.object_)


def require(table: pa.Table, column: str, option: str, source: Source) -> str:
    """The column that an option named.

    Raises:
        ConfigError: the file has no such column.
    """
    if column not in table.column_names:
        raise ConfigError(
            f"{source.path} has no column {column!r} for {option}; {nearest(column, table.column_names)}."
        )
    return column


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(source: Source) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(source.content))
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:80]
        raise StorageError(
            f"{source.path} is a Parquet file that is not whole ({said}): write or copy it again."
        ) from None


def _csv(source: Source) -> tuple[pa.Table, list[str]]:
    content, problems = source.content, []
    if not content.endswith((b"\n", b"\r")):
        # What is cut inside a number is still a number, but another one.
        head, found, _ = content.rpartition(b"\n")
        if found:
            content = head + found
            problems.append(
                f"{source.path} does not end with a line break, so that its last row may be cut and is left out; "
                "end the file with one if it is whole."
            )
    try:
        table, ragged = read_csv(content)
        names = table.column_names
        if len(set(names)) < len(names) or len(names) < 2:
            raise pa.ArrowInvalid("two columns of one name" if len(names) > 1 else "it has one column")
    except pa.ArrowException as error:
        said = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{source.path} is not a table of training curves ({said}): give a CSV with a header, a Parquet file, "
            "trainer_state.json, TensorBoard event files or a W&B history."
        ) from None
    if ragged:
        problems.append(f"{source.path}: {len(ragged)} rows do not have {len(names)} cells and are left out.")
    return table, problems


def _json(source: Source) -> tuple[pa.Table, list[str]]:
    text = source.content.decode("utf-8", errors="replace")
    rows, damaged = [], 0
    for row in _records(text):
        if isinstance(row, dict):
            rows.append(_flat(row))
        else:
            damaged += 1
    if not rows:
        raise ConfigError(f"{source.path} holds no whole JSON record: give the rows of a history, one object a line.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    said = [f"{source.path}: {damaged} records are not whole and are left out."] if damaged else []
    return table, said


def _records(text: str) -> Iterator[object]:
    """The elements of a JSON array or the lines of JSONL; None for what is damaged."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if whole is not None:
        yield from whole if isinstance(whole, list) else [whole]
        return
    if text.lstrip().startswith("["):
        found, torn = elements(text, text.index("[") + 1)
        yield from found
        if torn:
            yield None
        return
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield None


def elements(text: str, start: int) -> tuple[list[Any], bool]:
    """The whole elements of a JSON array from `start` on, and whether it is torn before its end.

    >>> elements('[{"a": 1}, {"a": 2}, {"a"', 1)
    ([{'a': 1}, {'a': 2}], True)
    """
    decoder, at = json.JSONDecoder(), start
    found: list[Any] = []
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if text[at : at + 1] == "]":
            return found, False
        # A number at the end of a torn file may be cut; an object or a text has an end of its own.
        if text[at : at + 1] not in ("{", "[", '"'):
            return found, True
        try:
            element, at = decoder.raw_decode(text, at)
        except ValueError:
            return found, True
        found.append(element)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Nested `config: {batch_size: 64}` as `config.batch_size`; what W&B wraps as {"value": x} is x."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and key == "config":
            for name, inner in value.items():
                flat[f"config.{name}"] = inner["value"] if isinstance(inner, dict) and "value" in inner else inner
        else:
            flat[key] = value
    return flat


def _column(cells: list[Any]) -> pa.Array:
    if all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells):
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
