"""A CSV or Parquet file as columns, each checked: what is wrong with it is one sentence with its row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

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
        """A column of names or numbers without a gap."""
        return self._each(column, _label, "a value", remedy)

    def _each(self, column: str, read: Callable[[object], Cell | None], what: str, remedy: str) -> list[Cell]:
        cells = self.cells(column, remedy)
        return [self._read(column, row, cell, read, what) for row, cell in enumerate(cells, start=1)]

    def _read(self, column: str, row: int, cell: object, read: Callable[[object], Cell | None], what: str) -> Cell:
        value = read(cell)
        if value is None:
            got = "nothing" if cell is None or cell == "" else repr(cell)
            then = "write it without thousands separators" if has_thousands(cell) else ""
            raise ConfigError(
                f"column {column!r} of {self.path} must hold {what} in every row; row {row} has {got}"
                f"{f': {then}' if then else ''}."
            )
        return value


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
        raise ConfigError(f"{path} cannot be read as {file.suffix[1:].upper()}: {_first_line(error)}.") from None
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path} has more than one column named {', '.join(map(repr, twice))}: rename all but one.")
    if not table.num_rows:
        raise ConfigError(f"{path} has no row, so there is nothing to fit: one row per run is needed.")
    return FileTable(path=str(path), sha256=sha256(content).hexdigest(), table=table)


def _csv(content: bytes) -> pa.Table:
    from pyarrow import csv

    if not content.strip():
        raise pa.ArrowInvalid("the file is empty")
    # A spreadsheet may begin its file with a byte-order mark, which is no part of the first name.
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        header = content.decode().splitlines()[0]
    except UnicodeDecodeError:
        raise pa.ArrowInvalid("it is not in UTF-8; save it as CSV in UTF-8") from None
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in header and "," not in header:
            raise pa.ArrowInvalid(
                f"its columns are separated by {name}; save it with commas between columns and points in decimals"
            )
    ragged: list[Any] = []

    def skip(row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow
        ragged.append(row)
        return "skip"

    # Rows are numbered by one thread only.
    table = csv.read_csv(
        BytesIO(content), csv.ReadOptions(use_threads=False), csv.ParseOptions(invalid_row_handler=skip)
    )
    if ragged:
        first = ragged[0]
        raise pa.ArrowInvalid(
            f"row {first.number - 1} has {first.actual_columns} cells where the header has {first.expected_columns} "
            "(a number with a comma in it is two cells)"
        )
    return table.rename_columns([name.strip() for name in table.column_names])


def _parquet(content: bytes) -> pa.Table:
    from pyarrow import parquet

    return parquet.read_table(BytesIO(content))


def _first_line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.strip().splitlines()[0].rstrip(".") if said.strip() else type(error).__name__


def _positive(cell: object) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        value = float(cell)  # type: ignore[arg-type]  # whatever float() does not take is refused
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0.0 else None


def _is_gap(cell: object) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in ("", "null", "none", "nan")
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _whole(cell: object, least: int) -> int | None:
    # One word in a column makes text of all its numbers; the row to name is that of the word.
    number = _parsed(cell) if isinstance(cell, str) else cell
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return None
    return int(number) if number == int(number) and number >= least else None


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _flag(cell: object) -> bool | None:
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, str):
        return {"true": True, "false": False}.get(cell.strip().lower())
    return bool(cell) if isinstance(cell, int | float) and cell in (0, 1) else None


def _label(cell: object) -> str | int | float | None:
    if isinstance(cell, str | int | float) and cell != "":
        return None if isinstance(cell, float) and math.isnan(cell) else cell
    return None if cell is None or cell == "" else str(cell)
