"""Segments that a commit adds are small; several of them become one, so that what a commit lists stays short.

A trial that commits every 30 s for a week would list twenty thousand segments of each table in every commit, hundreds
of gigabytes of names alone. As in a log-structured merge tree (O'Neil et al. 1996, doi:10.1007/s002360050048), every
`FAN_IN` neighbours of one level become one of the next, unless that would be longer than a segment may be. What was
merged stays where it is, so every earlier commit is as whole as before; a row is written once per level.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaleexp import schema

FAN_IN = 16
MOST_ROWS = 100_000
"""Of a segment: about 4 MB compressed, which bounds a writer's memory."""


def due(
    segments: Sequence[schema.SegmentRef], table: schema.Table, most_rows: int = MOST_ROWS
) -> list[schema.SegmentRef]:
    """The newest segments of a table if they should become one; else none.

    Args:
        segments: of a commit, in the order in which they were written.
        table: whose.
        most_rows: of a segment.

    >>> def written(n, rows): return [schema.SegmentRef(file="", table="steps", sha256="", rows=rows)] * n
    >>> [len(due(written(n, 10), "steps", 1000)) for n in (15, 16)], due(written(16, 100), "steps", 1000)
    ([0, 16], [])
    """
    newest = [s for s in segments if s["table"] == table][-FAN_IN:]
    alike = len(newest) == FAN_IN and len({s.get("level", 0) for s in newest}) == 1
    return newest if alike and sum(s["rows"] for s in newest) <= most_rows else []


def replaced(
    segments: Sequence[schema.SegmentRef], old: Sequence[schema.SegmentRef], new: schema.SegmentRef
) -> list[schema.SegmentRef]:
    """The list of a commit with one segment for several, in the place of the last of them."""
    gone = {s["file"] for s in old}
    kept: list[schema.SegmentRef] = []
    for s in segments:
        if s["file"] == old[-1]["file"]:
            kept.append(new)
        elif s["file"] not in gone:
            kept.append(s)
    return kept
