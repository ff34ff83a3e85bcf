"""`scaleexp-analysis export`: a study's rows for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from analysis.export.exported import Exported, Format

_FORMATS = ("csv", "parquet", "tensorboard", "mlflow")


@click.command("export")
@click.argument("source")
@click.option(
    "--to", "to", type=click.Choice(_FORMATS), required=True, help="Tables, event files, or a tracking directory."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory; SOURCE/export/FORMAT, or ./scaleexp-results/NAME/export/FORMAT where SOURCE is on an object "
    "store, if left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; its schema ships in analysis/schemas.")
def export_command(source: str, to: Format, out: Path | None, as_json: bool) -> None:
    """Write the rows of SOURCE, a study directory, for other tools.

    csv and parquet give one table each of steps, evaluations and trials; tensorboard one directory of event files per
    trial, and mlflow one run per trial, both over optimizer steps. Exporting again adds only what is new.
    """
    from analysis.export import export
    from analysis.output import json_safe
    from analysis.read import load
    from scaleexp.storage import Store

    log = load(source)
    done = export(log, to, out or Store(source).results / "export" / to)
    for sentence in done.left_out:
        click.echo(sentence, err=True)
    document = {"schema_version": 1, **json_safe(done)}
    click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else _told(done))


def _told(done: Exported) -> str:
    """What was written and how to open it."""
    from analysis.wording import count

    names = {"trials": "trials", "steps": "steps", "evals": "evaluations", "layers": "rows of layers"}
    order = [table for table in names if table in done.rows]
    held = ", ".join(f"{count(done.rows[t])} {names[t]}" for t in order)
    new = ", ".join(f"{count(done.added[t])} {names[t]}" for t in order if done.added[t])
    news = "all new" if done.rows == done.added else f"new: {new}" if new else "nothing new"
    return f"{done.study}: {held}; {news}\n{done.out}\n{_hint(done)}"


def _hint(done: Exported) -> str:
    if done.format == "tensorboard":
        return f"open: tensorboard --logdir {done.out}"
    if done.format == "mlflow":
        return f"open: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {done.out}"
    return f"columns and units: {done.out / 'README.md'}"
