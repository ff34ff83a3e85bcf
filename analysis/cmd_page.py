"""The command `page`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="FRONTIER.JSON")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="HTML file; SOURCE with .html if left out."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def page(source: str, out: Path | None, as_json: bool) -> None:
    """Write a frontier as one HTML file in which deadline, price and failure rate can be moved.

    FRONTIER.JSON is what `scaleexp simulate frontier --json` or `scaleexp advise --json` wrote.
    """
    from analysis.frontier_file import read_frontier
    from analysis.frontier_page import write_page

    written = write_page(read_frontier(source), out or Path(source).with_suffix(".html"))
    document = {"schema_version": 1, "page": str(written)}
    click.echo(json.dumps(document, indent=2) if as_json else str(written))
