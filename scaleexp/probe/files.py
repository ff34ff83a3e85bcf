"""A probe on disk: one JSON file with all of it, and two Parquet tables of every repeat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaleexp.errors import StorageError
from scaleexp.simulate.sources import PROBE_FILE

MEASUREMENTS_FILE, ALL_REDUCE_FILE = "measurements.parquet", "all_reduce.parquet"


def write(directory: Path, document: Mapping[str, Any], all_reduce: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write it, the JSON last, so that what it is complete with is there; the files.

    Raises:
        StorageError: it cannot be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tables = {MEASUREMENTS_FILE: document["measurements"], ALL_REDUCE_FILE: all_reduce}
        for name, rows in tables.items():
            if rows:
                pq.write_table(pa.Table.from_pylist(list(rows)), directory / name)
        path = directory / PROBE_FILE
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise StorageError(
            f"the probe cannot be written to {directory} ({error.strerror}): give another --out."
        ) from None
    return [directory / name for name in (PROBE_FILE, *(n for n, rows in tables.items() if rows))]
