"""`scaleexp-analysis compare`: two studies, or two targets of one."""

from __future__ import annotations

import json

import click

from analysis.defaults import CONFIDENCE


@click.command("compare")
@click.argument("a")
@click.argument("b", required=False)
@click.option(
    "--target",
    "targets",
    type=float,
    multiple=True,
    help="One for both, or two: A's, then B's; the hardest that both have if left out.",
)
@click.option("--metric", help="Metric of the target; the plans' first if left out.")
@click.option("--confidence", type=float, default=CONFIDENCE, show_default=True, help="Of every interval.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def compare_command(
    a: str,
    b: str | None,
    targets: tuple[float, ...],
    metric: str | None,
    confidence: float,
    seed: int,
    as_json: bool,
) -> None:
    """Compare A and B, two study directories, or A at two targets.

    How their recipes differ, the critical batch size of each, their ratio with its interval, and whether it says that
    they differ, agree, or that the data do not say.
    """
    from analysis.compare import compare
    from analysis.compare_text import compare_document, compare_text
    from scaleexp.errors import ConfigError

    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"--confidence must lie between 0 and 1, got {confidence:g}; 0.95 is usual.")
    found = compare(a, b, targets=targets, metric=metric, confidence=confidence, seed=seed)
    document = compare_document(found)
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else compare_text(found))
