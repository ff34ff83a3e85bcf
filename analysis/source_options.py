"""Options that say how a source is read and its groups are fitted, alike for every command that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypedDict

import click

from analysis.defaults import AGGREGATES, LOSSES, Aggregate, Loss

if TYPE_CHECKING:
    from analysis.sources.points import Columns

_TABLE = "of a table:"
_CURVES = "of curves:"

_OPTIONS = (
    click.option(
        "--target",
        "targets",
        type=float,
        multiple=True,
        help="Value of the metric of a study or of curves, repeatable.",
    ),
    click.option("--metric", help="Metric of the target; the plan's first if left out."),
    click.option("--batch-column", default="batch_size", show_default=True, help=f"{_TABLE} the global batch size."),
    click.option("--steps-column", help=f"{_TABLE} optimizer steps to target; steps if it is there."),
    click.option("--samples-column", help=f"{_TABLE} samples to target; samples if it is there."),
    click.option("--cost-column", help=f"{_TABLE} anything proportional to samples, with --unit."),
    click.option("--unit", help="What --cost-column, or the batch size of curves, counts; a column unit says it too."),
    click.option("--run-column", help=f"{_CURVES} what names the run; run if left out."),
    click.option(
        "--run-pattern", metavar="REGEX", help=f"{_CURVES} finds (?P<batch_size>..), lr, seed, .. in run names."
    ),
    click.option("--batch-size", type=click.IntRange(min=1), help=f"{_CURVES} global batch of every run."),
    click.option("--lr", type=float, help=f"{_CURVES} peak learning rate of every run."),
    click.option(
        "--direction", type=click.Choice(["min", "max"]), default="min", help=f"{_CURVES} which way is better."
    ),
    click.option(
        "--aggregate", type=click.Choice(AGGREGATES), default="robust", show_default=True, help="Of one batch's runs."
    ),
    click.option(
        "--loss", type=click.Choice(LOSSES), default="linear", show_default=True, help="Of the curve's log residuals."
    ),
)


class Said(TypedDict):
    """What these options say, by their names."""

    targets: tuple[float, ...]
    metric: str | None
    batch_column: str
    steps_column: str | None
    samples_column: str | None
    cost_column: str | None
    unit: str | None
    run_column: str | None
    run_pattern: str | None
    batch_size: int | None
    lr: float | None
    direction: Literal["min", "max"]
    aggregate: Aggregate
    loss: Loss


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; its function takes them as `**said: Unpack[Said]`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def names_of(text: str) -> tuple[str, ...]:
    """Columns that an option names, between commas.

    >>> names_of("n_params, optimizer")
    ('n_params', 'optimizer')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def columns_of(group_by: str, said: Said) -> Columns:
    """What they and --group-by say of columns and names."""
    from analysis.sources.points import Columns

    return Columns(
        group_by=names_of(group_by),
        batch=said["batch_column"],
        steps=said["steps_column"],
        samples=said["samples_column"],
        cost=said["cost_column"],
        unit=said["unit"],
        run=said["run_column"],
        batch_size=said["batch_size"],
        lr=said["lr"],
        run_pattern=said["run_pattern"],
        direction=said["direction"],
    )
