"""The command `scaleexp-analysis`: read a study directory, fit, draw, report.

Data goes to stdout, messages to stderr. Exit codes are those of `scaleexp.errors`. Whatever takes time to import is
imported inside a command, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from analysis.cmd_compare import compare_command
from analysis.cmd_export import export_command
from analysis.cmd_fit import fit
from analysis.cmd_page import page
from analysis.cmd_scaling import scaling
from analysis.defaults import CONFIDENCE
from scaleexp import schema
from scaleexp.errors import ConfigError, InterruptedStudyError, ScaleexpError
from scaleexp.redact import redact

Command = Callable[..., None]

_BESIDE = "SOURCE/report, or ./scaleexp-results/NAME/report where SOURCE is on an object store,"

_source = click.argument("source")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
_metric = click.option("--metric", help="Metric of the target; the plan's first if left out.")
_target = click.option("--target", type=float, help="Value of the metric; the hardest planned one if left out.")


def _interval_options(command: Command) -> Command:
    confidence = click.option(
        "--confidence", type=float, default=CONFIDENCE, show_default=True, help="Of every interval."
    )
    seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
    return confidence(seed(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="scaleexp")
def cli() -> None:
    """Critical batch size, noise scale and learning-rate rules from a study's log; needs neither ray nor torch."""


cli.add_command(fit)
cli.add_command(scaling)


@cli.command()
@_source
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help=f"Directory; {_BESIDE} if left out.")
@_target
@_metric
@_interval_options
@_json
def plot(
    source: str,
    out: Path | None,
    target: float | None,
    metric: str | None,
    confidence: float,
    seed: int,
    as_json: bool,
) -> None:
    """Draw every figure of SOURCE, a study directory or a frontier's JSON, as PNG and SVG."""
    from analysis.frontier_file import is_frontier_file
    from analysis.plots import draw_all
    from analysis.study import analyse

    _check_confidence(confidence)
    if is_frontier_file(source):
        figures = {name: str(file) for name, file in _draw_frontier(source, out).items()}
        _echo({"schema_version": 1, "figures": figures}, "\n".join(figures.values()), as_json=as_json)
        return
    study = analyse(source, target=target, metric=metric, confidence=confidence, seed=seed)
    figures = {name: str(file) for name, file in draw_all(study, out or _beside(source)).items()}
    _echo({"schema_version": 1, "figures": figures}, "\n".join(figures.values()), as_json=as_json)


@cli.command()
@_source
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help=f"HTML file; report.html in {_BESIDE} if left out."
)
@_target
@_metric
@_interval_options
@_json
def report(
    source: str,
    out: Path | None,
    target: float | None,
    metric: str | None,
    confidence: float,
    seed: int,
    as_json: bool,
) -> None:
    """Write SOURCE, a study directory, up as one self-contained HTML file."""
    from analysis.report import write_report
    from analysis.study import analyse, answer

    _check_confidence(confidence)
    study = analyse(source, target=target, metric=metric, confidence=confidence, seed=seed)
    written = write_report(study, out or _beside(source) / "report.html")
    click.echo(answer(study), err=True)
    _echo({"schema_version": 1, "report": str(written)}, str(written), as_json=as_json)


cli.add_command(page)
cli.add_command(compare_command)
cli.add_command(export_command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; an error is one sentence on stderr."""
    try:
        code = cli.main(arguments, prog_name="scaleexp-analysis", standalone_mode=False)
    except ScaleexpError as error:
        click.echo(f"error: {redact(str(error))}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return InterruptedStudyError.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


def _echo(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else text)


def _draw_frontier(source: str, out: Path | None) -> dict[str, Path]:
    """The figures of `scaleexp simulate frontier --json`, in a directory named like it unless told otherwise."""
    from analysis.frontier_file import read_frontier
    from analysis.plot_frontier import frontier_figures
    from analysis.plots import save_figures

    return save_figures(frontier_figures(read_frontier(source)), out or Path(source).with_suffix(""))


def _beside(source: str) -> Path:
    """Directory for what is drawn and written: in the study's own, or a local one for a study on an object store."""
    from scaleexp.storage import Store

    return (Store(source).results if "://" in source else Path(source)) / schema.REPORT_DIR


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"--confidence must lie between 0 and 1, got {confidence:g}; {CONFIDENCE:g} is usual.")
