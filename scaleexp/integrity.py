"""What a file of a study must be before anything in it is believed: inside the study, and the bytes that were written.

A JSON file carries its own checksum in two fields: `checked_by`, its first, and `sha256`, its last, over the rest in
canonical form (keys sorted, no spaces, ASCII). Files of versions before it have neither. One that has either must have
both, so damage to one of them never passes for an earlier version. Later versions keep both as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from scaleexp import schema
from scaleexp.errors import CorruptError, MissingError, StorageError

MARK, CHECKSUM = "checked_by", "sha256"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_NUMBERED = re.compile(r"([0-9]{4}|[1-9][0-9]{4,})\.json")

T = TypeVar("T")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.

    >>> list(sealed({"step": 3}))
    ['checked_by', 'step', 'sha256']
    """
    assert not {MARK, CHECKSUM} & content.keys()
    plain = {MARK: CHECKSUM, **json.loads(json.dumps(content, allow_nan=False))}  # as it will be read
    return {**plain, CHECKSUM: _checksum(plain)}


def opened(content: bytes, file: object) -> dict[str, Any]:
    """The JSON object of a file, without its checksum.

    Args:
        content: of the file.
        file: its name, for messages.

    Raises:
        CorruptError: no JSON object, or not the one that was written.
        StorageError: one of a later version.

    >>> opened(json.dumps(sealed({"step": 3})).encode(), "x.json")
    {'step': 3}
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{file} cannot be decoded ({error}): restore it from a copy.") from None
    if not isinstance(value, dict):
        raise CorruptError(f"{file} holds a {type(value).__name__} and no JSON object: restore it from a copy.")
    if MARK in value or CHECKSUM in value:
        claimed = value.pop(CHECKSUM, None)
        found = _checksum(value)
        if found != claimed:
            said = f"not {str(claimed)[:12]}" if claimed else "and its checksum is gone"
            raise CorruptError(f"{file} is not what was written: sha256 {found[:12]}, {said}: restore it from a copy.")
        value.pop(MARK, None)
    version = value.get("schema_version")
    if isinstance(version, int) and version > schema.SCHEMA_VERSION:
        raise StorageError(
            f"{file} was written in log version {version} and this installation reads up to "
            f"{schema.SCHEMA_VERSION}: upgrade scaleexp to read it."
        )
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def check_bytes(content: bytes, sha256: str, file: object) -> bytes:
    """Content that a commit bound, as it is.

    Raises:
        CorruptError: it is another.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CorruptError(
            f"{file} is not what was committed: sha256 {found[:12]}, not {sha256[:12]}: restore it from a copy."
        )
    return content


def leads_out(root: Path, name: str, looked_at: set[str] | None = None) -> bool:
    """Whether a file's name leads out of a study directory, or may: by `..`, by starting at /, over a symbolic link.

    Args:
        root: the study directory.
        name: of the file, relative to it.
        looked_at: directories in it that were found to be no links, and are not looked at again; it grows.

    >>> [leads_out(Path("/study"), n) for n in ("trials/a/trial.json", "../x", "/etc/passwd", "a/../../x")]
    [False, True, True, True]
    """
    directory, _, last = name.rpartition("/")
    if looked_at is not None and directory in looked_at and last not in ("", "..") and last.isprintable():
        parts, place = [last], f"{root}/{directory}"
    else:
        parts, place = [part for part in name.split("/") if part], str(root)
        if name.startswith("/") or ".." in parts or not f"{name} ".isprintable():
            return True
    try:
        for part in parts:
            place = f"{place}/{part}"
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return True
    except (FileNotFoundError, NotADirectoryError):  # and so nothing is below it
        return False
    except OSError:  # a name that no file can have
        return True
    if looked_at is not None:
        looked_at.add(directory)
    return False


def numbered(names: Iterable[str]) -> dict[int, str]:
    """Number -> name of the numbered JSON files among some names; no other file counts as one.

    Names are padded to four digits, so a number of five must not sort before `9999`.

    >>> numbered(["0001.json", "10000.json", "0002.json.corrupt", "2.json"])
    {1: '0001.json', 10000: '10000.json'}
    """
    matches = (_NUMBERED.fullmatch(name) for name in names)
    return {int(match.group(1)): match.group(0) for match in matches if match}


