"""Look at every file of a study: is it whole, does anything bind it, and what to do where it is not.

Nothing is changed, moved or removed, and nothing is decoded before its checksum was found to be right. A study may be
run meanwhile: a trial that seems to lack something is looked at again until two looks in a row see the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaleexp import lease, schema, segment, trial_names
from scaleexp.checkpoint import decode
from scaleexp.errors import MissingError, StorageError
from scaleexp.integrity import check_bytes, check_commit, check_shape, numbered, opened
from scaleexp.storage import Store

Kind = Literal["corrupt", "missing", "twice", "note"]
RESTORE = "restore it from a copy"
_MOST_LOOKS = 20
"""At one trial: its writer commits twice a minute at most, unless it is told to hurry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing about one file.

    Attributes:
        file: relative to the study directory.
        kind: corrupt (not what was written), missing (bound and not there), twice (merged into another file since, so
            that other tools count its rows twice), note (nothing is wrong with what counts).
        problem: what is wrong, in a sentence without its end.
        remedy: what to do about it.
    """

    file: str
    kind: Kind
    problem: str
    remedy: str


def verify(store: Store) -> list[Finding]:
    """Everything that is wrong with a study's files, and what lies about that nothing needs, by file.

    Args:
        store: a study.

    Returns:
        One finding per file at most; those that are whole and needed have none.

    Raises:
        StorageError: the directory could not be read.
    """
    found: dict[str, Finding] = {}
    for finding in _everything(store):
        found.setdefault(finding.file, finding)
    return sorted(found.values(), key=lambda f: (f.kind == "note", f.file))


def whole(findings: list[Finding]) -> bool:
    """Whether a study is as it was written: notes do not count."""
    return all(finding.kind == "note" for finding in findings)


def _everything(store: Store) -> Iterator[Finding]:
    yield from _object(store, schema.STUDY_FILE, None, f"{RESTORE}; the newest plan repeats what it says")
    for number, name in numbered(store.names(schema.PLAN_DIR)).items():
        remedy = f"{RESTORE}; without one, readers use the plan before it" if number > 1 else RESTORE
        yield from _object(store, f"{schema.PLAN_DIR}/{name}", schema.PlanFile, remedy)
    for name in store.names(schema.MEMORY_DIR):
        yield from _object(store, f"{schema.MEMORY_DIR}/{name}", None, "remove it: what does not fit is noted again")
    for name in store.names(schema.LEASE_DIR):
        for finding in _object(
            store, f"{schema.LEASE_DIR}/{name}", None, "leave it: the next run waits and takes over"
        ):
            if finding.kind != "missing":  # a sign of life is followed by the next
                yield finding
    for key in store.names(schema.TRIALS_DIR):
        yield from _settled(store, key)
    if not store.remote:
        for scrap in sorted(store.path("").rglob(".*.tmp")):
            yield _unneeded(_name(store, scrap), "a write that never ended left it")


def _settled(store: Store, key: str) -> list[Finding]:
    """What is wrong with a trial and still is at a second look: its writer merges files and removes what it merged."""
    found = list(_trial(store, key))
    for _ in range(_MOST_LOOKS):
        if not any(finding.kind in ("missing", "twice") for finding in found):
            break
        before, found = found, list(_trial(store, key))
        if found == before:
            break
    return found


def _trial(store: Store, key: str) -> Iterator[Finding]:
    """What is wrong with a trial: its facts, its commits from the newest on, what they bind, and what none binds."""
    directory = f"{schema.TRIALS_DIR}/{key}"
    anew = f"{RESTORE}; without one, rename it, and the next run writes it anew"
    numbers = numbered(store.names(f"{directory}/{schema.COMMITS_DIR}"))
    if _there(store, f"{directory}/{schema.TRIAL_FILE}") or _began(store, directory, list(numbers.values())):
        yield from _object(store, f"{directory}/{schema.TRIAL_FILE}", schema.TrialFacts, anew)
    seen: set[tuple[str, str]] = set()
    counting: set[str] = set()
    counts = True  # the newest commit that can be read; what earlier ones bind may have been merged or removed since
    for number in sorted(numbers, reverse=True):
        file = f"{directory}/{schema.COMMITS_DIR}/{numbers[number]}"
        try:
            commit: Any = _read_object(store, file, schema.Commit)
            check_commit(commit, key, numbers[number], file)
        except StorageError as error:
            yield _wrong(file, error, _go_back(file))
            continue
        for reference in _references(commit):
            bound = (f"{directory}/{reference['file']}", reference["sha256"])
            if bound not in seen and (counts or _there(store, bound[0])):
                yield from _bound(store, bound[0], reference, _go_back(file))
            seen.add(bound)
            counting |= {bound[0]} if counts else set()
        counts = False
    files = {file for file, _ in seen}
    for place in (f"{directory}/{schema.SEGMENTS_DIR}", f"{directory}/{schema.CHECKPOINTS_DIR}"):
        for name in store.names(place):
            if f"{place}/{name}" not in files:
                yield _unneeded(f"{place}/{name}", "no commit that is whole binds it, so nothing reads it")
    for name in store.names(directory):
        if name.endswith(".parquet") and f"{directory}/{name}" not in counting:
            yield _beside(store, directory, name)


def _beside(store: Store, directory: str, name: str) -> Finding:
    """About a table in a trial's directory that its newest commit does not bind."""
    file = f"{directory}/{name}"
    if not trial_names.is_ours(name):
        if not name.startswith(tuple(schema.TABLES)):
            return _unneeded(file, "no run of a study gives such a name, so nothing reads it")
        problem = "no run of a study gives such a name, and other tools count its rows too"
        return Finding(file=file, kind="twice", problem=problem, remedy="move it out of the study")
    if (number := lease.newest(store)) and lease.may_live(store, number):
        return Finding(
            file=file,
            kind="note",
            problem="the newest commit does without it, and the study is being run",
            remedy="look again when nobody runs it: a commit to come binds it, or the run removes it at its end",
        )
    problem = "the newest commit does without it, and other tools count its rows twice"
    remedy = "run the study again, which removes it where all else of the trial is whole"
    return Finding(file=file, kind="twice", problem=problem, remedy=remedy)


