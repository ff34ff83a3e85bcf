"""Read a study directory: only what commits bind, after its sha256 was checked.

Where the newest plan, or the newest commit of a trial, is corrupt or binds something that is, the newest one before it
that is whole is used, and `problems` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis.plain_arrays import plain
from analysis.processes import each_file, each_part
from analysis.whole import TrialLog as TrialLog
from analysis.whole import newest_plan, newest_trial, verified
from scaleexp import schema, segment
from scaleexp.errors import CorruptError, MissingError, StorageError
from scaleexp.schema import PlanFile, SegmentRef
from scaleexp.storage import Store

T = TypeVar("T")
Decoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Samples seen, and values of one metric, of a segment; shape (evaluations,) each."""
_Read = tuple[TrialLog | None, list[str], list[tuple[SegmentRef, bytes]]]
_EVALUATION = ["samples", "value"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLog:
    """A study directory.

    Attributes:
        path: its directory, an absolute path or the address of one.
        plan: the newest plan that is whole.
        trials: every trial of the plan that has a trial.json and a commit that is whole, or none yet, in plan order.
        problems: what was left out, or used instead, because something is missing or corrupt.
        evaluated: metric -> its evaluations, once something has asked for them (see `analysis.evaluations`).
        decoded: metric -> (index into trials, evaluations) of each segment, where they were decoded with the checks.
    """

    path: str
    plan: PlanFile
    trials: tuple[TrialLog, ...]
    problems: tuple[str, ...]
    evaluated: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    decoded: dict[str, list[tuple[int, Decoded]]] = field(default_factory=dict, init=False, repr=False, compare=False)


def load(path: str | Path, metric: str | None = None) -> StudyLog:
    """Read the plan, the facts and the last commit of every planned trial, and check every segment's sha256.

    A trial whose last commit is not whole is read as of the newest one that is, and left out where none is; `problems`
    names what is corrupt or missing and what is used instead. The evaluations of one metric are decoded while their
    bytes are at hand, because nearly everything asks for them; all other rows later, on demand.

    Args:
        path: a study directory, or the address of one on an object store.
        metric: whose evaluations are decoded; that of the plan's first target if None.

    Raises:
        StorageError: not a study directory, nothing committed yet, or a log of a newer version.
        CorruptError: every plan or every committed trial is corrupt.
    """
    if Path(path).is_file():
        raise StorageError(
            f"{path} is a file, not a study directory: give the directory that `scaleexp run` wrote; tables of points "
            "are for `fit` and `scaling`."
        )
    store = Store(path, briefly=True)
    plan, problems = newest_plan(store)
    keys = [schema.trial_key(planned["trial_id"], planned["realisation"]) for planned in plan["trials"]]
    begun = set(store.names(schema.TRIALS_DIR))
    names = store.listing(schema.TRIALS_DIR, count=len(begun))

    metric = metric or next((target["metric"] for target in plan["targets"]), "")
    wanted = _wanted("evals", _EVALUATION)

    def read(key: str) -> _Read | CorruptError:
        try:
            return newest_trial(store, key, names, _evals) if key in begun else (None, [], [])
        except CorruptError as error:
            return error

    def decode(found: _Read | CorruptError) -> tuple[TrialLog | None, list[str], list[Decoded | None]] | CorruptError:
        if isinstance(found, CorruptError):
            return found
        return found[0], found[1], [_evaluations(metric, wanted, *bound) for bound in found[2]]

    def read_all(keys: Sequence[str]) -> list[tuple[TrialLog | None, list[str], list[Decoded | None]] | CorruptError]:
        return [decode(found) for found in [read(key) for key in keys]]

    trials: list[TrialLog] = []
    decoded: list[tuple[int, Decoded | None]] = []
    waiting = 0
    for key, found in zip(keys, each_part(read_all, keys, remote=store.remote), strict=True):
        if isinstance(found, CorruptError):
            problems.append(f"trial {key} is left out: {found}")
        elif found[0] is None:
            waiting += 1
        else:
            decoded += [(len(trials), evaluations) for evaluations in found[2]]
            trials.append(found[0])
            problems += found[1]
    begun_problems = len(problems)
    if waiting:
        problems.append(f"{waiting} of {len(plan['trials'])} planned trials have not begun.")
    if not any(trial.commit for trial in trials):
        if begun_problems:
            raise CorruptError(f"no trial of {path} can be read; the first problem: {problems[0]}")
        raise StorageError(f"{path} holds a plan and no committed trial yet; run it, or wait for its first commit.")
    log = StudyLog(path=store.root, plan=plan, trials=tuple(trials), problems=tuple(problems))
    known = [(i, evaluations) for i, evaluations in decoded if evaluations is not None]
    if len(known) == len(decoded):
        log.decoded[metric] = known
    return log


def _evals(bound: SegmentRef, content: bytes) -> list[tuple[SegmentRef, bytes]]:
    """Of the segments of a commit those with evaluations."""
    return [(bound, content)] if bound["table"] == "evals" else []


def _evaluations(metric: str, wanted: pa.Schema, bound: SegmentRef, content: bytes) -> Decoded | None:
    """Those of one metric in a segment; None if they cannot be decoded: who asks for them is told."""
    try:
        rows = segment.rows(content, bound, _EVALUATION, bound["file"], ("metric", metric))
        return _copied(segment.conformed(rows, wanted))
    except CorruptError:
        return None


def _copied(rows: pa.Table) -> Decoded:
    """Copies, so that what was decoded with them is given back."""
    return plain(rows["samples"]), plain(rows["value"])


def read_evaluations(log: StudyLog, metric: str) -> list[tuple[int, Decoded]]:
    """(index into its trials, evaluations of a metric) of each segment.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    if metric in log.decoded:
        return log.decoded[metric]
    index = {trial.key: i for i, trial in enumerate(log.trials)}
    return of_segments(
        log,
        "evals",
        _EVALUATION,
        None,
        lambda trial, rows: (index[trial.key], _copied(rows)),
        only=("metric", metric),
    )


def read_evals(log: StudyLog, metric: str | None = None) -> pa.Table:
    """Every committed evaluation, of one metric or of all, in the columns of `schema.EVALS`.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    table = read_table(log, "evals", [c.name for c in schema.EVALS], None)
    return table if metric is None else table.filter(pc.equal(table["metric"], metric))


def read_steps(log: StudyLog, columns: Sequence[str], keys: Collection[str] | None = None) -> pa.Table:
    """Every committed step, in the named columns only, of the named trial keys or of all.

    Raises:
        CorruptError: a segment changed since `load`.
        StorageError: a column that the contract does not have.
    """
    unknown = sorted(set(columns) - {c.name for c in schema.STEPS})
    if unknown:
        raise StorageError(
            f"the steps table has no column {', '.join(unknown)}; its columns are in scaleexp/schema.py."
        )
    return read_table(log, "steps", list(columns), keys)


def read_table(log: StudyLog, name: schema.Table, columns: list[str], keys: Collection[str] | None) -> pa.Table:
    """Every committed row of a table, in the named columns only, of the named trial keys or of all.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    tables = of_segments(log, name, columns, keys, lambda _, rows: rows, bulky=True)
    return pa.concat_tables(tables) if tables else _wanted(name, columns).empty_table()


def of_segments(
    log: StudyLog,
    name: schema.Table,
    columns: list[str],
    keys: Collection[str] | None,
    use: Callable[[TrialLog, pa.Table], T],
    only: tuple[str, str] | None = None,
    *,
    bulky: bool = False,
) -> list[T]:
    """What `use` makes of each segment of a table, in order; it is called in threads or in other processes.

    Args:
        log: the study.
        name: of the table.
        columns: those that are decoded.
        keys: of the trials that are read; all if None.
        use: is given the trial and the committed rows of one of its segments.
        only: (column, text): the rows that hold this text there; all if None.
        bulky: whether what `use` gives is much, so that sending it from process to process would cost more than it
            saves.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    wanted, store = _wanted(name, columns), Store(log.path, briefly=True)

    def used(of: tuple[TrialLog, SegmentRef]) -> T:
        trial, bound = of
        try:
            content = verified(store, trial.key, bound)
        except MissingError as error:
            raise CorruptError(f"{error} If the study runs, it was merged meanwhile: read the study again.") from None
        return use(trial, segment.conformed(segment.rows(content, bound, columns, bound["file"], only), wanted))

    return each_file(used, list(_segments(log, name, keys)), remote=store.remote, bulky=bulky)


def _wanted(name: schema.Table, columns: list[str]) -> pa.Schema:
    full = schema.arrow_schema(name)
    return pa.schema([full.field(column) for column in columns])


def _segments(log: StudyLog, name: str, keys: Iterable[str] | None) -> Iterator[tuple[TrialLog, SegmentRef]]:
    chosen = None if keys is None else set(keys)
    for trial in log.trials:
        if trial.commit is not None and (chosen is None or trial.key in chosen):
            for bound in trial.commit["segments"]:
                if bound["table"] == name:
                    yield trial, bound
