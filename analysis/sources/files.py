"""Files of training curves: what each of them is, by its content, and its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from analysis.sources import huggingface, long_table, tensorboard, wandb
from analysis.sources.logged import Logged, Named, Source
from analysis.sources.tables import PARQUET_MAGIC, read_table
from analysis.sources.tfevents import begins_as_events
from scaleexp.errors import ConfigError, StorageError

Kind = Literal["table", "wandb", "huggingface", "tensorboard"]
EVENTS = "tfevents"


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Everything that was read.

    Attributes:
        runs: of all files.
        sources: each file and its kind.
        rows: file -> records read from it.
        problems: one sentence for each thing left out or taken to mean something.
    """

    runs: Sequence[Logged]
    sources: Sequence[tuple[Source, Kind]]
    rows: Mapping[Path, int]
    problems: Sequence[str]


def read_files(paths: Sequence[Path], named: Named) -> Files:
    """Every run of files and directories, all of one kind.

    Raises:
        ConfigError: nothing there, of no known kind, or of several.
        StorageError: a file cannot be read.
    """
    if not paths:
        raise ConfigError("no file was given: name at least one.")
    sources = [Source(path=file, content=_content(file)) for path in paths for file in _below(path)]
    kinds: list[Kind] = []
    problems: list[str] = []
    tables: list[tuple[Source, pa.Table]] = []
    for source in sources:
        kind = _kind_without_table(source)
        if kind is None:
            table, said = read_table(source)
            problems += said
            tables.append((source, table))
            kind = "wandb" if wandb.is_history(table) else "table"
        kinds.append(kind)
    if len(set(kinds)) > 1:
        of_kind = {kind: source.path for source, kind in zip(sources, kinds, strict=True)}
        some = ", ".join(f"{path} ({kind})" for kind, path in of_kind.items())
        raise ConfigError(f"curves of several kinds are there: {some}; give those of one kind at a time.")
    reading = {
        "table": lambda: long_table.read(tables, named),
        "wandb": lambda: wandb.read(tables, named),
        "huggingface": lambda: huggingface.read(sources, named),
        "tensorboard": lambda: tensorboard.read(sources, named),
    }[kinds[0]]()
    if kinds[0] == "tensorboard" and not any(run.series for run in reading.runs):
        some = ", ".join(str(source.path) for source in sources[:3])
        raise ConfigError(f"the TensorBoard event files ({some}) hold no scalar: give those of a run that logged one.")
    used = [(source, kind) for source, kind in zip(sources, kinds, strict=True) if source.path in reading.rows]
    return Files(runs=reading.runs, sources=used, rows=reading.rows, problems=[*problems, *reading.problems])


def holds_curves(path: Path, run_column: str = "run", batch_column: str = "batch_size") -> bool:
    """Whether a file or directory is one for `read_files`, and not a table of measured points, one row per run.

    Raises:
        ConfigError: of no kind that is known.
        StorageError: a file cannot be read.
    """
    if path.is_dir():
        return any(path.rglob(f"*{EVENTS}*")) or any(path.rglob(huggingface.FILE))
    source = Source(path=path, content=_content(path))
    if _kind_without_table(source) is not None:
        return True
    table, _ = read_table(source)
    return wandb.is_history(table) or long_table.has_curves(table, run_column, batch_column)


def _kind_without_table(source: Source) -> Kind | None:
    """What a file is, unless one has to see its columns to tell."""
    if EVENTS in source.path.name or begins_as_events(source.content):
        return "tensorboard"
    opening = source.content.lstrip()[:1]
    if opening == b"{" and huggingface.MARK.encode() in source.content:
        return "huggingface"
    if not source.content.strip():
        raise ConfigError(f"{source.path} is empty: give a file that holds training curves.")
    if b"\0" in source.content[:4096] and not source.content.startswith(PARQUET_MAGIC):
        raise ConfigError(
            f"{source.path} is of no kind that is known: give a CSV or Parquet table, trainer_state.json, TensorBoard "
            "event files or a W&B history."
        )
    return None


def _below(path: Path) -> list[Path]:
    """The file, or the event files or trainer states below a directory."""
    if not path.is_dir():
        return [path]
    events = sorted(file for file in path.rglob(f"*{EVENTS}*") if file.is_file())
    states = sorted(path.rglob(huggingface.FILE))
    if events and states:
        raise ConfigError(
            f"{path} holds both {huggingface.FILE} and TensorBoard event files: name the files of one of the two."
        )
    if not events and not states:
        raise ConfigError(
            f"{path} is a directory without TensorBoard event files or {huggingface.FILE}: name the files to read."
        )
    return events or states


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror}): give a file that can.") from None
