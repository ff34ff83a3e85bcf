"""Read a study directory: only what commits bind, after its sha256 was checked.

Where the newest plan, or the newest commit of a trial, is corrupt or binds something that is, the newest one before it
that is whole is used, and `problems` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from scaleexp import schema, segment
from scaleexp.at_once import each
from scaleexp.errors import CorruptError, MissingError, StorageError
from scaleexp.integrity import check_bytes, check_commit, check_shape, newest_whole, numbered, opened
from scaleexp.schema import Commit, PlanFile, SegmentRef, TrialFacts
from scaleexp.storage import Store

Names = Callable[[str], list[str]]
"""Lists a directory of the study."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialLog:
    """One trial (or one further realisation of it) as committed.

    Attributes:
        key: directory name, `id` or `id@realisation`.
        facts: trial.json.
        commit: the last commit that is whole; None when nothing was committed.
    """

    key: str
    facts: TrialFacts
    commit: Commit | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLog:
    """A study directory.

    Attributes:
        path: its directory, an absolute path or the address of one.
        plan: the newest plan that is whole.
        trials: every trial of the plan that has a trial.json and a commit that is whole, or none yet, in plan order.
        problems: what was left out, or used instead, because something is missing or corrupt.
        evaluated: metric -> its evaluations, once something has asked for them (see `analysis.evaluations`).
    """

    path: str
    plan: PlanFile
    trials: tuple[TrialLog, ...]
    problems: tuple[str, ...]
    evaluated: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


def load(path: str | Path) -> StudyLog:
    """Read the plan, the facts and the last commit of every planned trial, and check every segment's sha256.

    A trial whose last commit is not whole is read as of the newest one that is, and left out where none is; `problems`
    names what is corrupt or missing and what is used instead. Rows are decoded later, on demand.

    Args:
        path: a study directory, or the address of one on an object store.

    Raises:
        StorageError: not a study directory, nothing committed yet, or a log of a newer version.
        CorruptError: every plan or every committed trial is corrupt.
    """
    if Path(path).is_file():
        raise StorageError(
            f"{path} is a file, not a study directory: give the directory that `scaleexp run` wrote; tables of points "
            "are for `fit` and `scaling`."
        )
    store = Store(path)
    plan, problems = _plan(store)
    keys = [schema.trial_key(planned["trial_id"], planned["realisation"]) for planned in plan["trials"]]
    begun = set(store.names(schema.TRIALS_DIR))
    names = store.listing(schema.TRIALS_DIR, count=len(begun))

    def read(key: str) -> tuple[TrialLog | None, list[str]] | CorruptError:
        try:
            return _trial(store, key, names) if key in begun else (None, [])
        except CorruptError as error:
            return error

    trials: list[TrialLog] = []
    waiting = 0
    for key, found in zip(keys, each(read, keys), strict=True):
        if isinstance(found, CorruptError):
            problems.append(f"trial {key} is left out: {found}")
        elif found[0] is None:
            waiting += 1
        else:
            trials.append(found[0])
            problems += found[1]
    begun_problems = len(problems)
    if waiting:
        problems.append(f"{waiting} of {len(plan['trials'])} planned trials have not begun.")
    if not any(trial.commit for trial in trials):
        if begun_problems:
            raise CorruptError(f"no trial of {path} can be read; the first problem: {problems[0]}")
        raise StorageError(f"{path} holds a plan and no committed trial yet; run it, or wait for its first commit.")
    return StudyLog(path=store.root, plan=plan, trials=tuple(trials), problems=tuple(problems))


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


def _plan(store: Store) -> tuple[PlanFile, list[str]]:
    """The newest plan that is whole, and what is wrong with those after it."""
    files = _numbered(store, schema.PLAN_DIR, store.names)
    if not files:
        there = store.remote or store.results.is_dir()
        got = f"it holds no {schema.PLAN_DIR}/*.json" if there else "there is no such directory"
        raise StorageError(
            f"{store.root} is not a study directory: {got}; give the directory that `scaleexp run` wrote."
        )
    plan, problems = newest_whole(lambda: files, lambda name: _decode(store, name, PlanFile)[0])
    if plan is None:
        raise problems[0]
    used = f"Plan {sorted(files)[-1 - len(problems)]:04d} is used instead."
    return cast(PlanFile, plan), [f"{problem} {used}" for problem in problems]


