"""The commands `simulate ...`: what other numbers of workers would take and cost."""

from __future__ import annotations

import click

from scaleexp.cmd_frontier import frontier_command


@click.group()
def simulate() -> None:
    """What a step, a run and its cost would be on workers that nobody has tried."""


simulate.add_command(frontier_command)
