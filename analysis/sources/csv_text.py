"""CSV as text: the one reader of points and of curves; whoever needs numbers asks a column for them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pyarrow as pa

OTHER_SEPARATORS = ((";", "semicolons"), ("\t", "tabs"))


def read_csv(content: bytes) -> tuple[pa.Table, list[Any]]:
    r"""Every column as text, null where a cell is empty, and the rows with another number of cells, which it lacks.

    Guessing a type from the first rows fails at the first row that differs, and makes a number of a run called `12e4`.

    Args:
        content: of the file, in UTF-8, with or without a byte-order mark.

    Returns:
        (table, `pyarrow.csv.InvalidRow`s); row 1 is the first after the header.

    Raises:
        pa.ArrowInvalid: it is no such file; the message says why, and what to do.

    >>> read_csv(b"run, lr\na,0.10\n,nan\n")[0].to_pylist()
    [{'run': 'a', 'lr': '0.10'}, {'run': None, 'lr': 'nan'}]
    """
    from pyarrow import csv

    if not content.strip():
        raise pa.ArrowInvalid("the file is empty")
    # A spreadsheet may begin its file with a byte-order mark, which is no part of the first name.
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        header = content.decode().splitlines()[0]
    except UnicodeDecodeError:
        raise pa.ArrowInvalid("it is not in UTF-8; save it as CSV in UTF-8") from None
    for separator, name in OTHER_SEPARATORS:
        if separator in header and "," not in header:
            raise pa.ArrowInvalid(
                f"its columns are separated by {name}; save it with commas between columns and points in decimals"
            )
    ragged: list[Any] = []

    def skip(row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow
        ragged.append(row)
        return "skip"

    names = csv.read_csv(BytesIO(header.encode() + b"\n")).column_names
    table = csv.read_csv(
        BytesIO(content),
        csv.ReadOptions(use_threads=False),  # rows are numbered by one thread only
        csv.ParseOptions(invalid_row_handler=skip),
        csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True),
    )
    return table.rename_columns([name.strip() for name in table.column_names]), ragged