def newest_whole(
    listed: Callable[[], Mapping[int, str]], read: Callable[[str], T]
) -> tuple[T | None, list[CorruptError]]:
    """What the newest file that is whole holds, and what is wrong with those after it.

    Of files that are missing only the newest is told: what binds a removed file is followed by what does without it.

    Args:
        listed: number -> name, as of now.
        read: content of a name; raises CorruptError where it, or what it binds, is not whole.

    >>> newest_whole(lambda: {1: "0001.json", 2: "0002.json"}, {"0001.json": 5, "0002.json": 7}.__getitem__)
    (7, [])
    """
    files: Mapping[int, str] = {}
    while True:
        before, files = files, listed()
        whole, problems = None, list[CorruptError]()
        for number in sorted(files, reverse=True):
            try:
                whole = read(files[number])
                break
            except CorruptError as error:
                problems.append(error)
        if not problems or files == before:  # else a writer may have gone on meanwhile, and removed what it merged
            return whole, [p for i, p in enumerate(problems) if i == 0 or not isinstance(p, MissingError)]


def check_shape(value: object, shape: type[Any], file: object) -> None:
    """Refuse a JSON value that lacks a field of a TypedDict, or has one of another type.

    Raises:
        CorruptError: it does.
    """
    problem = _check(cast(Hashable, shape))(value)
    if problem:
        (what, where), lacking = problem, problem[0].startswith("lacks")
        at = where.removeprefix(".")
        raise CorruptError(f"{file} {what if lacking and not at else f'{what} at {at}'}: restore it from a copy.")


def check_commit(commit: schema.Commit, key: str, name: str, file: object) -> None:
    """Refuse a commit that is another's: of another trial, or of another number.

    Raises:
        CorruptError: it is.
    """
    if (commit["key"], commit["number"]) != (key, int(name.removesuffix(".json"))):
        raise CorruptError(
            f"{file} holds commit {commit['number']} of trial {commit['key']}, which is another file: "
            "restore it from a copy."
        )


_Problem = tuple[str, str]
"""What is wrong with a JSON value, and at which place inside it."""
_Check = Callable[[Any], _Problem | None]
_ELSE: _Problem = ("has another type", "")


@cache
def _check(hint: Hashable) -> _Check:
    """What tells a JSON value's problem by the annotation of its field; made once, for a study has many files."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: None
    if is_typeddict(hint):
        return _check_typed_dict(hint)
    if origin in (Union, UnionType):
        alternatives = [_check(one) for one in inner]
        return lambda value: None if type(value) in inner or any(not check(value) for check in alternatives) else _ELSE
    if origin is Literal:
        return lambda value: None if isinstance(value, str) and value in inner else (f"says {value!r}", "")
    if origin in (list, dict):
        return _check_list(_check(inner[0])) if origin is list else _check_dict(_check(inner[1]))
    plain: Any = {float: (int, float), None: NoneType}.get(cast(Any, hint), hint)
    return lambda value: None if isinstance(value, plain) and not isinstance(value, bool) else _ELSE


def _check_list(check: _Check) -> _Check:
    """The same, of a list all of whose values have one type."""

    def problem(value: Any) -> _Problem | None:  # noqa: ANN401  # whatever a JSON file holds
        if not isinstance(value, list):
            return _ELSE
        for i, item in enumerate(value):
            if found := check(item):
                return found[0], f"[{i}]{found[1]}"
        return None

    return problem


def _check_dict(check: _Check) -> _Check:
    """The same, of a dictionary all of whose values have one type."""

    def problem(value: Any) -> _Problem | None:  # noqa: ANN401  # whatever a JSON file holds
        if not isinstance(value, dict):
            return _ELSE
        for name, item in value.items():
            if found := check(item):
                return found[0], f".{name}{found[1]}"
        return None

    return problem


def _check_typed_dict(shape: Hashable) -> _Check:
    """The same, of a TypedDict; `__required_keys__` misses NotRequired under postponed annotations."""
    hints = get_type_hints(shape, include_extras=True)
    required = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}
    plain = {n: get_args(h)[0] if get_origin(h) is NotRequired else h for n, h in hints.items()}
    # Most values have just the type of their field, and asking that is faster than any call.
    fields = [(name, hint, _check(hint)) for name, hint in plain.items()]

    def problem(value: Any) -> _Problem | None:  # noqa: ANN401  # whatever a JSON file holds
        if not isinstance(value, dict):
            return _ELSE
        if not required <= value.keys():
            return f"lacks {', '.join(sorted(required - value.keys()))}", ""
        for name, hint, check in fields:
            if name in value and type(value[name]) is not hint and (found := check(value[name])):
                return found[0], f".{name}{found[1]}"
        return None

    return problem
