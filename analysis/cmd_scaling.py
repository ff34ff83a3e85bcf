"""The command `scaling`."""

from __future__ import annotations

import json
from typing import Literal

import click

from analysis.cmd_fit import fit
from analysis.defaults import CONFIDENCE, DELTA, Aggregate

_OF_THE_SOURCE = (
    "batch_column",
    "steps_column",
    "samples_column",
    "cost_column",
    "unit",
    "run_column",
    "run_pattern",
    "batch_size",
    "lr",
    "direction",
    "targets",
    "metric",
    "aggregate",
)
"""Options that say how a source is read and a group is fitted, as `fit` has them."""


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--against", metavar="COL[,COL]", required=True, help="One or two columns of numbers, or target.")
@click.option("--group-by", metavar="COL[,COL]", default="", help="What tells groups apart; --against if left out.")
@click.option("--definition", type=click.Choice(["b_crit", "overhead"]), default="b_crit", show_default=True)
@click.option("--overhead", type=float, default=DELTA, show_default=True, help="More steps than linear scaling.")
@click.option(
    "--reference-batch", type=click.IntRange(min=1), help="Of --overhead; the smallest of all groups if left out."
)
@click.option("--confidence", type=float, default=CONFIDENCE, show_default=True, help="Of every interval.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def scaling(
    sources: tuple[str, ...],
    against: str,
    group_by: str,
    definition: str,
    overhead: float,
    reference_batch: int | None,
    confidence: float,
    seed: int,
    as_json: bool,
    batch_column: str,
    steps_column: str | None,
    samples_column: str | None,
    cost_column: str | None,
    unit: str | None,
    run_column: str | None,
    run_pattern: str | None,
    batch_size: int | None,
    lr: float | None,
    direction: Literal["min", "max"],
    targets: tuple[float, ...],
    metric: str | None,
    aggregate: Aggregate,
) -> None:
    """Fit how the critical batch size grows with model size, data or target, a power law over groups of SOURCE.

    SOURCE is what `fit` takes, or a CSV or Parquet table of fits: a column b_crit, the columns of --against, and, if
    there, b_crit_low, b_crit_high and status.
    """
    from analysis.fit_options import FitOptions
    from analysis.scaling import LawOptions, document, laws_of
    from analysis.sources.points import Columns

    options = FitOptions(
        aggregate=aggregate, confidence=confidence, seed=seed, delta=overhead, reference_batch=reference_batch
    )
    columns = Columns(
        group_by=_names(group_by),
        batch=batch_column,
        steps=steps_column,
        samples=samples_column,
        cost=cost_column,
        unit=unit,
        run=run_column,
        batch_size=batch_size,
        lr=lr,
        run_pattern=run_pattern,
        direction=direction,
    )
    wanted = LawOptions(against=_names(against), definition=definition, fit=options)
    laws = laws_of(sources, wanted, columns, targets=targets, metric=metric)
    text = "\n\n".join(law.text() for law in laws)
    click.echo(json.dumps(document(laws), indent=2, allow_nan=False) if as_json else text)


scaling.params += [param for param in fit.params if param.name in _OF_THE_SOURCE]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