def _began(store: Store, directory: str, commits: list[str]) -> bool:
    """Whether a trial has to have facts: one that could not even start has commits of nothing."""
    try:
        found = [_read_object(store, f"{directory}/{schema.COMMITS_DIR}/{name}", schema.Commit) for name in commits]
    except StorageError:
        return True
    return not found or any(commit["realisation"] for commit in found)


def _object(store: Store, file: str, shape: type[Any] | None, remedy: str) -> Iterator[Finding]:
    """What is wrong with a JSON file."""
    try:
        _read_object(store, file, shape)
    except StorageError as error:
        yield _wrong(file, error, remedy)


def _read_object(store: Store, file: str, shape: type[Any] | None) -> dict[str, Any]:
    value = opened(_read(store, file), file)
    if shape is not None:
        check_shape(value, shape, file)
    return value


def _bound(store: Store, file: str, reference: Any, remedy: str) -> Iterator[Finding]:  # noqa: ANN401  # either kind
    """What is wrong with a segment or a checkpoint that a commit binds."""
    try:
        content = check_bytes(_read(store, file), reference["sha256"], file)
        if "table" in reference:
            segment.rows(content, reference, [], file)
        else:
            decode(content)
    except StorageError as error:
        yield _wrong(file, error, remedy)


def _read(store: Store, file: str) -> bytes:
    try:
        return store.read(file)
    except FileNotFoundError:
        raise MissingError(f"{file} is not there") from None


def _there(store: Store, file: str) -> bool:
    directory, _, name = file.rpartition("/")
    return name in store.names(directory)


def _references(commit: schema.Commit) -> list[Any]:
    checkpoint = commit.get("checkpoint")
    return [*commit["segments"], *([checkpoint] if checkpoint else [])]


def _go_back(commit_file: str) -> str:
    return (
        f"{RESTORE}; without one, rename {commit_file} to {commit_file.rpartition('/')[2]}.corrupt and run the study "
        "again: the trial goes on from its newest commit that is whole"
    )


def _wrong(file: str, error: StorageError, remedy: str) -> Finding:
    said = str(error).removeprefix(file).strip().rstrip(".").removesuffix(f": {RESTORE}")
    kind: Kind = "missing" if isinstance(error, MissingError) else "corrupt"
    return Finding(file=file, kind=kind, problem=said, remedy=remedy)


def _unneeded(file: str, problem: str) -> Finding:
    return Finding(file=file, kind="note", problem=problem, remedy="none is needed; it may go while nothing runs")


def _name(store: Store, path: Path) -> str:
    return path.relative_to(store.path("")).as_posix()
