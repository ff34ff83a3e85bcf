"""A study as tables, CSV or Parquet: `steps`, `evals`, `trials`, and `layers` where the study logged them.

A table is written anew when commits bind other rows than it was written from, and takes the place of the old one whole.
Numbers keep every digit: CSV has the shortest decimals that give the same 64-bit floats; null is an empty field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from analysis.export.exported import Exported
from analysis.export.facts import facts_table
from analysis.export.place import VERSION, Marker, check_own, claim, sha256_of, staged, sweep, write_marker
from analysis.export.rows import BLOCK_ROWS, blocks, digest, rows_of
from analysis.read import StudyLog
from scaleexp import schema
from scaleexp.redact import redact

Kind = Literal["csv", "parquet"]
README = "README.md"


def export_tables(log: StudyLog, out: Path, kind: Kind) -> Exported:
    """Bring the tables in a directory up to date.

    Raises:
        ConfigError: the directory holds something else, or a table was changed since it was exported.
        CorruptError: a segment changed since the study was loaded.
    """
    held = claim(out, kind, log)
    check_own(out, held)
    sweep(out)
    tables = _tables(log)
    rows = {table: rows_of(log, table) for table in tables} | {"trials": len(log.trials)}
    trials = facts_table(log.trials)
    content = {f"{table}.{kind}": f"{VERSION} {digest(log, table)}" for table in tables}
    content |= {f"trials.{kind}": _digest_of(trials), README: _digest_of_text(_readme(log, tables, trials, kind))}
    stale = [name for name, now in content.items() if held.content.get(name) != now or not (out / name).exists()]
    if stale:
        out.mkdir(parents=True, exist_ok=True)
        try:
            new = {name: _stage(log, out, name, trials, kind) for name in stale}
        except BaseException:
            sweep(out)  # of files that are whole where a later one is not
            raise
        _put(out, held, new, Marker(
            format=kind, study=held.study, trials=tuple(t.key for t in log.trials), rows=rows, content=content
        ))  # fmt: skip
    return Exported(
        format=kind,
        out=out,
        study=held.study,
        rows=rows,
        added={table: max(0, n - held.rows.get(table, 0)) for table, n in rows.items()},
        files=tuple(stale),
        left_out=log.problems,
    )


def _tables(log: StudyLog) -> tuple[schema.Table, ...]:
    return ("steps", "evals", "layers") if rows_of(log, "layers") else ("steps", "evals")


def _stage(log: StudyLog, out: Path, name: str, trials: pa.Table, kind: Kind) -> Path:
    """A file's new content under a temporary name."""
    table = name.partition(".")[0]
    if name == README:
        text = _readme(log, _tables(log), trials, kind)
        return staged(out, name, lambda file: cast(None, file.write_text(text, encoding="utf-8")))
    if table == "trials":
        return staged(out, name, partial(_write_rows, iter([trials]), trials.schema, kind))
    rows = blocks(log, cast(schema.Table, table))
    return staged(out, name, partial(_write_rows, rows, schema.arrow_schema(cast(schema.Table, table)), kind))


def _write_rows(rows: Iterator[pa.Table], arrow: pa.Schema, kind: Kind, file: Path) -> None:
    if kind == "csv":
        with pa.csv.CSVWriter(file, arrow) as csv:
            for block in rows:
                csv.write_table(block)
    else:
        with pq.ParquetWriter(file, arrow, compression="zstd") as parquet:
            for block in rows:
                parquet.write_table(block, row_group_size=BLOCK_ROWS)


def _put(out: Path, held: Marker, new: dict[str, Path], marker: Marker) -> None:
    """Give whole files their names, between a marker that knows old and new and one that knows the new alone."""
    sums = {name: sha256_of(file) for name, file in new.items()}
    both = {name: [*known, sums[name]] if name in sums else known for name, known in held.files.items()}
    both = {name: [total] for name, total in sums.items()} | both
    write_marker(out, replace(held, files=both, content={}))
    for name, file in new.items():
        file.replace(out / name)
    write_marker(out, replace(marker, files={name: known[-1:] for name, known in both.items()}))


def _digest_of(table: pa.Table) -> str:
    return _digest_of_text(f"{table.schema}{table.to_pylist()}")


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(f"{VERSION} {text}".encode()).hexdigest()


def _readme(log: StudyLog, tables: tuple[schema.Table, ...], trials: pa.Table, kind: Kind) -> str:
    """What the columns are, with units."""
    unit = log.plan["unit"]
    lines = [f"# {redact(log.plan['study'])}", "", redact(log.plan["question"]), ""]
    lines += [
        f"Tables of this study, exported by `scaleexp-analysis export`; a sample is one {unit or 'sample'}. Join rows "
        "to trials by `trial_id` and `realisation`.",
        "",
    ]
    for table in tables:
        lines += [f"## {table}.{kind}", ""]
        lines += [f"- `{c.name}`{f' [{c.unit}]' if c.unit else ''}: {c.doc}" for c in schema.TABLES[table]]
        lines += [""]
    units = [(field.name, field.metadata[b"unit"].decode()) for field in trials.schema]
    lines += [f"## trials.{kind}", "", "What each trial is, how it stands (`status`, `step`, `samples`) and how it was"]
    lines += ["realised; settings within settings have dotted names.", ""]
    lines += [f"- `{name}`{f' [{one}]' if one else ''}" for name, one in units]
    return "\n".join(lines) + "\n"
