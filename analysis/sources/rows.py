"""The rows of a table by run, and what is constant in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analysis.sources.tables import words
from scaleexp.errors import ConfigError

Index = npt.NDArray[np.int64]

FACT_NAMES = {"learning_rate": "lr"}
"""Other names of what a run is told apart by."""


def by_run(table: pa.Table, column: str) -> tuple[dict[str | Path, Index], int]:
    """Run -> its rows in the order of the file, runs in the order of their first row; and the rows of no run."""
    names = words(table, column)
    known = np.flatnonzero(names != None)  # noqa: E711 - elementwise
    unique, first, codes = np.unique(names[known].astype(str), return_index=True, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    pieces = np.split(known[order], np.cumsum(np.bincount(codes, minlength=unique.size))[:-1])
    runs: dict[str | Path, Index] = {str(unique[i]): pieces[i] for i in np.argsort(first)} if unique.size else {}
    return runs, names.size - known.size


def constants(table: pa.Table, columns: Mapping[str, str], runs: Iterable[Index]) -> list[dict[str, object]]:
    """For each run the facts that do not change in it.

    Args:
        table: of all runs.
        columns: name of the fact -> its column.
        runs: rows of each run.

    Raises:
        ConfigError: a batch size, LR or unit that changes within a run.
    """
    rows = list(runs)
    found: list[dict[str, object]] = [{} for _ in rows]
    for fact, column in columns.items():
        encoded = table[column].combine_chunks().dictionary_encode()
        codes, values = encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()
        for facts, index in zip(found, rows, strict=True):
            here = codes[index]
            here = here[here >= 0]
            if not here.size:
                continue
            if here.min() == here.max():
                facts[fact] = values[here[0]]
            elif fact in ("batch_size", "lr", "unit"):
                seen = sorted({str(values[code]) for code in here})
                raise ConfigError(
                    f"column {column} changes within one run ({', '.join(seen[:3])}{', …' * (len(seen) > 3)}): a run "
                    "has one value of it; check the run column, or leave such runs out."
                )
    return found


def constant(table: pa.Table, column: str, runs: Iterable[Index]) -> bool:
    """Whether a column has one value in each run."""
    cells = words(table, column)
    return all(len({cell for cell in cells[index] if cell is not None}) < 2 for index in runs)
