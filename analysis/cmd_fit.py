"""The command `fit`."""

from __future__ import annotations

import json
from typing import Unpack

import click

from analysis.defaults import CONFIDENCE, DEFINITIONS, DELTA, EPSILON, Definition
from analysis.source_options import Said, columns_of, source_options


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--group-by", metavar="COL[,COL]", default="", help="One fit for each combination of values of these.")
@source_options
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
@click.option("--confidence", type=float, default=CONFIDENCE, show_default=True, help="Of every interval.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--multiverse", is_flag=True, help="How B_crit moves over targets, crossings, aggregates, losses, ...")
@click.option("--methods", is_flag=True, help="A methods paragraph with its BibTeX, after the fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def fit(
    sources: tuple[str, ...],
    group_by: str,
    definition: Definition,
    epsilon: float,
    half_life: float | None,
    figure: str | None,
    overhead: float,
    reference_batch: int | None,
    confidence: float,
    seed: int,
    multiverse: bool,
    methods: bool,
    as_json: bool,
    **said: Unpack[Said],
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
    from scaleexp.errors import ConfigError

    if group_by and not group_by.strip(" ,"):
        raise ConfigError(f"--group-by names no column, got {group_by!r}; leave it out to fit everything together.")
    options = FitOptions(
        definition=definition,
        aggregate=said["aggregate"],
        loss=said["loss"],
        confidence=confidence,
        seed=seed,
        delta=overhead,
        reference_batch=reference_batch,
        epsilon=epsilon,
        half_life=half_life,
    )
    found = fit_sources(
        sources,
        options,
        columns_of(group_by, said),
        targets=said["targets"],
        metric=said["metric"],
        multiverse=multiverse,
        methods=methods,
    )
    if figure:
        from analysis.plot_local import draw_local

        click.echo(f"figure: {draw_local(found.fits, figure)}", err=True)
    click.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False) if as_json else found.text())
