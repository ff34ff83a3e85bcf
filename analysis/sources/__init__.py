"""Where runs come from: studies, tables of points; one module per kind of source, each giving `Sweep`s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from analysis.read import StudyLog, load
from analysis.sources.points import PLAIN, Columns, sweeps_of
from analysis.sources.studies import study_sweeps
from analysis.sources.table import SUFFIXES, read_table
from analysis.sweep import Sweep, pooled
from scaleexp.errors import ConfigError

Source = str | Path | StudyLog


def kind_of(source: Source) -> Literal["study", "table"]:
    """What a source is, by its name and by whether it is a directory.

    Raises:
        ConfigError: neither a study nor a table.
    """
    if isinstance(source, StudyLog):
        return "study"
    path, remote = Path(source), "://" in str(source)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if remote:
            raise ConfigError(
                f"{source} is a table on an object store: copy it here first; studies are read from there."
            )
        return "table"
    if path.is_file() and not remote:
        raise ConfigError(
            f"{source} is neither a study nor a table: give the directory that `scaleexp run` wrote, or a file that "
            f"ends in {', '.join(SUFFIXES)}."
        )
    return "study"


def load_sweeps(
    sources: Sequence[Source],
    columns: Columns = PLAIN,
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
) -> tuple[Sweep, ...]:
    """Every group of every source.

    What is grouped by a column is pooled over sources; without one each source is a group by its name.

    Args:
        sources: study directories or their addresses, CSV or Parquet files of points.
        columns: what the columns of tables mean, and what to group by in any source.
        targets: for studies, values of the metric.
        metric: for studies, one that the plan has a target for.

    Raises:
        ConfigError: a source that is neither, or that does not hold what it has to.
        StorageError: a study that cannot be read.
    """
    found: list[tuple[Sweep, ...]] = []
    for source in sources:
        if isinstance(source, StudyLog) or kind_of(source) == "study":
            log = source if isinstance(source, StudyLog) else load(source)
            found.append(study_sweeps(log, columns.group_by, targets=targets, metric=metric))
        else:
            found.append(_table(source, columns, targets, metric))
    if columns.group_by or len(sources) == 1:
        return pooled(chain.from_iterable(found))
    names = told_apart([(_name(sweeps[0]), str(sweeps[0].provenance["path"])) for sweeps in found])
    return tuple(
        replace(sweep, group={"study" if sweep.is_study else "table": name})
        for name, sweeps in zip(names, found, strict=True)
        for sweep in sweeps
    )


def told_apart(named: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each (name, path): the path where a name occurs twice.

    >>> told_apart([("a", "x/a"), ("b", "x/b"), ("a", "y/a")])
    ['x/a', 'b', 'y/a']
    """
    often = Counter(name for name, _ in named)
    return [name if often[name] == 1 else path for name, path in named]


def _name(sweep: Sweep) -> str:
    return str(sweep.provenance["study"]) if sweep.is_study else Path(str(sweep.provenance["path"])).stem


def _table(path: str | Path, columns: Columns, targets: Sequence[float], metric: str | None) -> tuple[Sweep, ...]:
    file = read_table(path)
    if {"run", "value"} <= set(file.columns):
        # PLACE OF curves: a long table of evaluations, which its importer turns into runs against targets.
        raise ConfigError(f"{path} has columns 'run' and 'value', so it holds curves; they are not read yet.")
    if targets or metric:
        raise ConfigError(
            f"{path} holds what runs took to a target that they met already, so --target and --metric cannot choose "
            "one; group by a column that tells the targets apart."
        )
    return sweeps_of(file, columns)
