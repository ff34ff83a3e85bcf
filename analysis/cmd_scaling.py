"""The command `scaling`."""

from __future__ import annotations

import json
from typing import Unpack

import click

from analysis.defaults import CONFIDENCE, DELTA
from analysis.source_options import Said, columns_of, names_of, source_options


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
@source_options
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
    **said: Unpack[Said],
) -> None:
    """Fit how the critical batch size grows with model size, data or target, a power law over groups of SOURCE.

    SOURCE is what `fit` takes, or a CSV or Parquet table of fits: a column b_crit, the columns of --against, and, if
    there, b_crit_low, b_crit_high and status.
    """
    from analysis.fit_options import FitOptions
    from analysis.scaling import LawOptions, document, laws_of

    options = FitOptions(
        aggregate=said["aggregate"],
        loss=said["loss"],
        confidence=confidence,
        seed=seed,
        delta=overhead,
        reference_batch=reference_batch,
    )
    wanted = LawOptions(against=names_of(against), definition=definition, fit=options)
    columns = columns_of(group_by, said)
    laws = laws_of(sources, wanted, columns, targets=said["targets"], metric=said["metric"])
    text = "\n\n".join(law.text() for law in laws)
    click.echo(json.dumps(document(laws), indent=2, allow_nan=False) if as_json else text)
