"""Rows <-> the bytes of a segment.

They are read in memory that the size of the file bounds: what it says about itself may be absurd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scaleexp.errors import CorruptError
from scaleexp.schema import SegmentRef, Table, arrow_schema

Row = dict[str, Any]
Columns = dict[str, list[Any]]

MOST_ROWS_PER_BYTE = 64
"""More than any log holds, whose steps and samples differ in every row."""

FEW_BYTES = 1 << 20
"""A segment up to which one thread decodes it."""


def rows(
    content: bytes, reference: SegmentRef, columns: Sequence[str], file: object, only: tuple[str, str] | None = None
) -> pa.Table:
    """Those of the columns that a segment has, after its bytes were found to be those committed.

    Args:
        content: of the segment.
        reference: what its commit says about it.
        columns: to read.
        file: its name, for messages.
        only: (column, text): the rows that hold this text there; all if None.

    Raises:
        CorruptError: it holds more or fewer rows than its commit says, or than its bytes can hold, or is no Parquet.
    """
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content))
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        declared = {parquet.metadata.num_rows, sum(group.num_rows for group in groups)}
        if declared != {reference["rows"]} or max(declared) > MOST_ROWS_PER_BYTE * len(content):
            raise CorruptError(
                f"{file} declares {max(declared):,} rows in {len(content):,} bytes, and its commit "
                f"{reference['rows']:,}: restore it from a copy."
            )
        # Handing few rows to another thread takes longer than decoding them; a column that is not there is none.
        threads = len(content) > FEW_BYTES
        if only is None:
            return parquet.read(columns=list(columns), use_threads=threads)
        column, text = only
        if _is_throughout(groups, parquet.schema.names.index(column), text):
            return parquet.read(columns=list(columns), use_threads=threads)
        table = parquet.read(columns=[*columns, column], use_threads=threads)
        return table.filter(pc.equal(table[column], text)).select([c for c in columns if c in table.column_names])
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, CorruptError):
            raise
        raise CorruptError(f"{file} is no readable Parquet file ({error}): restore it from a copy.") from None


def _is_throughout(groups: Sequence[pq.RowGroupMetaData], index: int, text: str) -> bool:
    """Whether the statistics of a column say that every row holds one text, so that it need not be decoded."""
    known = (group.column(index).statistics for group in groups)
    return all(s and s.has_min_max and not s.null_count and s.min == text and s.max == text for s in known)


def conformed(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The wanted columns; a nullable one that an older writer did not know is null.

    Raises:
        CorruptError: one that every version of the log has is not there, or holds what it may not.
    """
    if table.schema.equals(wanted):
        return pa.Table.from_arrays(table.columns, schema=wanted)
    for field in wanted:
        if field.name not in table.column_names:
            if not field.nullable:
                raise CorruptError(f"a segment lacks the column {field.name}, which every version of the log has.")
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    try:
        return table.select(wanted.names).cast(wanted)
    except (pa.ArrowException, ValueError) as error:
        raise CorruptError(f"a segment holds what its columns may not ({error}).") from None


def table_of(table: Table, columns: Columns, constants: Mapping[str, Any]) -> pa.Table:
    """Rows of one table; `constants` are columns that repeat in every row."""
    arrow, rows = arrow_schema(table), len(columns["step"])
    arrays = [
        pa.repeat(pa.scalar(constants[f.name], f.type), rows)
        if f.name in constants
        else pa.array(columns[f.name], f.type)
        for f in arrow
    ]
    return pa.table(arrays, schema=arrow)


def encode(rows: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content
