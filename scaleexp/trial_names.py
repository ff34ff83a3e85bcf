"""What the files of a trial are called, so that a name tells who wrote it; what has another name is somebody else's.

    segments/a001-f0003-0007-steps.parquet    rows: attempt 1 of the trial, under lease 3, its seventh file
    checkpoints/a001-f0003-0004.pt            the state of commit 4
    steps.parquet                             all rows of a table, by whoever ends the trial in the first run
    steps-a001-f0003.parquet                  all rows of a table, by a later attempt or run

No two runs write the same name, so one that was followed by another can take back what it wrote and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from scaleexp import schema

_TABLES = "|".join(schema.TABLES)
_WRITER = r"a\d{3,}(?:-f\d{4,})?"
_OWN = re.compile(
    rf"{schema.SEGMENTS_DIR}/{_WRITER}-\d{{4,}}-(?:{_TABLES})\.parquet"
    rf"|{schema.CHECKPOINTS_DIR}/{_WRITER}-\d{{4,}}\.pt"
    rf"|(?:{_TABLES})(?:-{_WRITER})?\.parquet"
)
_ATTEMPT = re.compile(r"(?:^|-)a(\d{3,})\b")


def prefix(attempt: int, fence: int | None) -> str:
    """Of the files of one attempt, under the lease of this number if there is one.

    >>> prefix(1, 3), prefix(0, None)
    ('a001-f0003', 'a000')
    """
    return f"a{attempt:03d}" + (f"-f{fence:04d}" if fence is not None else "")


def whole_tables(table: schema.Table, attempt: int, fence: int | None) -> list[str]:
    """Names for all rows of a table, the first that is free to be taken; the plain one belongs to the first run.

    >>> whole_tables("steps", 0, 1), whole_tables("steps", 1, 3)
    (['steps.parquet', 'steps-a000-f0001.parquet'], ['steps-a001-f0003.parquet'])
    """
    own = f"{table}-{prefix(attempt, fence)}.parquet"
    return [f"{table}.parquet", own] if fence in (None, 1) else [own]


def is_ours(file: str) -> bool:
    """Whether a file, relative to the trial's directory, has a name that a run gives to rows or states.

    >>> [is_ours(f) for f in ("steps.parquet", "steps-mine.parquet", "segments/a000-0001-evals.parquet")]
    [True, False, True]
    """
    return _OWN.fullmatch(file) is not None


def attempts(files: Iterable[str]) -> list[int]:
    """Of those files whose names tell it, the attempt that wrote each.

    >>> attempts(["segments/a002-0001-evals.parquet", "steps.parquet"])
    [2]
    """
    found = (_ATTEMPT.search(file.rpartition("/")[2]) for file in files)
    return [int(match.group(1)) for match in found if match]
