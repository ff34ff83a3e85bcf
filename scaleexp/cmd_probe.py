"""The command `probe`: what a step costs on this hardware."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click


@click.command("probe")
@click.argument("study")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a field of the study; YAML.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="The most real workers.")
@click.option(
    "--within",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=5.0,
    show_default=True,
    help="Percent of the best throughput that may be given up for a smaller batch.",
)
@click.option("--rounds", type=click.IntRange(5, 1000), default=11, show_default=True, help="Repeats of each timing.")
@click.option("--up-to", type=click.IntRange(min=1), default=16384, show_default=True, help="Largest batch timed.")
@click.option("--memory", "memory_gb", type=float, metavar="GB", help="That a worker may take; half of what is free.")
@click.option("--out", metavar="DIR", help="Where it is written.  [default: ./scaleexp-results/NAME-probe]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in scaleexp/schemas.")
def probe_command(
    study: str,
    overrides: Sequence[str],
    workers: int,
    within: float,
    rounds: int,
    up_to: int,
    memory_gb: float | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Measure steps of STUDY on this machine: time and memory against worker batch, and real workers side by side.

    Real workers (--workers 2) are processes of this machine, one core or GPU each; what they show is for `scaleexp
    simulate fit --measurements DIR`, whose model `scaleexp advise --model` takes.
    """
    from scaleexp.config import load_study
    from scaleexp.errors import ConfigError
    from scaleexp.launch.opening import prepare
    from scaleexp.probe.files import write
    from scaleexp.probe.findings import document
    from scaleexp.probe.measure import measure
    from scaleexp.probe.saying import text
    from scaleexp.simulate.quantities import positive

    positive(memory_gb, "--memory")
    prepared = prepare(load_study(study, overrides))
    if prepared.workload is None:
        raise ConfigError(
            f"a probe steps a workload, and {prepared.study.name} trains by a script of its own "
            f"({prepared.study.script}): time its steps on a few numbers of workers and give them, as a CSV, to "
            "`scaleexp simulate fit`."
        )
    found = measure(
        prepared.study,
        prepared.workload.n_train,
        workers=workers,
        rounds=rounds,
        largest=up_to,
        memory_bytes=None if memory_gb is None else memory_gb * 1e9,
        say=lambda line: click.echo(line, err=True),
    )
    made = document(prepared.study, prepared.unit, found, within / 100)
    directory = Path(out or Path("scaleexp-results") / f"{prepared.study.name}-probe")
    write(directory, made, found.all_reduce)
    click.echo(json.dumps(made, indent=1, allow_nan=False) if as_json else text(made))
    click.echo(f"It is in {directory}.{_next(directory, workers)}", err=True)


def _next(directory: Path, workers: int) -> str:
    if workers == 1:
        return " With --workers 2 it measures communication, too."
    return f" Next: scaleexp simulate fit --measurements {directory} --out model.json"
