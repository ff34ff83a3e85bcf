"""`scaleexp simulate`: step times at numbers of workers that were not tried, from those that were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _measurements(command: F) -> F:
    where = "CSV with columns workers, nodes, worker_batch, step_time_s; or what a study or `scaleexp probe` wrote."
    command = click.option("--measurements", "source", required=True, metavar="FILE|STUDY|PROBE", help=where)(command)
    by = "Column that tells models apart, each fitted by itself; several: A,B."
    return click.option("--group-by", metavar="COL", default="", help=by)(command)


def _as_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in scaleexp/schemas.")(
        command
    )


@click.group("simulate")
def simulate() -> None:
    """Predict the step time at numbers of workers that were not tried, from those that were.

    \b
    scaleexp simulate validate --measurements steps.csv --train 'nodes<=2'      how far off would it be?
    scaleexp simulate fit      --measurements steps.csv --out model.json
    scaleexp simulate predict  --model model.json --at workers=32,nodes=8,worker_batch=64
    """  # noqa: D301  # click's own mark for lines that stay as they are


@simulate.command("fit")
@_measurements
@click.option("--out", required=True, metavar="FILE", help="Where the model goes, as JSON.")
@click.option(
    "--hardware",
    metavar="NAME|FILE",
    help="Its links and the column grad_bytes tell what communication should cost where few rows do.",
)
@_as_json
def fit_command(source: str, group_by: str, out: str, hardware: str | None, as_json: bool) -> None:
    """Fit a model of step times to measurements.

    Optional columns: accumulation_steps, sync_time_s (of a step: communication that nothing hid, and waiting),
    grad_bytes, parallelism (ddp or fsdp). A table of throughput will do, with
    throughput, gpus, and batch_per_gpu, grad_accum, global_batch, nodes where known.
    """
    from scaleexp.hardware_profile import read_hardware
    from scaleexp.simulate.documents import fit_text
    from scaleexp.simulate.fitting import fit_groups
    from scaleexp.simulate.link_priors import informed
    from scaleexp.simulate.model_file import model_document
    from scaleexp.simulate.sources import read_source
    from scaleexp.simulate.step_time import StepTimeModel
    from scaleexp.simulate.tables import grouped

    columns = _columns(group_by)
    groups = grouped(read_source(source), columns)
    if hardware:
        groups = informed(groups, read_hardware(hardware))
    model = StepTimeModel(groups=fit_groups(groups), group_by=columns)
    model.save(out)
    document = model_document(model.groups, model.group_by)
    click.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else fit_text(model))
    click.echo(f"The model is in {out}. Next: scaleexp simulate predict --model {out} --at workers=...", err=True)


@simulate.command("predict")
@click.option("--model", "path", required=True, metavar="FILE", help="What `simulate fit` wrote.")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="A=B,...",
    help="workers=32,nodes=8,worker_batch=64; also accumulation_steps, and the group where there are several.",
)
@click.option("--csv", "table", metavar="FILE", help="Or a CSV with these columns, a row for each.")
@_as_json
def predict_command(path: str, places: tuple[str, ...], table: str | None, as_json: bool) -> None:
    """Predict step times, each with its interval, and say where it is extrapolated or refused."""
    from scaleexp.errors import ConfigError
    from scaleexp.simulate.asking import asked_at, asked_of
    from scaleexp.simulate.documents import prediction, predictions_document, predictions_text
    from scaleexp.simulate.step_time import StepTimeModel
    from scaleexp.simulate.tables import read_table

    model = StepTimeModel.load(path)
    asked = [asked_at(place, model.group_by) for place in places]
    if table:
        asked += [asked_of(row, model.group_by) for row in read_table(table, step_times=False)]
    if not asked:
        raise ConfigError("say where: --at workers=32,nodes=8,worker_batch=64, or --csv FILE")
    found = [prediction(model, numbers, group) for numbers, group in asked]
    click.echo(
        json.dumps(predictions_document(found), indent=1, allow_nan=False) if as_json else predictions_text(found)
    )


@simulate.command("validate")
@_measurements
@click.option("--train", metavar="COND", help="Rows to fit, as 'nodes<=4' or 'workers<=8,placement!=22'.")
@click.option("--test", metavar="COND", help="Rows to predict, of those not fitted; all of them if left out.")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Or fit a random fraction.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of that fraction.")
@_as_json
def validate_command(
    source: str, group_by: str, train: str | None, test: str | None, fraction: float | None, seed: int, as_json: bool
) -> None:
    """Predict measured step times that were held out, and say how far off the predictions are.

    Beside the model stand two that need none: throughput that grows with workers from the largest measured run, and
    computation that costs the same on any number of workers.
    """
    from scaleexp.errors import ConfigError
    from scaleexp.simulate.documents import validation_document, validation_text
    from scaleexp.simulate.sources import read_source
    from scaleexp.simulate.validation import split, validate

    if (train is None) == (fraction is None):
        raise ConfigError("say which rows to fit: either --train 'nodes<=4' or --fraction 0.2")
    trained, tested = split(read_source(source), train, test, fraction, seed)
    found = validate(trained, tested, _columns(group_by))
    document = validation_document(found)
    click.echo(json.dumps(document, indent=1, allow_nan=False) if as_json else validation_text(found))


def _columns(group_by: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in group_by.split(",") if name.strip())
