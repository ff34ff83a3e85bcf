"""The command `advise`: from a study or a fit to workers, batch, learning rate, time and money."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scaleexp.cmd_frontier import shared_options, terminal_width

if TYPE_CHECKING:
    from scaleexp.simulate.asked import Asked, Times
    from scaleexp.simulate.given_curve import GivenCurve


@click.command("advise")
@click.argument("source", metavar="STUDY|FITS.JSON")
@click.option("--gpus", default="1:64", show_default=True, help="A list, or the powers of two of a range.")
@shared_options
def advise_command(source: str, gpus: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """How many workers, what batch and learning rate, how long and for how much: one card.

    The argument is a study directory, or what `scaleexp-analysis fit --json` wrote. Step times come from the options,
    else from the study's own steps; without any, the answer is in steps and samples.
    """
    from scaleexp.simulate import advice
    from scaleexp.simulate.asked import inputs, of_options, times_of
    from scaleexp.simulate.decision import decide
    from scaleexp.simulate.learning_rate import learning_rate
    from scaleexp.simulate.quantities import worker_counts

    asked, counts = of_options(options), worker_counts(gpus, "--gpus")
    curve, own, price = _read(source, options["target"], options["group"])
    if asked.usd_per_hour is None and price is not None:
        asked = replace(asked, usd_per_hour=price)
    found = times_of(asked, curve) or own
    if found is None:
        _refuse_money(asked)
        rows = advice.steps_rows(curve, counts, confidence=asked.confidence, seed=asked.seed)
        lr = learning_rate(curve, advice.suggested(curve, rows).batch_size)
        lines, made = advice.lines_of_steps(curve, rows, lr, "GPU"), None
    else:
        made, rows = decide(inputs(asked, curve, found, counts, "GPU")), ()
        lines = advice.lines_of_decision(made)
    if as_json:
        document = advice.advice_document(curve, lines, made=made, rows=rows)
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        click.echo(advice.card(lines, terminal_width()))


def _read(source: str, target: float | None, group: tuple[str, ...]) -> tuple[GivenCurve, Times | None, float | None]:
    """The curve of a fit or of a study, and of a study its own step times and its price, where it has them."""
    from scaleexp.simulate.fits_file import of_document, read_fits

    if Path(source).is_file():
        return of_document(read_fits(source), source, target=target, group=group), None, None
    from analysis.output import fit_document
    from analysis.step_rows import step_rows
    from analysis.study import analyse
    from scaleexp.simulate.measured_steps import fitted_times, own_times

    study = analyse(source, target=target)
    curve = of_document(fit_document([study]), str(study.log.plan["study"]))
    price = study.log.plan.get("resolved", {}).get("price_usd_per_worker_hour")
    return curve, fitted_times(source) or own_times(step_rows(study.log)), price


def _refuse_money(asked: Asked) -> None:
    """A deadline or a budget cannot be kept to by who does not know what a step takes.

    Raises:
        ConfigError: one was asked for.
    """
    from scaleexp.errors import ConfigError
    from scaleexp.simulate.advice import NO_TIME

    if asked.deadline or asked.budget:
        raise ConfigError(f"a deadline or a budget means nothing with {NO_TIME}.")
