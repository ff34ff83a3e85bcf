"""The command `fit`."""

from __future__ import annotations

import json
from typing import Literal

import click

from analysis.defaults import AGGREGATES, CONFIDENCE, DEFINITIONS, DELTA, EPSILON, Aggregate, Definition

_TABLE = "of a table:"
_CURVES = "of curves:"


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--group-by", metavar="COL[,COL]", default="", help="One fit for each combination of values of these.")
@click.option(
    "--target", "targets", type=float, multiple=True, help="Value of the metric of a study or of curves, repeatable."
)
@click.option("--metric", help="Metric of the target; the plan's first if left out.")
@click.option("--batch-column", default="batch_size", show_default=True, help=f"{_TABLE} the global batch size.")
@click.option("--steps-column", help=f"{_TABLE} optimizer steps to target; steps if it is there.")
@click.option("--samples-column", help=f"{_TABLE} samples to target; samples if it is there.")
@click.option("--cost-column", help=f"{_TABLE} anything proportional to samples, with --unit.")
@click.option("--unit", help="What --cost-column, or the batch size of curves, counts; a column unit says it too.")
@click.option("--run-column", help=f"{_CURVES} what names the run; run if left out.")
@click.option("--run-pattern", metavar="REGEX", help=f"{_CURVES} finds (?P<batch_size>..), lr, seed, .. in run names.")
@click.option("--batch-size", type=click.IntRange(min=1), help=f"{_CURVES} global batch of every run.")
@click.option("--lr", type=float, help=f"{_CURVES} peak learning rate of every run.")
@click.option("--direction", type=click.Choice(["min", "max"]), default="min", help=f"{_CURVES} which way is better.")
@click.option("--definition", type=click.Choice(DEFINITIONS), default="curve", show_default=True)
@click.option(
    "--epsilon",
    type=float,
    default=EPSILON,
    show_default=True,
    help="Equal loss: share for equal-samples, in its unit for branched.",
)
@click.option("--half-life", type=float, help="Smoothing of curves of branches [samples]; a tenth if left out.")
@click.option("--figure", type=click.Path(dir_okay=False), help="PNG, SVG or PDF: branched batch against samples.")
@click.option("--overhead", type=float, default=DELTA, show_default=True, help="More steps than linear scaling.")
@click.option("--reference-batch", type=click.IntRange(min=1), help="Of --overhead; the smallest measured if left out.")
@click.option(
    "--aggregate", type=click.Choice(AGGREGATES), default="robust", show_default=True, help="Of one batch's runs."
)
@click.option("--confidence", type=float, default=CONFIDENCE, show_default=True, help="Of every interval.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--multiverse", is_flag=True, help="How B_crit moves over targets, crossings, aggregates, losses, ...")
@click.option("--methods", is_flag=True, help="A methods paragraph with its BibTeX, after the fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def fit(
    sources: tuple[str, ...],
    group_by: str,
    targets: tuple[float, ...],
    metric: str | None,
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
    definition: Definition,
    epsilon: float,
    half_life: float | None,
    figure: str | None,
    overhead: float,
    reference_batch: int | None,
    aggregate: Aggregate,
    confidence: float,
    seed: int,
    multiverse: bool,
    methods: bool,
    as_json: bool,
) -> None:
    """Fit the critical batch size of each SOURCE: a study directory, a table of points, or training curves.

    A table of points (CSV or Parquet) has one row per run: batch_size and one of steps or samples, and, if there, seed,
    lr, reached (false: not yet at that value), unit and columns to group by.

    Training curves are a long table (run, samples or steps, batch_size, value), trainer_state.json of Hugging Face,
    TensorBoard event files, or an export of a W&B history. They need --target, and --unit and --batch-size where they
    do not say.

    With --definition branched, a table has one row per branch from a checkpoint: branch_samples (where it began),
    batch_size, loss (at the end of the window, smoothed), and, if there, seed and columns to group by; curves have a
    column branch_samples, and a run for each branch.
    """
    from analysis.fits import FitOptions
    from analysis.fitting import fit_sources
    from analysis.sources.points import Columns
    from scaleexp.errors import ConfigError

    if group_by and not group_by.strip(" ,"):
        raise ConfigError(f"--group-by names no column, got {group_by!r}; leave it out to fit everything together.")
    options = FitOptions(
        definition=definition,
        aggregate=aggregate,
        confidence=confidence,
        seed=seed,
        delta=overhead,
        reference_batch=reference_batch,
        epsilon=epsilon,
        half_life=half_life,
    )
    columns = Columns(
        group_by=tuple(name.strip() for name in group_by.split(",") if name.strip()),
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
    found = fit_sources(
        sources, options, columns, targets=targets, metric=metric, multiverse=multiverse, methods=methods
    )
    if figure:
        from analysis.plot_local import draw_local

        click.echo(f"figure: {draw_local(found.fits, figure)}", err=True)
    click.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False) if as_json else found.text())
