"""The command `simulate frontier`, and the options that it shares with `advise`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from scaleexp.simulate.given_curve import GivenCurve

F = TypeVar("F", bound=Callable[..., Any])
_PIPED = 160
"""Columns of a table that no terminal shows."""

_TIMES = (
    click.option("--model", metavar="FILE", help="Step times: a model that `simulate fit` wrote."),
    click.option("--model-group", metavar="NAME", help="Which group of it, where it has several."),
    click.option(
        "--step-time", "step_time_s", type=float, metavar="S", help="Step times: one measured, in seconds, ..."
    ),
    click.option("--worker-batch", type=int, metavar="N", help="... of this many samples of a worker in a step."),
    click.option(
        "--hardware", metavar="NAME|FILE", help="Hardware profile: price, machine, and step times from its peaks."
    ),
    click.option("--parameters", type=float, metavar="N", help="Of the model, for step times from peaks."),
    click.option(
        "--flops-per-sample", type=float, metavar="F", help="Forward and backward; 6 per parameter for a token."
    ),
    click.option("--precision", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), help="Of the peaks."),
    click.option("--workers-per-node", type=int, metavar="N", help="Of a machine, where the profile does not say."),
    click.option(
        "--max-micro-batch", type=int, metavar="N", help="Samples that fit into memory at once; more accumulate."
    ),
)
_MONEY = (
    click.option("--usd-per-gpu-hour", "usd_per_hour", type=float, metavar="USD", help="Price of one worker."),
    click.option("--deadline", metavar="TIME", help="Be done within 24h, 90m or 2d: the cheapest that is."),
    click.option("--budget", type=float, metavar="USD", help="Pay at most this: the fastest that does."),
    click.option("--node-mtbf", metavar="TIME", help="Mean time between failures of one machine."),
    click.option("--spot-mtbf", metavar="TIME", help="Mean time until one machine is taken back."),
    click.option("--checkpoint-s", type=float, metavar="S", help="Seconds to save a checkpoint.  [default: 60]"),
    click.option(
        "--restart-s", type=float, metavar="S", help="Seconds from a failure to the next step.  [default: 300]"
    ),
    click.option("--target", type=float, metavar="V", help="Which of several fits: of this target."),
    click.option("--group", multiple=True, metavar="COL=V", help="Which of several fits: of this group."),
    click.option("--confidence", type=float, default=0.95, show_default=True, help="Of every interval."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in scaleexp/schemas."),
)


def shared_options(command: F) -> F:
    """Options on step times, machines, money and failures."""
    for option in reversed((*_TIMES, *_MONEY)):
        command = option(command)
    return command


@click.command("frontier")
@click.option("--curve", metavar="FILE", help="What `scaleexp-analysis fit --json` wrote; or say it by hand:")
@click.option("--s-min", type=float, metavar="STEPS", help="Steps with an unboundedly large batch.")
@click.option("--b-crit", type=float, metavar="SAMPLES", help="Critical batch size.")
@click.option("--s-min-interval", metavar="LOW:HIGH", help="95 % interval of it.")
@click.option("--b-crit-interval", metavar="LOW:HIGH", help="95 % interval of it.")
@click.option("--workers", default="1:4096", show_default=True, help="A list, or the powers of two of a range.")
@shared_options
def frontier_command(as_json: bool, workers: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Workers against time and cost: the best worker batch of each, what is lost to what, and which to take."""
    from scaleexp.errors import ConfigError
    from scaleexp.simulate.asked import inputs, of_options, times_of
    from scaleexp.simulate.decision import decide, document
    from scaleexp.simulate.frontier_text import frontier_text
    from scaleexp.simulate.quantities import worker_counts

    asked, counts = of_options(options), worker_counts(workers, "--workers")
    curve = _curve(**options)
    found = times_of(asked, curve)
    if found is None:
        raise ConfigError(
            "nothing says what a step takes: give --model (from `scaleexp simulate fit`), --step-time with "
            "--worker-batch, or --hardware with --parameters."
        )
    made = decide(inputs(asked, curve, found, counts, "worker"))
    click.echo(
        json.dumps(document(made), indent=1, allow_nan=False) if as_json else frontier_text(made, terminal_width())
    )


def terminal_width() -> int:
    """Columns of this terminal, or enough for everything where there is none."""
    from shutil import get_terminal_size

    return get_terminal_size().columns if sys.stdout.isatty() else _PIPED


def _curve(
    curve: str | None,
    s_min: float | None,
    b_crit: float | None,
    s_min_interval: str | None,
    b_crit_interval: str | None,
    target: float | None,
    group: tuple[str, ...],
    **_: Any,  # noqa: ANN401 - the other options
) -> GivenCurve:
    from scaleexp.errors import ConfigError
    from scaleexp.simulate.fits_file import of_document, read_fits
    from scaleexp.simulate.given_curve import by_hand
    from scaleexp.simulate.quantities import positive, two_ends

    if curve:
        if s_min is not None or b_crit is not None:
            raise ConfigError("--curve and --s-min with --b-crit both say what the curve is: give one of them.")
        return of_document(read_fits(curve), curve, target=target, group=group)
    if s_min is None or b_crit is None:
        raise ConfigError("nothing says how steps fall with the batch: give --curve, or --s-min and --b-crit.")
    positive(s_min, "--s-min")
    positive(b_crit, "--b-crit")
    ends = [
        two_ends(text, name) if text else (None, None)
        for text, name in ((s_min_interval, "--s-min-interval"), (b_crit_interval, "--b-crit-interval"))
    ]
    return by_hand(s_min, b_crit, ends[0], ends[1])
