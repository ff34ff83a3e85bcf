"""A table between lines of text, for a terminal of any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table


def with_table(
    above: str, columns: Mapping[str, Sequence[str]], below: Sequence[str], *, dispensable: Sequence[str], width: int
) -> str:
    """Text, a table and more text in at most `width` columns; where that is narrow, columns of the table go.

    Args:
        above: the table.
        columns: header -> cells, one per row; no table where there are none.
        below: it, a paragraph each.
        dispensable: headers of the columns that go, the first to go first.
        width: of the terminal [columns].

    >>> print(with_table("Sizes:", {"name": ["one", "twelve"], "n": ["1", "12"]}, ["End."], dispensable=["name"],
    ...     width=8))
    Sizes:
    <BLANKLINE>
      n
     ──
      1
     12
    <BLANKLINE>
    End.
    """
    buffer = StringIO()
    console = Console(file=buffer, width=width, color_system=None, force_terminal=False, highlight=False)
    console.print(above, markup=False)
    if columns:
        console.print(_fitting(dict(columns), dispensable, console))
    for paragraph in below:
        console.print(paragraph, markup=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _fitting(columns: dict[str, Sequence[str]], dispensable: Sequence[str], console: Console) -> Table:
    table, without_end = _as_table(columns), console.options.update(width=10_000)
    for header in dispensable:
        if console.measure(table, options=without_end).maximum <= console.width:
            break
        columns.pop(header, None)
        table = _as_table(columns)
    return table


def _as_table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table
