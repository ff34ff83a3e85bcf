"""The newest plan of a study and the newest commit of a trial that are whole, after every sha256 was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeVar, cast

from scaleexp import schema
from scaleexp.errors import CorruptError, MissingError, StorageError
from scaleexp.integrity import check_bytes, check_commit, check_shape, newest_whole, numbered, opened
from scaleexp.schema import Commit, PlanFile, SegmentRef, TrialFacts
from scaleexp.storage import Store

T = TypeVar("T")
Names = Callable[[str], list[str]]
"""Lists a directory of the study."""


class TrialLog(NamedTuple):
    """One trial (or one further realisation of it) as committed.

    A tuple: thousands are sent from the processes that read them, which takes a dataclass four times as long.

    Attributes:
        key: directory name, `id` or `id@realisation`.
        facts: trial.json.
        commit: the last commit that is whole; None when nothing was committed.
    """

    key: str
    facts: TrialFacts
    commit: Commit | None


def newest_plan(store: Store) -> tuple[PlanFile, list[str]]:
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


def newest_trial(
    store: Store, key: str, names: Names, use: Callable[[SegmentRef, bytes], Iterable[T]] = lambda bound, content: ()
) -> tuple[TrialLog | None, list[str], list[T]]:
    """A trial as of its newest commit that is whole.

    Args:
        store: the study.
        key: of the trial.
        names: lists a directory of the study.
        use: is given each segment of a commit and its bytes, once they are found to be those committed.

    Returns:
        The trial, None before it began; what is wrong with the commits after that one; what `use` made of its segments.
    """
    directory = f"{schema.TRIALS_DIR}/{key}"
    if store.remote:
        _inside(store, directory)
        if schema.TRIAL_FILE not in names(directory):
            return None, [], []
    try:
        facts = cast(TrialFacts, _decode(store, f"{directory}/{schema.TRIAL_FILE}", TrialFacts)[0])
    except MissingError:
        if schema.TRIAL_FILE in names(directory):
            raise
        return None, [], []
    if schema.trial_key(facts["trial_id"], facts["realisation"]) != key:
        raise CorruptError(f"its {schema.TRIAL_FILE} is that of trial {facts['trial_id']}: restore it from a copy.")
    commits = f"{directory}/{schema.COMMITS_DIR}"
    listings = chain([names], repeat(store.names))
    found, problems = newest_whole(
        lambda: _numbered(store, commits, next(listings)), lambda name: _commit(store, key, name, use)
    )
    if found is None and problems:
        raise problems[0]
    commit, used = found or (None, [])
    said = [f"trial {key}: {p} Its commit {commit['number']:04d} is used instead." for p in problems if commit]
    return TrialLog(key=key, facts=facts, commit=commit), said, used


def _commit(
    store: Store, key: str, name: str, use: Callable[[SegmentRef, bytes], Iterable[T]]
) -> tuple[Commit, list[T]]:
    """A commit that is whole, and what `use` makes of its segments."""
    value, file = _decode(store, name, Commit)
    commit = cast(Commit, value)
    check_commit(commit, key, name.rpartition("/")[2], file)
    return commit, [one for bound in commit["segments"] for one in use(bound, verified(store, key, bound))]


def _inside(store: Store, name: str) -> str:
    """Where a file of the study is."""
    try:
        return store.where(name)
    except StorageError as error:
        raise CorruptError(f"{error}.") from None


def _numbered(store: Store, directory: str, names: Names) -> dict[int, str]:
    """Number -> name of the numbered JSON files in a directory of the study."""
    try:
        found = names(directory)
    except StorageError:
        _inside(store, directory)
        raise
    return {number: f"{directory}/{name}" for number, name in numbered(found).items()}


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


def verified(store: Store, key: str, bound: SegmentRef) -> bytes:
    """The bytes of a segment, never decoded before their hash is what the commit bound."""
    content, file = _read(store, f"{schema.TRIALS_DIR}/{key}/{bound['file']}")
    return check_bytes(content, bound["sha256"], file)
