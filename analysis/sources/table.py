"""A CSV or Parquet file as columns, each checked: what is wrong with it is one sentence with its row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from analysis.sources.csv_text import read_csv
from analysis.wording import has_thousands, nearest
from scaleexp.errors import ConfigError

SUFFIXES = (".csv", ".parquet", ".pq")

Cell = TypeVar("Cell")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTable:
    """A file that was read.

    Attributes:
        path: as it was given.
        sha256: of its bytes.
        table: its rows; row 1 is the first after the header.
    """

    path: str
    sha256: str
    table: pa.Table

    @property
    def columns(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.table.column_names)

    def cells(self, column: str, remedy: str = "") -> list[object]:
        """Values of a column.

        Args:
            column: its name.
            remedy: what to do where there is no such column.

        Raises:
            ConfigError: there is none.
        """
        if column not in self.columns:
            then = f"; {remedy}" if remedy else ""
            raise ConfigError(f"{self.path} has no column {column!r}; {nearest(column, self.columns)}{then}.")
        return list(self.table[column].to_pylist())

    def numbers(self, column: str, remedy: str = "") -> list[float]:
        """A column of positive finite numbers."""
        return self._each(column, _positive, "a positive number", remedy)

    def numbers_or_none(self, column: str, remedy: str = "") -> list[float | None]:
        """A column of positive finite numbers with gaps: an empty cell, null or nan."""
        cells = self.cells(column, remedy)
        known = [i for i, cell in enumerate(cells) if not _is_gap(cell)]
        found: list[float | None] = [None] * len(cells)
        for i in known:
            found[i] = self._read(column, i + 1, cells[i], _positive, "a positive number or nothing")
        return found

    def whole_numbers(self, column: str, remedy: str = "", *, least: int = 1) -> list[int]:
        """A column of whole numbers from `least` on."""
        what = "a whole number" + (f" from {least} on" if least != 1 else " above 0")
        return self._each(column, lambda cell: _whole(cell, least), what, remedy)

    def flags(self, column: str) -> list[bool]:
        """A column of true and false, or of 1 and 0."""
        return self._each(column, _flag, "true or false", "")

    def labels(self, column: str, remedy: str = "") -> list[str | int | float]:
        """A column of names or numbers without a gap; numbers where every cell is one."""
        cells = self.cells(column, remedy)
        found = _labels(cells)
        for row, (label, cell) in enumerate(zip(found, cells, strict=True), start=1):
            if label is None:
                raise self._unread(column, row, cell, "a value")
        return [label for label in found if label is not None]

    def _each(self, column: str, read: Callable[[object], Cell | None], what: str, remedy: str) -> list[Cell]:
        cells = self.cells(column, remedy)
        return [self._read(column, row, cell, read, what) for row, cell in enumerate(cells, start=1)]

    def _read(self, column: str, row: int, cell: object, read: Callable[[object], Cell | None], what: str) -> Cell:
        value = read(cell)
        if value is None:
            raise self._unread(column, row, cell, what)
        return value

    def _unread(self, column: str, row: int, cell: object, what: str) -> ConfigError:
        got = "nothing" if cell is None or cell == "" else str(cell) if _parsed(cell) is not None else repr(cell)
        then = ": write it without thousands separators" if has_thousands(cell) else ""
        return ConfigError(
            f"column {column!r} of {self.path} must hold {what} in every row; row {row} has {got}{then}."
        )


def read_table(path: str | Path) -> FileTable:
    """Read a file by its suffix: .csv, .parquet or .pq.

    Raises:
        ConfigError: another suffix, a file that cannot be read, no rows, or a column name that occurs twice.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} is not a table: give a file that ends in {', '.join(SUFFIXES)}.")
    try:
        content = file.read_bytes()
        table = _csv(content) if file.suffix.lower() == ".csv" else _parquet(content)
    except FileNotFoundError:
        raise ConfigError(f"{path} cannot be read: there is no such file.") from None
    except (OSError, pa.ArrowException) as error:
        kind = "CSV" if file.suffix.lower() == ".csv" else "Parquet"
        raise ConfigError(f"{path} cannot be read as {kind}: {_first_line(error)}.") from None
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path} has more than one column named {', '.join(map(repr, twice))}: rename all but one.")
    if not table.num_rows:
        raise ConfigError(f"{path} has no row, so there is nothing to fit: one row per run is needed.")
    return FileTable(path=str(path), sha256=sha256(content).hexdigest(), table=table)


def _csv(content: bytes) -> pa.Table:
    table, ragged = read_csv(content)
    if ragged:
        first = ragged[0]
        raise pa.ArrowInvalid(
            f"row {first.number - 1} has {first.actual_columns} cells where the header has {first.expected_columns} "
            "(a number with a comma in it is two cells)"
        )
    return table


def _parquet(content: bytes) -> pa.Table:
    from pyarrow import parquet

    file = parquet.ParquetFile(BytesIO(content))
    schema = file.schema_arrow
    if len(set(schema.names)) < len(schema):
        return schema.empty_table()  # refused for its names
    for i, field in enumerate(schema):
        if pa.types.is_decimal(field.type):
            schema = schema.set(i, field.with_type(pa.float64()))
    return file.read().cast(schema)


def _first_line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().splitlines()[0].rstrip(".") if said.strip() else type(error).__name__


def _parsed(cell: object) -> float | None:
    """A number, or the text of one; nan and infinities are such."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        # Python reads 1_000 as a thousand, and nothing else that writes tables does.
        return None if isinstance(cell, str) and "_" in cell else float(cell)
    except (ValueError, OverflowError):
        return None


def _positive(cell: object) -> float | None:
    value = _parsed(cell)
    return value if value is not None and math.isfinite(value) and value > 0.0 else None


def _is_gap(cell: object) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in ("", "null", "none", "nan")
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _whole(cell: object, least: int) -> int | None:
    value = _parsed(cell)
    if value is None or not math.isfinite(value) or value != int(value) or value < least:
        return None
    # Beyond 2^53 a float holds another number than the one written.
    return int(str(cell)) if re.fullmatch(r"\s*\+?\d+\s*", str(cell)) else int(value)


def _flag(cell: object) -> bool | None:
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, str) and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    value = _parsed(cell)
    return None if value not in (0.0, 1.0) else value == 1.0


def _labels(cells: Sequence[object]) -> list[str | int | float | None]:
    """Names, stripped; numbers where all of them are, whole ones where all are; None for a gap."""
    plain = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    known = [cell for cell in plain if cell is not None and cell != ""]
    if all(_whole(cell, least=0) is not None and "." not in str(cell) for cell in known):
        return [None if cell is None or cell == "" else _whole(cell, least=0) for cell in plain]
    if all(_parsed(cell) is not None for cell in known):
        numbers = [_parsed(cell) for cell in plain]
        return [None if number is None or math.isnan(number) else number for number in numbers]
    return [_label(cell) for cell in plain]


def _label(cell: object) -> str | int | float | None:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    return cell if isinstance(cell, str | int | float) else str(cell)
