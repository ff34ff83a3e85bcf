"""Where an export goes: whose directory it is, and files that appear whole.

A marker in the directory says what was exported and the sha256 of every file. It names new files before they appear,
so that an export that was killed at any moment can be done again, and is never taken for somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analysis.export.exported import Format
from analysis.read import StudyLog
from scaleexp import schema
from scaleexp.errors import ConfigError
from scaleexp.redact import redact

MARKER = "scaleexp-export.json"
VERSION = 1
_OTHER = "give another --out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """What a directory says about the export that it holds.

    Attributes:
        format, study: what was exported, and from what.
        trials: keys of the trials exported.
        rows: rows of each table.
        content: of each file, a digest of the rows that it was written from.
        files: of each file, every sha256 that it may have: while a new one takes its place there are two.
    """

    format: str
    study: str
    schema_version: int = VERSION
    trials: Sequence[str] = ()
    rows: dict[str, int] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)


def claim(out: Path, to: Format, log: StudyLog) -> Marker:
    """What the directory holds of this export so far; an empty marker for a directory that is new or empty.

    Raises:
        ConfigError: it holds something else.
    """
    name = redact(log.plan["study"])
    new = Marker(format=to, study=name)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: {_OTHER}.")
    if not (out / MARKER).exists():
        others = [] if not out.is_dir() else sorted(p.name for p in out.iterdir() if not is_temporary(p.name))
        if others:
            raise ConfigError(f"{out} holds files that no export wrote (first: {others[0]}): {_OTHER}.")
        return new
    try:
        held = Marker(**json.loads((out / MARKER).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ConfigError(f"{out / MARKER} was not written by this version: {_OTHER}.") from None
    planned = {schema.trial_key(t["trial_id"], t["realisation"]) for t in log.plan["trials"]}
    if held.format != to:
        raise ConfigError(
            f"{out} holds the {held.format} export of {held.study!r}, and one of {to} is wanted: {_OTHER}."
        )
    if held.study != name or not set(held.trials) <= planned:
        raise ConfigError(f"{out} holds the {held.format} export of another study, {held.study!r}: {_OTHER}.")
    return held


def check_own(out: Path, held: Marker) -> None:
    """Refuse where a file that an export wrote is no longer what it wrote.

    Raises:
        ConfigError: someone changed it, or put another in its place.
    """
    for name, known in held.files.items():
        file = out / name
        if file.exists() and sha256_of(file) not in known:
            raise ConfigError(
                f"{file} was changed after it was exported and would be overwritten: move it away, or {_OTHER}."
            )


def write_marker(out: Path, marker: Marker) -> None:
    """Replace the marker, as a whole."""
    text = json.dumps(asdict(marker), indent=1)
    staged(out, MARKER, lambda file: _write(file, text)).replace(out / MARKER)


def staged(out: Path, name: str, write: Callable[[Path], None]) -> Path:
    """A whole file under a temporary name beside its later one, on disk; nothing is left where writing it failed."""
    final = out / name
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
    except BaseException:
        with suppress(OSError):  # what went wrong is told by what was raised
            temporary.unlink()
        raise
    return temporary


def is_temporary(name: str) -> bool:
    """Whether a file is one that a killed export left.

    >>> is_temporary(f".{uuid.uuid4().hex}.tmp"), is_temporary("notes.tmp")
    (True, False)
    """
    return name.startswith(".") and name.endswith(".tmp") and len(name) == 37


def sweep(out: Path) -> None:
    """Remove what killed exports left in a directory."""
    for file in out.iterdir() if out.is_dir() else ():
        if is_temporary(file.name) and file.is_file():
            file.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """Of a file's bytes, a block at a time."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def commit_number(commit: Any) -> int:  # noqa: ANN401 - a commit, or None
    """Number of a trial's commit; 0 before the first."""
    return int(commit["number"]) if commit else 0


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