def _trial(store: Store, key: str, names: Names) -> tuple[TrialLog | None, list[str]]:
    """A trial as of its newest commit that is whole, None before it began, and what is wrong with those after it."""
    directory = f"{schema.TRIALS_DIR}/{key}"
    _inside(store, directory)
    if store.remote and schema.TRIAL_FILE not in names(directory):
        return None, []
    try:
        facts = cast(TrialFacts, _decode(store, f"{directory}/{schema.TRIAL_FILE}", TrialFacts)[0])
    except MissingError:
        if schema.TRIAL_FILE in names(directory):
            raise
        return None, []
    if schema.trial_key(facts["trial_id"], facts["realisation"]) != key:
        raise CorruptError(f"its {schema.TRIAL_FILE} is that of trial {facts['trial_id']}: restore it from a copy.")
    commits = f"{directory}/{schema.COMMITS_DIR}"
    listings = chain([names], repeat(store.names))
    commit, problems = newest_whole(
        lambda: _numbered(store, commits, next(listings)), lambda name: _commit(store, key, name)
    )
    if commit is None and problems:
        raise problems[0]
    said = [f"trial {key}: {p} Its commit {commit['number']:04d} is used instead." for p in problems if commit]
    return TrialLog(key=key, facts=facts, commit=commit), said


def _commit(store: Store, key: str, name: str) -> Commit:
    """A commit that is whole."""
    value, file = _decode(store, name, Commit)
    commit = cast(Commit, value)
    check_commit(commit, key, name.rpartition("/")[2], file)
    for bound in commit["segments"]:
        _verified(store, key, bound)
    return commit


def _inside(store: Store, name: str) -> str:
    """Where a file of the study is."""
    try:
        return store.where(name)
    except StorageError as error:
        raise CorruptError(f"{error}.") from None


def _numbered(store: Store, directory: str, names: Names) -> dict[int, str]:
    """Number -> name of the numbered JSON files in a directory of the study."""
    _inside(store, directory)
    return {number: f"{directory}/{name}" for number, name in numbered(names(directory)).items()}


def _read(store: Store, name: str) -> tuple[bytes, str]:
    """The bytes of a file, and where it is."""
    file = _inside(store, name) if store.remote else f"{store.root}/{name}"
    try:
        return store.read(name), file
    except FileNotFoundError:
        raise MissingError(f"{file} cannot be read (it is not there): restore it from a copy.") from None
    except StorageError as error:
        if store.remote:
            raise  # an object store that cannot be reached has lost nothing
        _inside(store, name)
        raise CorruptError(f"{file} cannot be read ({error}): restore it from a copy.") from None


def _decode(store: Store, name: str, shape: type[Any]) -> tuple[dict[str, Any], str]:
    """A JSON object with at least the fields of a TypedDict, and where it is."""
    content, file = _read(store, name)
    value = opened(content, file)
    check_shape(value, shape, file)
    return value, file


def _verified(store: Store, key: str, bound: SegmentRef) -> bytes:
    """The bytes of a segment, never decoded before their hash is what the commit bound."""
    content, file = _read(store, f"{schema.TRIALS_DIR}/{key}/{bound['file']}")
    return check_bytes(content, bound["sha256"], file)


def read_table(log: StudyLog, name: schema.Table, columns: list[str], keys: Collection[str] | None) -> pa.Table:
    """Every committed row of a table, in the named columns only, of the named trial keys or of all.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    tables = of_segments(log, name, columns, keys, lambda _, rows: rows)
    return pa.concat_tables(tables) if tables else _wanted(name, columns).empty_table()


def of_segments(
    log: StudyLog,
    name: schema.Table,
    columns: list[str],
    keys: Collection[str] | None,
    use: Callable[[TrialLog, pa.Table], T],
) -> list[T]:
    """What `use` makes of each segment of a table, in order; it is called in threads, and only what it gives is kept.

    Args:
        log: the study.
        name: of the table.
        columns: those that are decoded.
        keys: of the trials that are read; all if None.
        use: is given the trial and the committed rows of one of its segments.

    Raises:
        CorruptError: a segment changed since `load`.
    """
    wanted, store = _wanted(name, columns), Store(log.path)

    def used(of: tuple[TrialLog, SegmentRef]) -> T:
        trial, bound = of
        try:
            content = _verified(store, trial.key, bound)
        except MissingError as error:
            raise CorruptError(f"{error} If the study runs, it was merged meanwhile: read the study again.") from None
        return use(trial, segment.conformed(segment.rows(content, bound, columns, bound["file"]), wanted))

    return each(used, list(_segments(log, name, keys)))


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
