"""Where runs come from: studies, tables of points, training curves; one module per kind, each giving `Sweep`s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from analysis.read import StudyLog, load
from analysis.sources.branches import branch_table
from analysis.sources.curve_sweeps import curve_sweeps
from analysis.sources.files import EVENTS, holds_curves
from analysis.sources.points import PLAIN, Columns, sweeps_of
from analysis.sources.studies import study_sweeps
from analysis.sources.table import SUFFIXES, read_table
from analysis.sweep import BRANCH, Sweep, group_text, pooled
from scaleexp import schema
from scaleexp.errors import ConfigError, NotEnoughDataError, StorageError

Source = str | Path | StudyLog
Kind = Literal["study", "table", "curves"]


def kind_of(source: Source, columns: Columns = PLAIN) -> Kind:
    """What a source is, by its name and its content.

    A table whose runs have several rows with values each holds curves.

    Raises:
        ConfigError: none of these.
    """
    if isinstance(source, StudyLog):
        return "study"
    if not str(source).strip():
        raise ConfigError("a SOURCE is empty: give a study directory, a table or files of curves.")
    path, remote = Path(source), "://" in str(source)
    foreign = not remote and path.exists() and not (path / schema.PLAN_DIR).is_dir()
    if foreign and _holds_curves(path, columns):
        return "curves"
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if remote:
            raise ConfigError(
                f"{source} is a table on an object store: copy it here first; studies are read from there."
            )
        return "table"
    if path.is_file() and not remote:
        raise ConfigError(
            f"{source} is neither a study nor a table nor a file of curves: give the directory that `scaleexp run` "
            f"wrote, a file that ends in {', '.join(SUFFIXES)}, trainer_state.json or TensorBoard event files."
        )
    return "study"


def kinds_of(sources: Sequence[Source], columns: Columns = PLAIN) -> tuple[Kind, ...]:
    """What each source is; a file is read to find out, so that this is asked once.

    Raises:
        ConfigError: none of what is known, one source twice, or an option of tables or curves where there are none.
    """
    _refuse_twice(sources)
    kinds = tuple(kind_of(source, columns) for source in sources)
    check_meaning(set(kinds), columns)
    return kinds


def _refuse_twice(sources: Sequence[Source]) -> None:
    """The same runs twice are not twice as many seeds."""
    places = [source.path if isinstance(source, StudyLog) else str(source) for source in sources]
    resolved = [place if "://" in place else str(Path(place).resolve()) for place in places]
    for i, place in enumerate(resolved):
        if place in resolved[:i]:
            raise ConfigError(f"{places[i]} is given twice, and its runs would count twice: give every source once.")


def _holds_curves(path: Path, columns: Columns) -> bool:
    """Whether it does; what is foreign by its name is not read to find out, and what cannot be read is told later."""
    suffix = path.suffix.lower()
    if not (path.is_dir() or EVENTS in path.name or suffix in SUFFIXES or suffix in (".json", ".jsonl", ".ndjson")):
        return False
    with suppress(ConfigError, StorageError):
        return holds_curves(path, columns.run or "run", columns.batch)
    return False


def load_sweeps(
    sources: Sequence[Source],
    columns: Columns = PLAIN,
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
    with_traces: bool = False,
    with_branches: bool = False,
    kinds: Sequence[Kind] | None = None,
) -> tuple[Sweep, ...]:
    """Every group of every source.

    What is grouped by a column is pooled over sources; without one each source is a group by its name.

    Args:
        sources: study directories or their addresses, CSV or Parquet files of points, files of curves; those of curves
            are runs of one source.
        columns: what the columns of tables mean, and what to group by in any source.
        targets: for studies and curves, values of the metric.
        metric: for studies, one that the plan has a target for; for curves, one that is logged.
        with_traces: whether the evaluations of every run are wanted as well.
        with_branches: whether tables and curves are of branches, of which each point is a group.
        kinds: from `kinds_of`, where it was asked already.

    Raises:
        ConfigError: a source that is neither, or that does not hold what it has to.
        StorageError: a study that cannot be read.
    """
    kinds = kinds or kinds_of(sources, columns)
    targets = tuple(dict.fromkeys(targets))  # against one target given twice every run would be pooled with itself
    if with_branches:
        return _branches(sources, kinds, columns, targets, metric)
    found: list[tuple[Sweep, ...]] = []
    curves: list[str | Path] = []
    for source, kind in zip(sources, kinds, strict=True):
        if isinstance(source, StudyLog) or kind == "study":
            log = source if isinstance(source, StudyLog) else load(source, metric)
            own = study_sweeps(log, columns.group_by, targets=targets, metric=metric, with_traces=with_traces)
            found.append(own)
        elif kind == "curves":
            curves.append(source)
        else:
            found.append(_table(source, columns, targets, metric))
    if curves:
        found.append(curve_sweeps(curves, columns, targets=targets, metric=metric, with_traces=with_traces))
    if not all(found):
        raise NotEnoughDataError("no run of a source has an evaluation of the metric yet, so there is nothing to fit.")
    if columns.group_by or len(found) == 1:
        _refuse_copies(found)
        return pooled(chain.from_iterable(found))
    return _by_source(found)


def _refuse_copies(found: Sequence[tuple[Sweep, ...]]) -> None:
    """A table and a copy of it are not twice as many seeds."""
    seen: dict[object, object] = {}
    for sweeps in found:
        told = sweeps[0].provenance
        other = seen.setdefault(told.get("sha256", told.get("path")), told.get("path"))
        if other != told.get("path"):
            raise ConfigError(
                f"{told.get('path')} holds the same bytes as {other}, and its runs would count twice: give one of them."
            )


def _by_source(found: Sequence[tuple[Sweep, ...]]) -> tuple[Sweep, ...]:
    """Each source a group by its name."""
    names = told_apart([(_name(sweeps[0]), str(sweeps[0].provenance["path"])) for sweeps in found])
    return tuple(
        replace(sweep, group={"study" if sweep.is_study else "table": name, **sweep.group})
        for name, sweeps in zip(names, found, strict=True)
        for sweep in sweeps
    )


def _branches(
    sources: Sequence[Source], kinds: Sequence[Kind], columns: Columns, targets: Sequence[float], metric: str | None
) -> tuple[Sweep, ...]:
    """Every group and branch point of tables and curves of branches."""
    if "study" in kinds:
        raise ConfigError(
            "--definition branched compares branches from one checkpoint, which a study does not hold: give a table "
            f"of them ({BRANCH}, batch_size, loss, seed) or their curves with a column {BRANCH}."
        )
    if targets or columns.direction != "min":
        raise ConfigError("--definition branched compares losses after equal samples: leave --target, --direction out.")
    of_kind = {k: [s for s, kind in zip(sources, kinds, strict=True) if kind == k] for k in ("table", "curves")}
    found = [branch_table(read_table(str(source)), columns, metric) for source in of_kind["table"]]
    if of_kind["curves"]:
        by = replace(columns, group_by=(*columns.group_by, BRANCH))
        curves = [str(source) for source in of_kind["curves"]]
        found.append(curve_sweeps(curves, by, metric=metric, with_traces=True))
    together = pooled(chain.from_iterable(found)) if columns.group_by or len(found) == 1 else _by_source(found)
    order = list(dict.fromkeys(group_text({**sweep.group, BRANCH: ""}) for sweep in together))
    return tuple(
        sorted(together, key=lambda s: (order.index(group_text({**s.group, BRANCH: ""})), float(s.group[BRANCH])))
    )


def check_meaning(kinds: Set[Kind], columns: Columns) -> None:
    """Refuse what no source takes.

    Raises:
        ConfigError: an option of tables or curves where there are none.
    """
    of_curves = replace(columns, run=None, run_pattern=None, batch_size=None, lr=None, direction=PLAIN.direction)
    if kinds == {"study"} and columns != Columns(group_by=columns.group_by):
        raise ConfigError(
            "--unit, --batch-size, --lr, --run-pattern, --direction and the --...-column options say what tables and "
            "curves mean; no SOURCE is one."
        )
    if "curves" not in kinds and columns != of_curves:
        raise ConfigError(
            "--run-column, --run-pattern, --batch-size, --lr and --direction say what curves mean; no SOURCE holds any."
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
    if targets or metric:
        raise ConfigError(
            f"{path} holds what runs took to a target that they met already, so --target and --metric cannot choose "
            "one; group by a column that tells the targets apart."
        )
    return sweeps_of(file, columns)
